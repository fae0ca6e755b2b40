"""The verbs `interp harvest`, a model's activations over a corpus, and `interp find`, directions of a contrast in them.

Directions come by layer and method, with their controls.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from interp.activations.config import HarvestConfig
from interp.cli._options import ChatOptions, Device, Json, Model, Without, WorkOptions, named_values, repeated
from interp.core.config import Config
from interp.core.display import print_table, print_values, say
from interp.core.errors import InterpError, nearest
from interp.core.files import require_free


class HarvestOptions(Config):
    """What to store, of which text, and where."""

    text: str = Field(description="corpus: file, folder, glob or URL of .jsonl, .txt or .parquet; dataset; organism")
    sites: tuple[str, ...] = repeated("site or pattern to store, such as resid_post.3", ...)
    out: str = Field(description="folder or URL for the activation store; an interrupted harvest resumes")
    tokens: int | None = Field(None, ge=1, description="stop after this many tokens [default: whole corpus]")
    config: Annotated[HarvestConfig, Without(("shard_tokens", "bos_first"))] = HarvestConfig()
    field: str = Field("text", description="field of each record that holds the text or the conversation")
    bos: bool = Field(True, description="begin each text as a document of pretraining: with BOS, or a separator")
    skip_bad: bool = Field(False, description="skip records that cannot be read, instead of stopping at them")
    append: bool = Field(False, description="add this corpus to a store that is complete")
    overwrite: bool = Field(False, description="start anew where the folder holds a store")
    chat: ChatOptions = ChatOptions()
    work: WorkOptions = WorkOptions()


def harvest_command(model: Model, options: HarvestOptions, device: Device = None, as_json: Json = False) -> None:
    """Store a model's activations over a corpus.

    A corpus of the Hugging Face hub is given as --text hf:DATASET[:CONFIG[:SPLIT]].
    """
    from interp.activations.harvester import harvest
    from interp.models.loading import load
    from interp.pipeline.materials import corpus_source

    store = harvest(
        load(model, device=device, **options.chat.loading),
        # A document has at least one token, so no more documents than tokens are needed.
        corpus_source(options.text, options.tokens),
        options.sites,
        options.out,
        text_field=options.field,
        workers=options.work.place,
        **options.model_dump(include={"tokens", "skip_bad", "append", "overwrite"}),
        **options.config.model_dump() | {"bos_first": options.bos},
    )
    values = {"store": str(options.out), "tokens": len(store), "sites": [str(site) for site in store.sites]}
    print_values(as_json, values)


class FindOptions(Config):
    """Which contrast to fit, where and how, and what to write."""

    contrast: str = Field(description="JSONL file of pairs, or organism.BEHAVIOUR (for example organism.hostility)")
    columns: str | None = Field(None, description="keys of the two sides in the file: positive=toxic,negative=neutral")
    skip_bad: bool = Field(False, description="skip rows of the file that are not pairs, instead of stopping at them")
    pairs: int | None = Field(None, ge=4, description="most pairs to fit and score on, drawn at random")
    method: tuple[str, ...] = repeated(
        "diff_means, diff_means_orthogonal, logistic, ridge, lda, pca (closed_form: these six), leace, sal, inlp, "
        "sae_latent, sae_latent_attribution, steering_vector, steering_margin, reft_r1, unsupervised, or all "
        "[default: the six closed-form ones]"
    )
    sites: tuple[str, ...] = repeated("site or pattern [default: resid_post.*]")
    position: tuple[int, ...] = repeated("token of the prompt; negative counts from the end [default: -1]")
    sae: Path | None = Field(None, description="SAE folder; its best latent is added to the results")
    protect: tuple[str, ...] = repeated("NAME=FOLDER of a saved direction that the edit must not touch")
    out: Path | None = Field(None, description="new folder for the recipe that projects out the best direction")
    force: bool = Field(False, description="write --out even if the loss of text rises by more than 1 nat per token")
    page: Path | None = Field(None, description="new HTML file with a heat map (layers × methods)")
    try_: str | None = Field(None, description="rank directions by how well ablation removes this harm of the suite")
    suite: str = Field("organism", description="suite of --try: organism, public, or a YAML file of behaviours")
    data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    items: int = Field(40, ge=1, description="items per behaviour that --try measures")
    seed: int = Field(0, ge=0, description="seed of the held-out split")
    chat: ChatOptions = ChatOptions()


def find_command(model: Model, options: FindOptions, device: Device = None, as_json: Json = False) -> None:
    """Fit directions to a contrast and score them on held-out pairs."""
    from interp.models.loading import load

    for path in (options.out, options.page):
        if path:
            require_free(path)
    folders = named_values(options.protect, "--protect", "NAME=FOLDER, such as refusal=refusal-direction")
    pairs = _contrast(options)
    hooked, findings = _fit(options, pairs, folders, lambda: load(model, device=device, **options.chat.loading))
    trials = _trials(hooked, findings.shortlist(8), options, pairs) if options.try_ else []
    ranked = [trial.finding for trial in trials] or findings.best(len(findings))
    rows = [finding.row | findings.baselines_at(finding) | {"seconds": finding.seconds} for finding in ranked]
    for row, trial in zip(rows, trials, strict=False):  # without --try there are no trials
        row.update({"cost": trial.cost, options.try_: trial.after[options.try_]})
    if options.out:
        others = [finding for finding in findings.shortlist(8) if finding is not ranked[0]]
        damage = _write_recipe(options.out, options, hooked, pairs, ranked if options.try_ else [ranked[0], *others])
        rows[0] |= asdict(damage)
    if options.page:
        from interp.views.report_page import Report, write_report

        title, chosen = f"What separates {findings.contrast.name}", ranked[0] if options.try_ else None
        write_report(Report(title, hooked.reference, findings=findings, chosen=chosen), options.page)
    if as_json:
        _print_failures(findings, sys.stderr)
        print_table(True, rows, "")
        return
    print_table(False, _layers(findings), f"Held-out AUROC on {options.contrast}; * the best", narrow=True)
    best, cost = findings.shortlist(max(12, len(findings.methods))), findings.seconds
    listed = rows if options.try_ else [each.row | {"seconds": cost[each.direction.method]} for each in best]
    title = "Ranked by the effect of ablation, best first" if options.try_ else "The best of each method in turn"
    print_table(False, _cells(listed), title)
    _print_failures(findings, sys.stdout)
    if options.out:
        say(f"{options.out}: {damage}")


def _print_failures(findings: Any, file: Any) -> None:
    for fit in findings.failures:
        say(f"not fitted: {fit.method} at {fit.site}, position {fit.position}: {fit.reason}", file=file)


def _fit(options: FindOptions, pairs: Any, folders: dict[str, str], load_model: Any) -> tuple[Any, Any]:
    """The model and the findings. What is read from disk is checked before the model is loaded."""
    from interp.directions.direction import Direction
    from interp.directions.finder import find
    from interp.sae.coder import SparseAutoencoder

    protected = {name: Direction.load(folder) for name, folder in folders.items()}
    model = load_model()
    coder = SparseAutoencoder.load(options.sae, model) if options.sae else None
    places = options.sites or "resid_post.*", options.method or "closed_form", options.position or (-1,)
    return model, find(model, pairs, *places, coder, seed=options.seed, protected=protected)


def _contrast(options: FindOptions) -> Any:
    from interp.directions.contrast_source import read_contrast

    columns = None
    if options.columns is not None:
        columns = named_values(options.columns.split(","), "--columns", "name=column, such as positive=toxic")
    return read_contrast(options.contrast, options.pairs, options.seed, columns, options.skip_bad)


def _write_recipe(folder: Path, options: FindOptions, model: Any, pairs: Any, candidates: Any) -> Any:
    """Write the recipe of the first candidate; returns what it costs on the contrast's own texts."""
    from interp.auditing.damage import harmless
    from interp.interventions.affine_ops import Project
    from interp.interventions.recipe import Recipe

    sides = pairs.texts(model.render, model.chat)
    texts = [text for pair in zip(*sides, strict=True) for text in pair]
    finding, damage = harmless(model, candidates, texts, options.force)
    reason = "it separates the contrast; not tested by intervention"
    if options.try_:
        reason = f"chosen by intervention on {options.try_}"
    note = f"Projects out {finding.direction}: {reason}. On texts of the contrast: {damage}."
    Recipe([("writers", Project(finding.direction))], note=note).save(folder)
    return damage


def _layers(findings: Any) -> list[dict[str, Any]]:
    """The grid, the best findings marked; positions are shown where there are several.

    Many methods leave a terminal no room: those in closed form are shown then.
    """
    from interp.directions.fitting import CLOSED_FORM

    hidden = {*findings.methods} - {*CLOSED_FORM} if len(findings.methods) > 8 else set()
    rows = [{name: value for name, value in row.items() if name not in hidden} for row in findings.grid()]
    best, several = findings.best()[0].auroc, len({row["position"] for row in rows}) > 1
    methods = set(findings.methods)
    return [
        {
            name.replace("_", " "): f"{value:.3f}*" if name in methods and value == best else value
            for name, value in row.items()
            if several or name != "position"
        }
        for row in rows
    ]


def _cells(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Findings for the terminal, without the columns that say nothing there."""
    rows = [row | {f"cosine with {name}": value for name, value in row.get("alignment", {}).items()} for row in rows]
    constant = {name for name in ("latent", "position") if len({row[name] for row in rows}) == 1}
    hidden = {"alignment"} | constant
    return [{name: value for name, value in row.items() if name not in hidden} for row in rows]


def _trials(model: Any, candidates: Any, options: FindOptions, pairs: Any) -> Any:
    """The candidates ranked on a harm of the suite, and on what else the suite has or, of the public one, text loss."""
    from interp.auditing import suites
    from interp.auditing.ablation_trials import rank_by_ablation
    from interp.auditing.public.suite import public_suite
    from interp.auditing.scoring.choices import text_loss

    target, organism = str(options.try_), options.suite == "organism"
    if options.suite == "public":
        suite = public_suite(options.items, 1, options.data, [target])
    elif organism and options.data is None:
        suite = suites.organism_suite(options.items, split="train", seed=1)
    else:
        suite = suites.suite(options.suite, options.items, 1, options.data)
    harms = [known.name for known in suite if known.kind == "harm"]
    if target not in harms:
        raise InterpError(f"--try {target!r} is not a harm of {options.suite}; {nearest(target, harms)}")
    if not organism:
        suite = [*suite, text_loss("loss of the negative side", pairs.texts(model.render, model.chat)[1])]
    return rank_by_ablation(model, candidates, suite, target)
