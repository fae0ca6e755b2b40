"""The verbs `interp sae`, autoencoders, and `interp features`, books of what latents mean."""

from dataclasses import asdict
from functools import partial
from math import nan
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from interp.auditing.autoencoders.options import BenchOptions
from interp.cli._options import (
    Device,
    Json,
    Numbers,
    WorkOptions,
    describing_machine,
    repeated,
)
from interp.core.config import Config
from interp.core.display import brief, plural, print_table, print_values, say
from interp.core.errors import InterpError, note
from interp.core.files import require_free
from interp.features.descriptions.options import DescribeOptions
from interp.features.scanning.options import ScanOptions

Folder = Annotated[Path, typer.Argument(help="feature book, written by interp features scan")]


class TrainOptions(Config):
    """Which sites of which store to train on, and where the results go."""

    site: tuple[str, ...] = repeated("site of the store to read (several train a crosscoder)", ...)
    out: Path = Field(description="new folder for the autoencoder")
    writes: tuple[str, ...] = repeated("site to predict (trains a transcoder)")
    beside: str | None = Field(None, description="second model's store of the same tokens (for a crosscoder of both)")
    run: Path | None = Field(None, description="folder for metrics and checkpoints; an interrupted run resumes")
    checkpoint_every: int = Field(500, description="steps between the checkpoints of a run")
    processes: int = Field(1, description="processes that share the latents (needs --run)")
    overwrite: bool = Field(False, description="replace an autoencoder at --out, and start a run at --run anew")
    verify: bool = Field(True, description="verify the store's checksums first")
    model: str | None = Field(None, description="refuse a store that was not harvested from this model")


class ConvertOptions(Config):
    """Where to write, in which format, and what the source's files may not say."""

    out: Path = Field(description="new folder")
    to: str = Field("interp", description="format: interp, saelens, sparsify, dictionary_learning or gemma_scope")
    model: str | None = Field(None, description="model that it was trained on; not needed for interp's format")
    site: str | None = Field(None, description="site that it reads, if its files do not say")
    writes: str | None = Field(None, description="site that a transcoder writes, if its files do not say")
    accept: tuple[str, ...] = repeated("key that an error names (such as model_name), to accept as it is")


def train_command(
    store: Annotated[str, typer.Argument(help="store written by interp harvest, or its URL")],
    options: TrainOptions,
    settings: Annotated[list[str] | None, typer.Argument(help="training settings, such as d_sae=4096 k=32")] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Train a sparse autoencoder on a store of activations."""
    from interp.activations.columns import parse_sites
    from interp.activations.paired_store import PairedStore
    from interp.activations.store import Store
    from interp.models.loading import load
    from interp.sae.coder import SparseAutoencoder
    from interp.sae.config import SaeConfig
    from interp.sae.file_formats import CARD
    from interp.sae.training.latent_shard import LatentShard, launch
    from interp.sae.training.run_folder import last_point
    from interp.sae.training.trainer import train

    require_free(options.out, CARD, options.overwrite)
    config = SaeConfig.of(settings or [], source="sae train")
    activations = Store.open(store, options.verify)
    if options.model:
        activations.require(load(options.model))
    if options.processes == 1:
        trained = train(
            PairedStore(activations, Store.open(options.beside, options.verify)) if options.beside else activations,
            options.site,
            config,
            writes=options.writes or None,
            folder=options.run,
            checkpoint_every=options.checkpoint_every,
            device=device or "cpu",
            overwrite=options.overwrite,
        )
        sae, last = trained.sae, trained.history[-1]
    else:
        LatentShard(0, options.processes).require(config)  # here, where it is said once
        activations.places([site for given in (options.site, options.writes or ()) for site in parse_sites(given)])
        shared = {"site", "writes", "beside", "run", "checkpoint_every", "overwrite"}
        launch(options.processes, store, settings or [], device=device, **options.model_dump(include=shared))
        sae, last = SparseAutoencoder.load(f"{options.run}/sae"), last_point(f"{options.run}")
    sae.save(options.out, options.overwrite)
    metrics = {"tokens": last.tokens, "fvu": last.fvu, "l0": last.l0, "dead": last.dead}
    print_values(as_json, _description(sae, options.out) | metrics)


def convert_command(
    source: Annotated[Path, typer.Argument(help="autoencoder in one of the formats of --to")],
    options: ConvertOptions,
    as_json: Json = False,
) -> None:
    """Convert a sparse autoencoder from another tool's format, or to one."""
    from interp.models.loading import load
    from interp.sae import SparseAutoencoder, write_autoencoder

    require_free(options.out)
    model = load(options.model) if options.model else None
    sae = SparseAutoencoder.load(source, model, options.site, options.writes, options.accept)
    write_autoencoder(sae, options.out, options.to)
    print_values(as_json, _description(sae, options.out))


class BenchInputs(Config):
    """What an autoencoder is measured on, and where to."""

    model: str = Field(description="the model that the autoencoders were trained on")
    out: Path = Field(description="folder for the results, one folder an autoencoder; a bench that was stopped resumes")
    text: str = Field("organism", description="corpus to measure on, as for interp harvest")
    store: str | None = Field(None, description="store to train the controls on [default: nine tenths of the text]")
    sets: tuple[str, ...] = repeated("labelled set to probe, as NAME=FILE:TEXT:LABEL=VALUE[:GROUP][:POOL]")
    endpoint: str | None = Field(None, description="base URL of chat completions: --describer there describes latents")
    describer: str = Field("", description="model at the endpoint, or a local one, for description scores")
    key_variable: str = Field("", description="environment variable that holds the endpoint's key, which is not stored")
    quick: bool = Field(False, description="little of everything: a look, not a result")
    settings: BenchOptions = BenchOptions()


def bench_command(
    saes: Annotated[list[Path], typer.Argument(help="folders of autoencoders")],
    options: BenchInputs,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Measure autoencoders beside controls of the same cost: is an autoencoder more than chance?

    On the organism its planted concepts are probed too, and its facts edited. With --describer a machine describes
    latents, and is tested on held-out examples.
    """
    from interp.activations.store import Store
    from interp.auditing import bench_autoencoder, organism_sets, read_set
    from interp.auditing.autoencoders.fact_edits import is_organism
    from interp.models.loading import load
    from interp.pipeline.materials import corpus_source
    from interp.sae.coder import SparseAutoencoder

    given = (options.endpoint, options.describer, options.key_variable)
    machine = describing_machine(*given, device) if any(given) else None
    model, settings = load(options.model, device=device), options.settings
    settings = settings.quick() if options.quick else settings
    sets = [read_set(spec, settings.items, settings.seed) for spec in options.sets]
    sets += organism_sets(model, settings.items, settings.seed) if is_organism(model) else []
    store = Store.open(options.store) if options.store else None
    records = []
    for name, path in _named(saes).items():
        text = corpus_source(options.text, settings.tokens // 4)
        coder = SparseAutoencoder.load(path, model)
        more: dict[str, Any] = {"sets": sets, "store": store, "name": name, "machine": machine}
        records.append(bench_autoencoder(coder, model, text, options.out / name, settings, **more))
    if as_json:
        print_values(True, {record.name: record.model_dump(mode="json") for record in records})
        return
    for record in records:
        print_table(False, record.rows(), record.name)
        print_table(False, record.concept_rows(), "Concepts: F1 of the best latent") if record.concepts else None
        say(*record.notes, f"not above its control on {len(record.not_above)} of {len(record.measures)} measures")


class ScanInputs(Config):
    """What to scan, and where to."""

    out: Path = Field(description="new folder for the feature book; a scan that was stopped resumes")
    text: str | None = Field(None, description="corpus, as for interp harvest, where the source is a model")
    model: str | None = Field(None, description="the model, where the source is a store: for tokens and ablations")
    work: WorkOptions = WorkOptions()
    settings: ScanOptions = ScanOptions()


class LabelInputs(Config):
    """A label, or files of labels."""

    sae: str | None = Field(None, description="the autoencoder's name in the book; needed where there are several")
    latents: Numbers = repeated("latents to label, such as 3,5")
    label: str | None = Field(None, description="what it means, in a few words; '' withdraws the rater's label")
    verdict: str = Field("unsure", description="harmful, benign or unsure")
    note: str = Field("", description="anything else")
    rater: str = Field("", description="who says so: a person, or a model's name")
    load: Path | None = Field(
        None,
        description="labels to add: JSONL of a book, or explanations of Neuronpedia (file, export) or delphi (folder)",
    )
    save: Path | None = Field(None, description="new JSONL file for the labels that count")


class SearchInputs(Config):
    """What to search for; a latent meets all that is given."""

    text: str | None = Field(None, description="part of the text of an example, in any case")
    label: str | None = Field(None, description="part of a rater's label, in any case")
    token: str | None = Field(None, description="token that the latent promotes or suppresses")
    fires: str | None = Field(None, description="sentence that the model reads now: what fires on it, token by token")
    direction: Path | None = Field(None, description="folder of a saved direction: by cosine with a latent's rows")
    model: str | None = Field(None, description="the model of the book, for --fires")
    sae: str | None = Field(None, description="autoencoder's name in the book, or its folder where that has moved")
    count: int = Field(20, ge=1, description="most latents to show")


def scan_command(
    saes: Annotated[list[Path], typer.Argument(help="folders of autoencoders")],
    source: Annotated[str, typer.Argument(help="store of interp harvest, or its URL, or a model (with --text)")],
    options: ScanInputs,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Describe all latents of autoencoders in one pass over a text, as a feature book."""
    from interp.activations.store import Store
    from interp.data import documents
    from interp.features import scan
    from interp.models.loading import load
    from interp.pipeline.materials import corpus_source
    from interp.sae.coder import SparseAutoencoder

    require_free(options.out)
    stored = Store.is_at(source)
    if stored and options.text:
        raise InterpError(f"{source} is a store, which has its text; leave --text out")
    if not stored and (options.model or not options.text):
        raise InterpError(f"{source} is no store; as a model it needs --text, and --model goes with a store")
    paths, store = _named(saes), Store.open(source) if stored else None
    coders = {} if store is None else {key: SparseAutoencoder.load(path, store.model) for key, path in paths.items()}
    texts = corpus_source(options.text, options.settings.tokens) if options.text else None
    if isinstance(texts, str):
        next(documents(texts), None)  # raises before the model is loaded, as a store's autoencoders do
    name = options.model if stored else source
    model = load(name, device=device) if name else None
    if store is None:
        coders = {key: SparseAutoencoder.load(path, model) for key, path in paths.items()}
    where = {key: str(path.absolute()) for key, path in paths.items()}
    more: dict[str, Any] = {"source": store, "model": model} if stored else {"source": model, "texts": texts}
    book = scan(coders, out=options.out, options=options.settings, paths=where, workers=options.work.place, **more)
    silent = book.query("SELECT count(*) AS n FROM latents WHERE count = 0")[0]["n"]
    sizes = {key: sae.d_sae for key, sae in book.card.autoencoders.items()}
    print_values(as_json, {"book": str(options.out), "latents": sizes, "tokens": book.card.tokens, "silent": silent})


def _named(saes: list[Path]) -> dict[str, Path]:
    """Autoencoders by the names of their folders. Raises where one is not there, or two have one name."""
    named: dict[str, Path] = {}
    for path in saes:
        name = path.absolute().name
        if not path.exists():
            raise InterpError(f"{path}: no autoencoder is there; expected a folder of interp, SAELens or another tool")
        if name in named:
            raise InterpError(f"{path} and {named[name]} have one name, {name}; rename a folder")
        named[name] = path
    return named


def label_command(folder: Folder, options: LabelInputs, as_json: Json = False) -> None:
    """Label latents of a book, read and write labels as JSONL, and show those that count."""
    from interp.features import Book, FeatureLabel, read_tool_labels

    labels = Book.open(folder).labels
    if options.latents and options.label is None:
        raise InterpError("--latents needs --label TEXT; --label '' withdraws the rater's label")
    if options.latents:
        words = {"text": options.label, "verdict": options.verdict, "note": options.note, "rater": options.rater}
        sae = labels.card.name(options.sae)
        rows = [{"sae": sae, "latent": latent, **words} for latent in options.latents]
        labels.add([FeatureLabel.parse(row, source="options") for row in rows])
    elif options.label:
        raise InterpError(f"label {options.label!r} has no latent; give --latents")
    if options.load:
        labels.add(read_tool_labels(options.load, labels, options.sae))
    if options.save:
        labels.export(options.save)
    shown = [x.model_dump(exclude={"digest"}) for x in labels.current(options.sae)]
    if not as_json:  # what a table has room for
        shown = [x | {"scores": ", ".join(x["scores"]), "date": x["date"][:10]} for x in shown]
    try:
        alpha = labels.agreement()
    except InterpError:  # an extra is not installed
        alpha = nan
    agreement = "" if alpha != alpha else f", agreement of raters (Krippendorff's alpha) {alpha:.2f}"
    print_table(as_json, shown, f"{plural(len(shown), 'label')} in {folder}{agreement}")


def search_command(folder: Folder, options: SearchInputs, device: Device = None, as_json: Json = False) -> None:
    """Search a book: by text, label, token, what fires on a sentence, or the cosine with a direction."""
    from interp.directions.direction import Direction
    from interp.features import Book
    from interp.models.loading import load

    book, criteria = Book.open(folder), options.model_dump(exclude={"direction", "model"})
    direction = Direction.load(options.direction) if options.direction else None
    model = partial(load, options.model, device=device) if options.model else None
    found = book.search(**criteria, direction=direction, model=model)
    rows = [asdict(match) for match in found.matches]
    if as_json:
        print_values(True, {"total": found.total, "matches": rows, "firings": found.firings})
        return
    print_table(False, rows, f"{plural(found.total, 'latent')} in {folder}", narrow=True)
    fired = [
        {"token": repr(word), "latents": ", ".join(f"{name} {latent} ({x:.2f})" for name, latent, x in here[:5]) or "–"}
        for word, here in found.firings
    ]
    print_table(False, fired, "Token by token, the five strongest") if fired else None


class DescribeInputs(Config):
    """Which machine describes which latents, and what it costs."""

    endpoint: str | None = Field(None, description="base URL that speaks OpenAI's chat completions")
    model: str = Field(description="model at the endpoint; without an endpoint, a local model that is loaded")
    key_variable: str = Field("", description="environment variable that holds the endpoint's key, which is not stored")
    sae: str | None = Field(None, description="the autoencoder's name in the book; needed where there are several")
    latents: Numbers = repeated("latents to describe, such as 3,5 [default: all that fire]")
    dry_run: bool = Field(False, description="tell the number of requests and tokens; ask nothing")
    price_in: float | None = Field(None, ge=0, description="price of a million tokens of questions, for --dry-run")
    price_out: float | None = Field(None, ge=0, description="price of a million tokens of replies [default: the same]")
    timeout: float = Field(60.0, gt=0, le=3600, description="seconds per request, in total")
    retries: int = Field(3, ge=0, le=20, description="attempts after the first, with a pause that doubles")
    settings: DescribeOptions = DescribeOptions()


def describe_command(folder: Folder, options: DescribeInputs, device: Device = None, as_json: Json = False) -> None:
    """Let a machine describe latents of a book, and test what it says on held-out examples."""
    from interp.features import Book, describe, estimate_cost

    book = Book.open(folder)
    for latent in options.latents:
        book.card.require_latent(book.card.name(options.sae), latent)
    limits = (options.timeout, options.retries)
    machine = describing_machine(options.endpoint, options.model, options.key_variable, device, *limits)
    what: dict[str, Any] = {"sae": options.sae, "latents": options.latents or None}
    if options.dry_run:
        cost = estimate_cost(book, machine, options.settings, **what)
        price = {} if options.price_in is None else {"price": cost.money(options.price_in, options.price_out)}
        print_values(as_json, asdict(cost) | price)
        return
    result = describe(book, machine, options.settings, **what)
    if result.few:
        note(f"too few examples, or no silent texts, for {plural(len(result.few), 'latent')}: {brief(result.few)}")
    if as_json:
        labels = [x.model_dump(include={"sae", "latent", "text"}) | {"scores": x.scores} for x in result.descriptions]
        left = {"few": list(result.few), "undescribed": list(result.undescribed)}
        print_values(True, {"descriptions": labels, "tests": result.rows()} | left)
        return
    tests = {test: None for x in result.descriptions for test in x.answers}
    shown = [
        {"latent": x.latent, "description": x.text} | tests | {test: score[0] for test, score in x.scores.items()}
        for x in result.descriptions
    ]
    print_table(False, shown, f"{plural(len(shown), 'latent')} described by {options.model}")
    rows = [{"test": test, "accuracy": text, "shuffled descriptions": other} for test, text, other in result.tests]
    print_table(False, rows, "Balanced accuracy on held-out texts")


def _description(sae: Any, out: Path) -> dict[str, Any]:
    return {"sae": str(out), "kind": str(sae), "d_sae": sae.d_sae, "d_in": sae.d_in, "d_out": sae.d_out}
