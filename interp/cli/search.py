"""The verb `interp run`: an experiment file, run end to end; `interp demo` runs the bundled one."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from interp.cli._options import Json
from interp.core.display import print_table, print_values, say


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
