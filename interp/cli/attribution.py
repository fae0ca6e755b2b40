"""The verbs `interp lens`, `interp patch` and `interp graph`: what inner layers say, and what computes an answer."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt

from interp.cli._options import ChatOptions, Device, Json, Model, named_values, repeated
from interp.core.config import Config
from interp.core.display import print_table, print_values, say
from interp.core.errors import InterpError, nearest, note
from interp.core.files import require_free

Kind = Literal["logit", "tuned", "jacobian"]
Colour = Literal["probability", "entropy"]
PlaceKind = Literal["position", "head", "site", "neuron", "pattern", "latent"]
MetricName = Literal["logit_difference", "log_probability", "kl"]


class LensOptions(Config):
    """What to read, with which lens, and where to draw it."""

    text: str = Field(description="prompt that is read, token by token")
    kind: Kind | None = Field(None, description="logit, tuned or jacobian [default: that of --lens, or logit]")
    lens: Path | None = Field(None, description="folder or file of a tuned or a Jacobian lens (lens fit makes one)")
    sites: tuple[str, ...] = repeated("site or pattern to read [default: resid_post.*, or where the lens was fitted]")
    top: int = Field(10, ge=1, description="likeliest tokens kept at each place")
    as_chat: bool = Field(False, description="render the text as a user message with the chat template")
    colour: Colour = Field("probability", description="colour of the cells: probability or entropy")
    accept: tuple[str, ...] = repeated("what an error about another tool's lens names, to accept as it is")
    page: Path | None = Field(None, description="new HTML file with the picture: layers × tokens")
    chat: ChatOptions = ChatOptions()


def lens_command(model: Model, options: LensOptions, device: Device = None, as_json: Json = False) -> None:
    """Show what each layer's residual stream says comes next, at every token of a text."""
    from interp.attribution.lens import Lens
    from interp.models.loading import load

    if options.page:
        require_free(options.page)
    if options.kind in ("tuned", "jacobian") and options.lens is None:
        raise InterpError(f"a {options.kind} lens is fitted to a model; give --lens FOLDER (interp lens fit makes one)")
    hooked = load(model, device=device, **options.chat.loading)
    lens = Lens.load(options.lens, hooked, options.accept) if options.lens else Lens()
    if options.kind not in (None, lens.kind):
        raise InterpError(f"{options.lens} is a {lens.kind} lens, not a {options.kind} one; leave --kind out")
    prompt = _prompt(hooked, options.text, options.as_chat)
    reading = lens.read(hooked, prompt, options.sites or None, options.top)
    if options.page:
        from interp.views.report_page import Report, write_report

        title = f"What a {lens.kind} lens reads in {hooked.name}"
        write_report(Report(title, hooked.reference, lens=reading, lens_colour=options.colour), options.page)
    if as_json:
        places = [{"token": token, "read": reading.rows(place)} for place, token in enumerate(reading.tokens)]
        print_values(True, {"kind": lens.kind, "positions": places})
        return
    rows = reading.rows()
    for row in rows:
        row["next"] = ", ".join(f"{word!r} {chance:.2f}" for word, chance in row["next"][:3])
    print_table(False, rows, f"{lens.kind} lens after {reading.tokens[-1]!r}; entropy and KL from the model in nats")


class FitOptions(Config):
    """Which lens to fit, on what, and where to write it."""

    out: Path = Field(description="new folder for the lens")
    kind: Literal["tuned", "jacobian"] = Field("tuned", description="tuned or jacobian")
    text: str | None = Field(None, description="corpus: file, folder, glob, dataset (hf:NAME), or organism")
    store: str | None = Field(None, description="tuned: store of activations to fit on, in place of --text")
    held_out: str | None = Field(None, description="corpus on which the lens is compared with the logit lens")
    sites: tuple[str, ...] = repeated("site or pattern to fit at [default: resid_post.*]")
    steps: int = Field(250, ge=0, description="tuned: steps of Adam")
    lr: float = Field(1e-3, gt=0, description="tuned: learning rate of the first step")
    batch_size: int | None = Field(None, ge=1, description="tokens per step, or rows of a Jacobian per backward pass")
    prompts: int = Field(100, ge=1, description="jacobian: documents to average over")


def fit_command(model: Model, options: FitOptions, device: Device = None, as_json: Json = False) -> None:
    """Fit a tuned or a Jacobian lens to a model and save it."""
    from interp.activations.store import Store
    from interp.attribution.fitted_lenses import fit_jacobian_lens, fit_tuned_lens
    from interp.attribution.lens import Lens
    from interp.models.loading import load

    require_free(options.out)
    if (options.text is None) == (options.store is None) or (options.kind == "jacobian" and options.text is None):
        raise InterpError("give one of --text CORPUS and --store FOLDER; a Jacobian lens is fitted to text")
    source: Any = Store.open(options.store) if options.store else _corpus(str(options.text), "train")
    hooked, sites = load(model, device=device), options.sites or "resid_post.*"
    held_out = _corpus(options.held_out, "test") if options.held_out else []
    before = Lens().divergence(hooked, held_out, sites) if held_out else {}
    fit, names = (fit_tuned_lens, ["steps", "lr"]) if options.kind == "tuned" else (fit_jacobian_lens, ["prompts"])
    lens = fit(hooked, source, sites, **options.model_dump(include={*names, "batch_size"}, exclude_none=True))
    after = lens.divergence(hooked, held_out, sites) if held_out else {}
    lens.save(options.out)
    rows = [{"site": str(site), "logit lens": before[site], f"{lens.kind} lens": after[site]} for site in after]
    if as_json:
        print_values(True, {"lens": str(options.out), "kind": lens.kind, "held_out": rows})
        return
    print_table(False, rows, f"{options.out}: {lens}" + "; KL from the model, nats, on held-out text" * bool(rows))


class PatchOptions(Config):
    """Which pairs to compare, where to patch and how, and what to write."""

    pairs: str = Field(description="JSONL of clean, corrupt and, if known, answer and wrong; or organism.BEHAVIOUR")
    sites: tuple[str, ...] = repeated("site or pattern to patch [default: resid_pre.*, or that of --sae]")
    by: PlaceKind | None = Field(
        None, description="what a place is: position, head, site, neuron, pattern or latent [default: position]"
    )
    positions: tuple[int, ...] = repeated("patch at this position only, -1 is the last token [default: all]")
    method: Literal["exact", "attribution", "integrated"] = Field(
        "exact", description="exact, or an estimate: attribution or integrated"
    )
    steps: int = Field(8, ge=1, description="integrated: runs between both prompts")
    correction: tuple[Literal["qk_fix", "grad_drop"], ...] = repeated("attribution: qk_fix (q and k) or grad_drop")
    sae: Path | None = Field(None, description="folder of an autoencoder, whose latents and error are places")
    noise: bool = Field(False, description="put corrupt activations into the clean run, not clean into corrupt")
    align_ends: bool = Field(False, description="where lengths differ, align what both prompts begin and end with")
    drop: bool = Field(False, description="leave out pairs whose clean run does not prefer the answer")
    metric: MetricName | None = Field(
        None, description="logit_difference, log_probability or kl [default: by the answers that the pairs have]"
    )
    top: int = Field(10, ge=1, description="places that are listed")
    out: Path | None = Field(None, description="new JSON file with the effects (Patching.load reads it)")
    page: Path | None = Field(None, description="new HTML file with heat maps, pairs, and the places with most effect")
    chat: ChatOptions = ChatOptions()


def patch_command(model: Model, options: PatchOptions, device: Device = None, as_json: Json = False) -> None:
    """Put activations of one prompt's run into another's, a place at a time, and measure what that restores."""
    from interp.attribution.comparison import Comparison
    from interp.attribution.patching import patch
    from interp.models.loading import load
    from interp.sae.coder import SparseAutoencoder

    for path in filter(None, (options.out, options.page)):
        require_free(path)
    if options.out and options.page and options.out.resolve() == options.page.resolve():
        raise InterpError(f"--out and --page are both {options.out}; give the page a file of its own")
    given: dict[str, Any] = {"convention": "noise"} if options.noise else {}
    given |= {"alignment": "ends"} if options.align_ends else {}
    planted = options.pairs.startswith("organism.")
    read = Comparison.of_organism if planted else Comparison.read
    comparison = read(options.pairs.removeprefix("organism."), **given)
    if options.metric:
        comparison = replace(comparison, metric=_metric(options.metric, comparison.metric))
    hooked = load(model, device=device, **options.chat.loading)
    result = patch(
        hooked,
        comparison.on(hooked, drop=options.drop),
        options.sites or None,
        options.by,
        options.method,
        positions=options.positions or None,
        sae=SparseAutoencoder.load(options.sae, hooked) if options.sae else None,
        steps=options.steps,
        corrections=options.correction,
    )
    if options.out:
        result.save(options.out)
    if options.page:
        from interp.views.report_page import Report, write_report

        write_report(Report(f"Patching {hooked.name}", hooked.reference, patching=result), options.page)
    rows = result.rows(options.top)
    if as_json:
        agreement = {"spearman": result.agreement.spearman} if result.agreement else {}
        print_values(True, {"pairs": len(result.pairs), "method": result.method, "top": rows} | agreement)
        return
    print_table(False, rows, f"{result.method} patching: 0 is the corrupt run, 1 the clean one")
    if result.agreement:
        say(str(result.agreement))


def _prompt(model: Any, text: str, as_chat: bool) -> Any:
    """A prompt as a user message, or as it is, with a note where a chat model gets plain text."""
    from interp.models.tokens import lack_template

    if as_chat:
        return model.chat(text)
    if lack_template(text, model.tokenizer):
        note(f"{model.name} is a chat model, and the text is read without its chat template; --as-chat renders it")
    return model.tokens(text, chat=False)


def _metric(name: MetricName, given: Any) -> Any:
    """A metric of the answers that another one has."""
    from interp.attribution.metrics import KLToClean, LogitDifference, LogProbability

    if name == "kl":
        return KLToClean()
    if name == "log_probability":
        return LogProbability(given.answers)
    return LogitDifference(given.answers, given.wrong)


def _corpus(text: str, split: Literal["train", "test"]) -> Any:
    """A corpus that can be read more than once: a source, or documents of the organism's."""
    from interp import organism

    return list(organism.corpus(2000, split=split)) if text == "organism" else text


class GraphOptions(Config):
    """What to trace, with which transcoders, and where to write the graph."""

    transcoders: str = Field(
        description="folder of transcoders: of interp, SAELens, sparsify or circuit-tracer; or organism"
    )
    prompt: str = Field(description="prompt whose next token is traced")
    out: Path = Field(description="new folder for graph.json, graph-metadata.json and graph.html")
    target: tuple[str, ...] = repeated("token whose logit is traced [default: the likeliest ones]")
    as_chat: bool = Field(False, description="render the prompt as a user message with the chat template")
    node_share: float = Field(0.8, gt=0, le=1, description="share of influence to which nodes are kept")
    edge_share: float = Field(0.98, gt=0, le=1, description="share of influence to which edges are kept")
    rules: Literal["complete", "circuit-tracer"] = Field(
        "complete", description="MLP outputs at the first token: error nodes (complete) or no nodes (circuit-tracer)"
    )
    features: tuple[Path, ...] = repeated("feature book of transcoders, for labels and examples of latents")
    label: tuple[str, ...] = repeated("label of a node in graph.html, as NODE=TEXT, such as 2_17_5=rivers")
    memory: str = Field("4GB", description="most that the graph may take; a larger one is refused")
    text: str | None = Field(None, description="corpus in which the kept latents' top tokens are found, or organism")
    tokens: PositiveInt = Field(20_000, description="tokens of the corpus")
    chat: ChatOptions = ChatOptions()


def graph_command(model: Model, options: GraphOptions, device: Device = None, as_json: Json = False) -> None:
    """Trace which latents of transcoders the next token is computed by, and ablate each that is kept."""
    from interp import organism
    from interp.attribution.graphs.tracer import trace_graph
    from interp.attribution.graphs.transcoders import load_transcoders
    from interp.features import Book
    from interp.models.loading import load
    from interp.views.attribution_graph_page import graph_page

    require_free(options.out)
    labels = named_values(options.label, "--label", "NODE=TEXT, such as 2_17_5=rivers")
    if wrong := [node for node in labels if not re.fullmatch(r"(E|\d+)_(-1|\d+)_\d+", node)]:
        raise InterpError(f"--label {wrong[0]!r} is no node; expected layer_number_position, such as 2_17_5")
    hooked = load(model, device=device, **options.chat.loading)
    prompt = _prompt(hooked, options.prompt, options.as_chat)
    settings = options.model_dump(include={"node_share", "edge_share", "rules", "memory"})
    folder = organism.transcoders() if options.transcoders == "organism" else options.transcoders
    transcoders = load_transcoders(folder, hooked)
    books = [Book.open(folder) for folder in options.features]
    graph = trace_graph(hooked, transcoders, prompt, options.target or None, **settings)
    corpus = None if options.text is None else _corpus(options.text, "train")
    features = {} if corpus is None else graph.features(hooked, corpus, tokens=options.tokens)
    for book in books:
        features |= graph.book_features(book)
    payload = graph.payload(options.out.name, features)
    payload["metadata"]["transcoder_list"] = [Path(options.transcoders).absolute().name]
    kept = {node["node_id"] for node in payload["nodes"]}
    for node in [node for node in labels if node not in kept]:
        note(f"--label {node}: no kept node has this id; {nearest(node, kept)}")
    page = graph_page(payload, labels={node: text for node, text in labels.items() if node in kept})
    graph.save(options.out, payload, page)
    print_values(as_json, {str(row[0]): row[1] for row in graph._card()[1]} | {"out": str(options.out)})
