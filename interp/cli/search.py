"""The verbs `interp run`, which takes an experiment file (`interp demo` the bundled one), and `interp sweep`."""

import sys
from pathlib import Path
from typing import Annotated

import typer
from pydantic import Field

from interp.cli._options import Json, WorkOptions
from interp.core.config import Config
from interp.core.display import print_table, print_values, say
from interp.core.errors import InterpError
from interp.core.files import require_free
from interp.core.progress import Tracker, tracked


def run_command(
    file: Annotated[Path, typer.Argument(help="experiment (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings, such as data.audit_items=50")] = None,
    out: Annotated[Path | None, typer.Option(help=r"new folder for the results \[default: runs/NAME]")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="resume a run that was stopped")] = False,
    force: Annotated[bool, typer.Option("--force", help="export even if the loss rises by over 1 nat a token")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on your own model and data, as configured in a YAML file."""
    run_file(str(file), overrides or [], out or Path("runs") / file.stem, as_json, resume, force)


def run_file(
    file: str, overrides: list[str], out: Path, as_json: bool, resume: bool = False, force: bool = False
) -> None:
    """Run the experiment of a file into `out`, and print the audit's table, or the summary as JSON."""
    from interp.pipeline.experiment import Experiment, run_experiment

    experiment = Experiment.read(file, overrides)
    report = (lambda text: None) if as_json else say
    command = " ".join(["interp", *sys.argv[1:]])
    summary = run_experiment(
        experiment, out, folder=Path(file).parent, say=report, command=command, resume=resume, force=force
    )
    if as_json:
        print_values(True, summary.to_json())
        return
    rows = [
        {"name": row.name, "kind": row.kind, "before": str(row.before), "after": str(row.after)}
        for row in summary.audit.rows
    ]
    print_table(False, rows, f"{experiment.name}: {summary.decision.outcome}")
    say(f"{summary.seconds:.0f} s; open {out / 'report.html'}")


_CONFIRMED = ("behaviour", "before", "after", "change", "shrinkage", "bound")  # what a terminal has room for


class SweepOptions(Config):
    """How much of a sweep to run, and where."""

    trials: int = Field(60, ge=1, description="trials in the end, those of earlier calls included")
    out: Path | None = Field(None, description="folder of the sweep, also one to continue [default: sweeps/NAME]")
    track: Tracker = Field("none", description="dashboard that each trial is logged on: trackio or wandb")
    work: WorkOptions = WorkOptions()


def sweep_command(
    file: Annotated[Path, typer.Argument(help="sweep (YAML)")],
    options: SweepOptions,
    overrides: Annotated[list[str] | None, typer.Argument(help="settings, such as seed=1")] = None,
    as_json: Json = False,
) -> None:
    """Try many recipes of a space, and confirm the best trade-offs on items that no trial saw.

    To continue a sweep that was stopped, or to add trials, run the same command again.
    """
    from interp.search.sweeps.sweep import run_sweep
    from interp.search.sweeps.sweep_file import SweepFile

    settings, out = SweepFile.read(file, overrides or []), options.out or Path("sweeps") / file.stem
    report = (lambda text: None) if as_json else say
    config = settings.model_dump(mode="json", include={"name", "model", "seed", "objectives"})
    with tracked(options.track, "interp-sweeps", name=settings.name, config=config) as log:
        run_sweep(
            settings,
            out,
            options.trials,
            options.work.place,
            folder=file.parent,
            say=report,
            ended=lambda x: log(x.figures),
        )
    _print_sweep(out, as_json, None)


class PickOptions(Config):
    """Which trial of a sweep to take, and where to write it."""

    out: Path = Field(description="new folder for the recipe")
    trial: int | None = Field(None, ge=0, description="number of the trial [default: the knee of the front]")
    knee: bool = Field(False, description="take the knee, the point nearest to the best of every objective")
    export: Path | None = Field(None, description="also write a certified checkpoint to this new folder, and audit it")


def show_sweep_command(
    folder: Annotated[Path, typer.Argument(help="folder of the sweep")],
    page: Annotated[Path | None, typer.Option(help="new HTML file for the report")] = None,
    as_json: Json = False,
) -> None:
    """Show a sweep: its front, what was confirmed on other items, and what each parameter decides."""
    if page is not None:
        require_free(page)
    _print_sweep(folder, as_json, page)


def pick_command(
    folder: Annotated[Path, typer.Argument(help="folder of the sweep")], options: PickOptions, as_json: Json = False
) -> None:
    """Write the recipe of a trial; with --export, also its checkpoint with a certificate, and an audit."""
    from interp.search.sweeps.picking import pick

    if options.knee and options.trial is not None:
        raise InterpError("--knee and --trial both name a trial; give one of them")
    print_values(as_json, pick(folder, options.out, options.trial, options.export))


def _print_sweep(folder: Path, as_json: bool, page: Path | None) -> None:
    from interp.search.sweeps.sweep_record import SweepRecord

    record = SweepRecord.read(folder)
    if page is not None:
        from interp.views.sweep_page import write_sweep_page

        write_sweep_page(record, page)
    if as_json:
        print_values(True, record.to_json())
        return
    print_table(False, record.rows(), record.title)
    for reason, count in record.reasons.items():
        say(f"{count:4} {reason}")
    if arms := record.arm_rows():
        print_table(False, arms, "Change on confirming items")
    for title, rows in record.confirmed_rows().items():
        print_table(False, [{name: row[name] for name in _CONFIRMED} for row in rows], title)
    print_table(False, record.importance_rows(), "What each parameter decides, as shares")
