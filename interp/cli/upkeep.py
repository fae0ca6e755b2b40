"""The verbs of upkeep.

`interp curate`: training data scored and split. `feedback`: what raters prefer. `drift`: what changed between versions
of a model. `watch`: a ledger of audits over time. `depth`: whether a removed harm is gone.
"""

from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field

from interp.cli._options import Json, Model, WorkOptions, repeated
from interp.cli.audit import CACHE, CODES
from interp.core.config import Config
from interp.core.display import plural, print_table, print_values, say
from interp.core.errors import InterpError, nearest
from interp.core.files import require_free
from interp.upkeep.curation.options import CurationOptions, ScorerSettings
from interp.upkeep.depth.options import DepthOptions
from interp.upkeep.drift.options import DriftOptions


class CurateOptions(Config):
    """What documents are scored by, how they are split, and where to."""

    scorer: ScorerSettings
    out: Path = Field(description="new folder for the splits, the scores, the record and the page")
    labels: Path | None = Field(None, description="JSONL of labelled documents: the document, and label true or false")
    suite: str | None = Field(None, description="suite whose changes are predicted: organism, public or a YAML file")
    suite_data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    items: int = Field(50, ge=1, description="items per behaviour of the suite")
    work: WorkOptions = WorkOptions()
    splits: CurationOptions = CurationOptions()


def curate_command(
    data: Annotated[str, typer.Argument(help="corpus: .jsonl, .parquet or .txt, a folder, a glob, a URL or hf:NAME")],
    options: CurateOptions,
    as_json: Json = False,
) -> None:
    """Score training data by a direction or by latents, and split it into kept, flagged and unsure.

    To continue a curation that was stopped, run the same command again.
    """
    from interp.auditing.suites import suite
    from interp.upkeep.curation.curator import curate
    from interp.upkeep.curation.thresholds import read_labelled
    from interp.views.upkeep.curation_page import PAGE, write_curation_page

    behaviours = suite(options.suite, options.items, options.splits.seed, options.suite_data) if options.suite else []
    labels = read_labelled(options.labels, options.splits.field) if options.labels else []
    record = curate(
        data, options.scorer, options.out, options.splits, labels, behaviours, options.work.place, write_curation_page
    )
    if as_json:
        print_values(True, {name: value for name, value in asdict(record).items() if name != "worst"})
        return
    print_table(False, record.rows(), f"{record.data}: {record.duplicates:,} near-duplicates")
    say(str(record.thresholds))
    rows = [
        {"trained on": x.split, "behaviour": x.behaviour, "before": str(x.before), "after": str(x.after)}
        for x in record.changes
    ]
    print_table(False, rows, "Predicted changes") if rows else None
    say(f"open {options.out / PAGE}")


class FeedbackOptions(Config):
    """Which judgements to fit, where, and where to."""

    model: str = Field(description="organism, a local Hugging Face folder, or a hub id")
    out: Path = Field(description="new folder for the record, the adjudication file, directions and recipes")
    adjudicated: Path | None = Field(None, description="adjudication file of an earlier call, with verdicts filled in")
    sites: tuple[str, ...] = repeated("site or pattern [default: resid_post.*]")
    method: tuple[str, ...] = repeated("as in interp find [default: the six closed-form ones]")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")
    seed: int = Field(0, ge=0, description="seed of the held-out prompts and of the intervals")


def feedback_command(
    pairs: Annotated[Path, typer.Argument(help="JSONL of judgements: chosen and rejected replies, or ratings")],
    options: FeedbackOptions,
    as_json: Json = False,
) -> None:
    """Measure how far raters agree, and fit directions and recipes of what they reject."""
    from interp.models.loading import load
    from interp.upkeep.feedback.judgements import Judgements
    from interp.upkeep.feedback.preferences import fit_feedback

    require_free(options.out)
    judgements = Judgements.read(pairs, options.adjudicated)
    model = load(options.model, device=options.device)
    places = options.sites or "resid_post.*", options.method or "closed_form"
    record = fit_feedback(judgements, model, options.out, *places, options.seed)
    if as_json:
        print_values(True, asdict(record))
        return
    agreement = record.agreement
    alphas = {"all": agreement.alpha, **agreement.within, "within groups less all": agreement.excess}
    print_table(
        False, [{"raters": name, "alpha": str(alpha or "unknown")} for name, alpha in alphas.items()], "Agreement"
    )
    print_table(False, record.rows(), "Held-out separation of rejected from chosen replies")
    for fitted in record.directions:
        cosines = "".join(f", cosine {value:.2f} with {name}" for name, value in fitted.cosine.items())
        say(f"{fitted.group}{cosines}: its recipe costs: {fitted.damage}")
    for names, (count, of) in record.opposed.items():
        say(f"{names} have opposite verdicts on {count} of {of} comparisons")
    say(f"{record.undecided} comparisons to adjudicate in {options.out}")


class SuiteOptions(Config):
    """What is measured of each model, and how models are loaded."""

    suite: str = Field(description="suite of behaviours: organism, public or a YAML file")
    items: int = Field(200, ge=1, description="items per behaviour")
    data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    cache: Path | None = Field(None, description=f"folder of cached scores [default: {CACHE} next to the output]")
    dtype: str | None = Field(None, description="dtype of the models: float32, bfloat16 or float16 [default: float32]")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")


class SeriesOptions(Config):
    """What is compared, on which text, by what, and where to."""

    measured: SuiteOptions
    text: str = Field(description="corpus that is read inside: .jsonl, .parquet or .txt, a folder, a glob or a URL")
    out: Path = Field(description="new folder for the record, the audits and the page")
    direction: tuple[Path, ...] = repeated("folder of a saved direction of the first model")
    sae: Path | None = Field(None, description="folder of an autoencoder of the first model")
    against: str | None = Field(None, description="policy that decides: a YAML file, release or targeted")
    drift: DriftOptions = DriftOptions()


def drift_command(
    models: Annotated[list[str], typer.Argument(help="the first model, and one or more later ones")],
    options: SeriesOptions,
    as_json: Json = False,
) -> None:
    """Compare versions of a model with the first, outside and inside. With --against, exits as gate does.

    To continue after a kill, run the same command again.
    """
    from interp.auditing.policy.schema import Policy
    from interp.auditing.suites import suite
    from interp.directions.direction import Direction
    from interp.models.loading import load
    from interp.sae.coder import SparseAutoencoder
    from interp.upkeep.drift.drift_measurement import measure_drift
    from interp.views.upkeep.drift_page import PAGE, write_drift_page

    require_free(options.out)
    if len(models) < 2:
        raise InterpError(f"one model, {models[0]}; expected the first model and one or more later ones")
    directions = {folder.resolve().name: Direction.load(folder) for folder in options.direction}
    if len(directions) < len(options.direction):
        raise InterpError("two directions have folders of the same name; rename one")
    policy = Policy.read(options.against) if options.against else None
    given, settings = options.measured, options.drift
    behaviours = suite(given.suite, given.items, settings.seed, given.data)
    opened = partial(load, dtype=given.dtype, device=given.device)
    first = opened(models[0])
    record = measure_drift(
        first,
        [partial(opened, name) for name in models[1:]],
        behaviours,
        options.text,
        options.out,
        settings,
        directions=directions,
        sae=SparseAutoencoder.load(options.sae, first) if options.sae else None,
        policy=policy,
        cache=given.cache or options.out.parent / CACHE,
        page=write_drift_page,
    )
    if as_json:
        print_values(True, record.to_json() | {"findings": {x.model.name: x.findings for x in record.models}})
    for drift in () if as_json else record.models:
        rows = [
            {"behaviour": x.name, "before": x.before.estimate, "after": x.after.estimate, "change": str(x.change)}
            for x in drift.behaviours
        ]
        title = f"{drift.model.name}: KL {drift.divergence.mean} nats a token"
        print_table(False, rows, title + (f", {drift.outcome}" if drift.outcome else ""))
        say(plural(len(drift.findings), "finding"), *drift.findings)
    say(*([] if as_json else [f"open {options.out / PAGE}"]))
    raise typer.Exit(CODES[record.outcome] if record.outcome else 0)


class WatchOptions(Config):
    """What is audited, and what raises an alarm."""

    measured: SuiteOptions
    margin: float = Field(0.05, ge=0, description="change of a behaviour, in its unit, that raises no alarm")
    seed: int = Field(0, ge=0, description="seed of the items and of the intervals")


def watch_command(
    ledger: Annotated[Path, typer.Argument(help="ledger (JSONL) of the series; made where it is missing")],
    model: Model,
    options: WatchOptions,
    as_json: Json = False,
) -> None:
    """Add an audit of the next checkpoint to a ledger, and show trends. Exit code: 1 if the series raised an alarm."""
    from interp.auditing.suites import suite
    from interp.models.loading import load
    from interp.upkeep.drift.audit_ledger import AuditLedger

    series, given = AuditLedger(ledger), options.measured
    if ledger.exists():
        series.entries()  # raises for a damaged one, before the work
    behaviours = suite(given.suite, given.items, options.seed, given.data)
    checkpoint = load(model, dtype=given.dtype, device=given.device)
    entry = series.append(checkpoint, behaviours, options.margin, options.seed, given.cache or ledger.parent / CACHE)
    trends = series.trends()
    alarms = [f"{x.behaviour}: alarm at audit {x.alarm}" for x in trends if x.alarm is not None]
    rows = [
        {"behaviour": x.behaviour, "reference": str(x.reference), "last": str(x.last), "change": str(x.change),
         "trend an audit": str(x.slope or "unknown"), "alarm": x.alarm}
        for x in trends
    ]  # fmt: skip
    if as_json:
        print_values(True, {"number": entry.number, "time": entry.time, "trends": [asdict(x) for x in trends]})
    else:
        print_table(False, rows, f"{ledger}: audit {entry.number} of {entry.time}")
        say(*(alarms or ["no alarm"]))
    raise typer.Exit(1 if alarms else 0)


class DepthInputs(Config):
    """What is measured, what it is compared with, and where to."""

    base: str = Field(description="the unedited model, which shows the harm")
    behaviour: str = Field(description="the harm of the suite that was removed")
    out: Path = Field(description="new folder for the record and the page")
    suite: str = Field("organism", description="suite of the harm: organism, public or a YAML file")
    suite_data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    items: int = Field(200, ge=1, description="items of the harm; half of them are held out")
    contrast: str | None = Field(None, description="pairs for fresh probes: a JSONL file, or organism.BEHAVIOUR")
    pairs: int | None = Field(None, ge=4, description="most pairs, drawn at random")
    sites: tuple[str, ...] = repeated("site or pattern that probes read [default: resid_post.*]")
    control: str | None = Field(None, description="a model without the edit that never had the harm")
    tuned: tuple[str, ...] = repeated("another model without the harm, such as one after DPO")
    related: Path | None = Field(None, description="documents that show the harm [default: replies of the base]")
    benign: Path | None = Field(None, description="documents that do not [default: capabilities of the suite]")
    stress: str = Field("", description="comma-separated list of slices: paraphrase, role, encoding, turns, language")
    record: bool = Field(False, description="also write the result into the manifest and the model card of EDITED")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")
    budget: DepthOptions = DepthOptions()


def depth_command(
    edited: Annotated[
        str, typer.Argument(help="the edited checkpoint, or folder of a recipe that hooks run on the base")
    ],
    inputs: DepthInputs,
    as_json: Json = False,
) -> None:
    """Measure whether a removed harm is gone, or only out of sight: probes, relearning, recovery, rounding.

    To continue a measurement that was stopped, run the same command again.
    """
    from interp.auditing.suites import suite
    from interp.data.corpora import documents
    from interp.directions.contrast_source import read_contrast
    from interp.editing.export.model_card import record_depth, unsigned_export
    from interp.models.loading import load
    from interp.upkeep.depth.demonstrations import benign_documents
    from interp.upkeep.depth.depth_measurement import measure_depth, require_harm
    from interp.views.upkeep.depth_page import PAGE, write_depth_page

    require_free(inputs.out)
    seed = inputs.budget.seed
    behaviours = suite(inputs.suite, inputs.items, seed, inputs.suite_data)
    harm = next((known for known in behaviours if known.name == inputs.behaviour), None)
    if harm is None:
        hint = nearest(inputs.behaviour, [known.name for known in behaviours])
        raise InterpError(f"the suite has no behaviour {inputs.behaviour!r}; {hint}")
    require_harm(harm)
    if inputs.record:
        unsigned_export(Path(edited))
    contrast = read_contrast(inputs.contrast, inputs.pairs, seed) if inputs.contrast else None
    read: dict[str, Any] = {
        name: list(documents(path)) for name in ("related", "benign") if (path := getattr(inputs, name)) is not None
    }
    compared = {Path(name).resolve().name: name for name in inputs.tuned}
    if len(compared) < len(inputs.tuned) or "control" in compared:
        raise InterpError(f"tuned models of one name, or named control: {', '.join(inputs.tuned)}; rename a folder")
    compared = ({"control": inputs.control} if inputs.control else {}) | compared
    base = load(inputs.base, device=inputs.device)
    after = _edited(edited, inputs.device)

    def finish(record: Any, folder: Path) -> None:  # before the folder appears, so that what a kill leaves is resumed
        write_depth_page(record, folder)
        if inputs.record:
            record_depth(edited, record.figures(), record.card_rows())

    record = measure_depth(
        base,
        after,
        harm,
        inputs.out,
        inputs.budget,
        contrast=contrast,
        sites=inputs.sites or "resid_post.*",
        compared={name: load(folder, device=inputs.device) for name, folder in compared.items()},
        stress=inputs.stress or (),
        page=finish,
        **{"benign": benign_documents(base, behaviours)} | read,
    )
    if as_json:
        print_values(True, record.model_dump(mode="json"))
        return
    say(f"{record.behaviour}: {record.before} before the edit, {record.after} after it")
    for title, rows in (
        ("Recovery", record.recovery_rows()),
        ("Relearning", record.relearning_rows()),
        ("Fresh probes, AUROC", record.probe_rows()),
    ):
        print_table(False, rows, title) if rows else None
    say(f"open {inputs.out / PAGE}")


def _edited(name: str, device: str | None) -> Any:
    """The recipe of a folder, or the model."""
    from interp.interventions.recipe import Recipe
    from interp.models.loading import load

    return Recipe.load(name) if (Path(name) / "recipe.json").is_file() else load(name, device=device)
