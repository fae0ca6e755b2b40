"""The command line: one verb per stage, and `demo` and `run` for the end-to-end pipeline.

Exit codes: 0 done (or allowed); 1 the answer is no (the gate denies, verify finds a difference); 2 bad input (or the
gate is inconclusive), with a message, and no traceback unless `--debug` is given; 70 unexpected error; 130 interrupted.
`--json` prints one JSON value on standard output and nothing else there.
"""

import errno
import os
import re
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

import interp
from interp.cli import attribution, audit, export, find, recipe, report, sae, search, tuning, upkeep
from interp.cli._options import Command, Json, VerbCommand, keys_command, verb_group, with_options
from interp.core.display import clipped, plural, print_table, print_values
from interp.core.errors import DISK_REMEDY, InterpError, first_line, is_of_disk, note, printable
from interp.core.inputs import LIMITS_VARIABLE, bound

Folder = Annotated[Path, typer.Argument(help="folder that holds the runs")]


def _print_version(chosen: bool) -> bool:
    if chosen:
        print(interp.__version__)
        raise typer.Exit
    return chosen


def root_command(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks of errors (may stand anywhere)")] = False,
    limit: Annotated[list[str] | None, typer.Option(help="bound on input, such as line=1GB; may be repeated")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    """Find what makes a language model behave harmfully, remove it, export the edited weights, and measure
    what changed.
    """
    if limit:
        os.environ[LIMITS_VARIABLE] = ",".join([*filter(None, [os.environ.get(LIMITS_VARIABLE)]), *limit])
        bound("file")  # so that a limit that can't be read is refused at once
    # --debug is listed here for --help; `main` takes it off the line before any verb sees it.
    del debug, version


def demo_command(
    out: Annotated[Path, typer.Option(help="new folder for the results")] = Path("interp-demo"),
    seed: Annotated[int, typer.Option(help="seed of the data and of training", min=0)] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="continue a run that did not finish")] = False,
    as_json: Json = False,
) -> None:
    """Run the whole pipeline on the bundled organism: find the planted hostility, remove it, export, audit, and
    apply the policy.
    """
    from importlib.resources import files

    search.run_file(str(files("interp.pipeline") / "demo.yaml"), [f"seed={seed}"], out, as_json, resume)


def doctor_command(
    settings: Annotated[list[str] | None, typer.Argument(help="changes of the plan, such as machines.count=2")] = None,
    plan: Annotated[Path | None, typer.Option(help="YAML file of jobs: what they need on which machines")] = None,
    as_json: Json = False,
) -> None:
    """Report versions, threads and devices, and check that the bundled organism loads and answers.

    With --plan: memory, disk, time and cost of jobs, with the arithmetic.
    """
    from interp.pipeline.doctor import diagnose
    from interp.pipeline.job_plan import JobPlan

    if plan is None:
        print_values(as_json, diagnose())
        return
    rows = JobPlan.read(plan, settings or []).figures()
    if not as_json:
        rows = [{name: row[name] for name in ("job", "figure", "value", "basis", "formula")} for row in rows]
    print_table(as_json, rows, str(plan), narrow=True)


def list_command(folder: Folder = Path("runs"), as_json: Json = False) -> None:
    """List the runs in a folder, the newest last."""
    from interp.pipeline.runs import list_runs

    rows = [run.row for run in list_runs(folder)]
    print_table(as_json, rows, f"{plural(len(rows), 'run')} in {folder}")


def show_command(run: Annotated[Path, typer.Argument(help="folder of the run")], as_json: Json = False) -> None:
    """Show a run: its environment and its results."""
    from interp.pipeline.runs import read_run

    record = read_run(run)
    if as_json:
        print_values(True, {"settings": record.settings, "summary": record.summary, "environment": record.environment})
        return
    print_values(False, record.row | (record.environment or {}))
    if record.summary:
        behaviours = [
            {"behaviour": name, "before": row["before"]["estimate"], "after": row["after"]["estimate"]}
            for name, row in record.summary["behaviours"].items()
        ]
        print_table(False, behaviours, "Behaviours")
        baselines = [{"baseline": row["name"], **row["scores"]} for row in record.summary["baselines"]]
        print_table(False, baselines, "Baselines, on the items that the edit was chosen by")


def compare_command(
    paths: Annotated[list[Path], typer.Argument(help="folders of two or more runs")], as_json: Json = False
) -> None:
    """Show what differs between runs: settings, environment and results."""
    from interp.pipeline.runs import compare_runs

    rows = compare_runs(paths)
    print_table(as_json, rows, "What differs" if rows else "Nothing differs")


def clear_command(
    folder: Folder = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="delete them (without this option they are only listed)")] = False,
    as_json: Json = False,
) -> None:
    """Delete what unfinished runs left on disk."""
    from interp.pipeline.runs import clear_runs, unfinished_runs

    leftovers = (clear_runs if yes else unfinished_runs)(folder)
    rows = [{"folder": str(path), "MB": size / 1e6} for path, size in leftovers]
    print_table(as_json, rows, f"{len(rows)} {'removed' if yes else 'to remove (--yes)'}")


VERBS: dict[str, Command] = {
    "demo": demo_command,
    "run": search.run_command,
    "harvest": find.harvest_command,
    "find": find.find_command,
    "patch": attribution.patch_command,
    "export": export.export_command,
    "verify": export.verify_command,
    "undo": export.undo_command,
    "audit": audit.audit_command,
    "gate": audit.gate_command,
    "inspect-task": audit.inspect_task_command,
    "graph": attribution.graph_command,
    "curate": upkeep.curate_command,
    "feedback": upkeep.feedback_command,
    "drift": upkeep.drift_command,
    "watch": upkeep.watch_command,
    "browse": report.browse_command,
    "depth": upkeep.depth_command,
    "tune": tuning.tune_command,
    "compare": tuning.compare_methods_command,
    "doctor": doctor_command,
}
SAE_VERBS: dict[str, Command] = {
    "train": sae.train_command,
    "convert": sae.convert_command,
    "bench": sae.bench_command,
}
FEATURES_VERBS: dict[str, Command] = {
    "scan": sae.scan_command,
    "label": sae.label_command,
    "describe": sae.describe_command,
    "search": sae.search_command,
    "export": report.export_book_command,
}
RECIPE_VERBS: dict[str, Command] = {"build": recipe.build_command, "show": recipe.show_recipe}
LENS_VERBS: dict[str, Command] = {"read": attribution.lens_command, "fit": attribution.fit_command}
RUNS_VERBS: dict[str, Command] = {
    "ls": list_command,
    "show": show_command,
    "compare": compare_command,
    "gc": clear_command,
}
REPORT_VERBS: dict[str, Command] = {"write": report.report_command, "sign": report.sign_command}
SWEEP_VERBS: dict[str, Command] = {
    "run": search.sweep_command,
    "show": search.show_sweep_command,
    "pick": search.pick_command,
}
KEYS = {
    recipe.build_command: "interp.search.recipe_file:RecipeFile",
    search.run_command: "interp.pipeline.experiment:Experiment",
    search.sweep_command: "interp.search.sweeps.sweep_file:SweepFile",
    sae.train_command: "interp.sae.config:SaeConfig",
}


def build_app() -> typer.Typer:
    """The whole command line, from the tables of verbs."""
    root = typer.Typer(name="interp", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    root.callback()(root_command)
    sae_group = typer.Typer(help="Train, convert and bench sparse autoencoders.", no_args_is_help=True)
    runs_group = typer.Typer(help="List, show, compare and delete runs of experiments.", no_args_is_help=True)
    lens_help = "Read inner layers through a lens (lens MODEL is lens read MODEL), and fit lenses."
    lens_group = typer.Typer(help=lens_help, cls=verb_group("read"), no_args_is_help=True)
    sweep_help = "Search a space of recipes (sweep FILE is sweep run FILE), show a sweep, and take a trial's recipe."
    sweep_group = typer.Typer(help=sweep_help, cls=verb_group("run"), no_args_is_help=True)
    root.add_typer(sweep_group, name="sweep")
    recipe_group = typer.Typer(help="Build a recipe from a YAML file, and show a saved one.", no_args_is_help=True)
    root.add_typer(recipe_group, name="recipe")
    report_help = "Write the risk report of a model (report AUDIT is report write AUDIT), and sign one."
    report_group = typer.Typer(help=report_help, cls=verb_group("write"), no_args_is_help=True)
    root.add_typer(report_group, name="report")
    root.add_typer(lens_group, name="lens")
    root.add_typer(sae_group, name="sae")
    root.add_typer(runs_group, name="runs")
    features_help = "Describe all latents of autoencoders in a feature book, label them, and search."
    features_group = typer.Typer(help=features_help, no_args_is_help=True)
    root.add_typer(features_group, name="features")
    groups = {
        root: VERBS,
        lens_group: LENS_VERBS,
        sae_group: SAE_VERBS,
        features_group: FEATURES_VERBS,
        runs_group: RUNS_VERBS,
        sweep_group: SWEEP_VERBS,
        report_group: REPORT_VERBS,
        recipe_group: RECIPE_VERBS,
    }
    for group, verbs in groups.items():
        for name, command in verbs.items():
            group.command(name, cls=keys_command(KEYS[command]) if command in KEYS else VerbCommand)(
                with_options(command)
            )
    return root


app = build_app()


def main() -> None:
    """Run the command line; the module lists the exit codes."""
    words = sys.argv[1:]
    debug = "--debug" in words
    # As Ctrl-C does, a termination unwinds the stack, so that half-written files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    usual = warnings.formatwarning
    warnings.formatwarning = lambda *told, **more: printable(usual(*told, **more))
    try:
        app([word for word in words if word != "--debug"])
    except Exception as problem:
        if debug:
            raise
        remedy = _remedy(problem)
        text = f"{type(problem).__name__}: {problem} (unexpected; --debug shows where)" if remedy is None else remedy
        note(re.sub(r"\s*\n\s*", " ", clipped(text, 2000)))
        sys.exit(70 if remedy is None else 2)


def _remedy(problem: Exception) -> str | None:
    """The message of an error that users can do something about; None for one that nobody expected."""
    number = problem.errno if isinstance(problem, OSError) else None
    if number == errno.ENAMETOOLONG or isinstance(problem, InterpError):
        return str(problem)
    if is_of_disk(problem):
        return f"{problem}; {DISK_REMEDY}"
    short = isinstance(problem, MemoryError) or number == errno.ENOMEM or "allocate memory" in str(problem)
    if short or type(problem).__name__ == "OutOfMemoryError":  # torch's, for a GPU
        return (
            f"memory does not suffice ({first_line(problem) or 'MemoryError'}); use less at a time, such as smaller "
            "batches or fewer workers, and run the same command again"
        )
    return None
