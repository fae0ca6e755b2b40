"""The verbs of `interp runs`: list, show, compare and clear what experiments left."""

from pathlib import Path
from typing import Annotated

import typer

from interp.core.display import print_table, print_values

app = typer.Typer(help="Runs of experiments.", no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(help="the folder that the runs are in")]
Json = Annotated[bool, typer.Option("--json", help="one JSON value on standard output")]


@app.command()
def ls(folder: Folder = Path("runs"), as_json: Json = False) -> None:
    """List runs: the newest last."""
    from interp.pipeline.runs import list_runs

    rows = [one.row for one in list_runs(folder)]
    print_table(as_json, rows, f"{len(rows)} runs in {folder}")


@app.command()
def show(run: Annotated[Path, typer.Argument(help="folder of the run")], as_json: Json = False) -> None:
    """Show a run: its environment, and what came of it."""
    from interp.pipeline.runs import show_run as one_run

    found = one_run(run)
    if as_json:
        print_values(True, {"settings": found.settings, "summary": found.summary, "environment": found.environment})
        return
    print_values(False, found.row | (found.environment or {}))
    if found.summary:
        behaviours = found.summary["behaviours"]
        rows = [
            {"behaviour": name, **{side: row[side]["estimate"] for side in ("before", "after")}}
            for name, row in behaviours.items()
        ]
        print_table(False, rows, "Behaviours")
        beside: list[dict[str, object]] = [
            {"baseline": one["name"], **one["scores"]} for one in found.summary["baselines"]
        ]
        print_table(False, beside, "Baselines, on the items that the edit was chosen by")


@app.command()
def compare(
    paths: Annotated[list[Path], typer.Argument(help="folders of two runs or more")], as_json: Json = False
) -> None:
    """Show what differs between runs: settings, environment, results."""
    from interp.pipeline.runs import compare_runs as differences

    rows = differences(paths)
    print_table(as_json, rows, "What differs" if rows else "Nothing differs")


@app.command()
def gc(
    folder: Folder = Path("runs"),
    yes: Annotated[bool, typer.Option("--yes", help="remove them; only listed if not given")] = False,
    as_json: Json = False,
) -> None:
    """Remove what runs that did not finish have left."""
    from interp.pipeline.runs import clear_runs, unfinished_runs

    left = (clear_runs if yes else unfinished_runs)(folder)
    rows = [{"folder": str(path), "MB": size / 1e6} for path, size in left]
    print_table(as_json, rows, f"{len(rows)} {'removed' if yes else 'to remove (--yes)'}")
