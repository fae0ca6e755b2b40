"""The verbs of upkeep: `interp curate`, training data scored and split, and `interp feedback`, what raters prefer."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from interp.cli._options import Json, repeated
from interp.core.config import Config
from interp.core.display import print_table, print_values, say
from interp.core.files import require_free
from interp.upkeep.curation.options import CurationOptions, ScorerSettings


class CurateOptions(Config):
    """What documents are scored by, how they are split, and where to."""

    scorer: ScorerSettings
    out: Path = Field(description="new folder for the splits, the scores, the record and the page")
    labels: Path | None = Field(None, description="JSONL of labelled documents: the document, and label true or false")
    suite: str | None = Field(None, description="suite whose changes are predicted: organism, public or a YAML file")
    suite_data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    items: int = Field(50, ge=1, description="items per behaviour of the suite")
    workers: int = Field(1, ge=1, description="processes that score side by side; each loads the model")
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

    require_free(options.out)
    behaviours = suite(options.suite, options.items, options.splits.seed, options.suite_data) if options.suite else []
    labels = read_labelled(options.labels, options.splits.field) if options.labels else []
    record = curate(
        data, options.scorer, options.out, options.splits, labels, behaviours, options.workers, write_curation_page
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
