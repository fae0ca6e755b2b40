"""The verb `interp find`: directions of a contrast, by layer and method, with what stands beside them."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.core.display import print_table
from interp.core.errors import InterpError, nearest
from interp.core.files import require_free


def find(
    model: Annotated[str, typer.Argument(help="organism, a local Hugging Face folder, or a hub id")],
    contrast: Annotated[str, typer.Option(help="JSONL file of pairs, or organism.BEHAVIOUR")],
    columns: Annotated[
        str | None, typer.Option(help="the file's own names, such as positive=toxic,negative=neutral")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="pass over rows of the file that are no pairs")] = False,
    method: Annotated[
        list[str] | None,
        typer.Option(help="such as diff_means; all closed forms if not given, steering_vector and reft_r1 if named"),
    ] = None,
    sites: Annotated[list[str] | None, typer.Option(help="sites or patterns; resid_post.* if not given")] = None,
    position: Annotated[list[int] | None, typer.Option(help="token of the prompt, from its end if negative")] = None,
    sae: Annotated[Path | None, typer.Option(help="add the best latent of this autoencoder")] = None,
    protect: Annotated[
        list[str] | None,
        typer.Option(help="NAME=FOLDER of a direction to be left alone: how far each is aligned with it"),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="write a recipe that projects the best direction out everywhere")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="write a page (HTML) with the heat map of layers and methods")
    ] = None,
    try_on: Annotated[
        str | None, typer.Option("--try", help="a harm of the organism: rank the best by what ablating them does to it")
    ] = None,
    seed: Annotated[int, typer.Option(help="seed of the held-out split", min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="where to run it: cpu, cuda, cuda:1, mps")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON value on standard output")] = False,
) -> None:
    """Fit directions to a contrast and score them on held-out pairs."""
    from interp.directions.finder import find as find_directions
    from interp.directions.methods.closed_form import FITS
    from interp.interventions.ops import Project
    from interp.interventions.recipe import Recipe
    from interp.models.loading import load
    from interp.sae.coder import SparseAutoencoder

    for path in (out, page):
        if path:
            require_free(path)
    asked = method or ["all"]
    methods = list(dict.fromkeys(name for one in asked for name in (FITS if one == "all" else [one])))
    kept = _protected(protect or [])
    pairs = _contrast(contrast, columns, skip_bad, seed)
    hooked = load(model, device=device)
    coder = SparseAutoencoder.load(sae) if sae else None
    where = sites or "resid_post.*", methods, position or (-1,)
    found = find_directions(hooked, pairs, *where, coder, seed=seed, protected=kept)
    ranked = found.best(len(found))
    rows = [finding.row | found.beside(finding) for finding in ranked]
    if try_on:
        trials = _trials(hooked, found.shortlist(8), try_on)
        ranked = [trial.finding for trial in trials]
        tried = [{"cost": trial.cost, try_on: trial.after[try_on]} for trial in trials]
        rows = [f.row | found.beside(f) | trial for f, trial in zip(ranked, tried, strict=True)]
    if out:
        tested = (
            f"chosen by intervention on {try_on}" if try_on else "it separates the contrast; not tested by intervention"
        )
        note = f"Projects out {ranked[0].direction}: {tested}."
        Recipe([("writers", Project(ranked[0].direction))], note=note).save(out)
    if page:
        _write_page(page, hooked, found, ranked[0] if try_on else None)
    for failure in found.failures if as_json else ():
        print(_unfitted(failure), file=sys.stderr)
    if as_json:
        print_table(True, rows, "")
        return
    _print_grid(_layers(found), f"Held-out AUROC on {contrast}; * the best")
    listed = rows if try_on else [finding.row for finding in found.shortlist(12)]
    title = "Best first, by what ablating them does" if try_on else "The best of each method in turn"
    print_table(False, _cells(listed), title)
    for failure in found.failures:
        print(_unfitted(failure))


def _unfitted(failure: Any) -> str:
    return f"not fitted: {failure.method} at {failure.site}, position {failure.position}: {failure.reason}"


def _protected(named: list[str]) -> dict[str, Any]:
    from interp.directions.direction import Direction

    found = {}
    for one in named:
        name, sign, folder = one.partition("=")
        if not (name and sign and folder):
            raise InterpError(
                f"--protect {one!r} can't be read; expected NAME=FOLDER, such as refusal=refusal-direction"
            )
        if not (Path(folder) / "direction.json").is_file():
            raise InterpError(f"--protect {one!r}: {folder} is no saved direction (finding.direction.save writes one)")
        found[name] = Direction.load(folder)
    return found


def _contrast(source: str, columns: str | None, skip_bad: bool, seed: int) -> Any:
    from interp.data.contrast import Contrast
    from interp.pipeline.materials import read_contrast

    if columns is None and not skip_bad:
        return read_contrast(source, seed=seed)
    names = [name.partition("=") for name in columns.split(",")] if columns is not None else []
    if not all(name and sign and column for name, sign, column in names):
        raise InterpError(f"--columns {columns!r} can't be read; expected name=column, such as positive=toxic")
    mapped = {name.strip(): column.strip() for name, _, column in names}
    return Contrast.read(source, None if columns is None else mapped, skip_bad)


def _layers(found: Any) -> list[dict[str, str]]:
    """The grid as texts, the best findings marked; positions are shown where there are several."""
    rows = found.grid()
    best, several = found.best()[0].auroc, len({row["position"] for row in rows}) > 1
    methods = set(found.methods)
    return [
        {
            name: _score(value) + ("*" if name in methods and value == best else "")
            for name, value in row.items()
            if several or name != "position"
        }
        for row in rows
    ]


def _print_grid(rows: list[dict[str, str]], title: str) -> None:
    """A narrow table: names are broken rather than cut."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=escape(title), box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in rows[0]:
        grid.add_column(name.replace("_", " "), overflow="fold", no_wrap=name == "site")
    for row in rows:
        grid.add_row(*row.values())
    Console().print(grid)


def _cells(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Findings for the terminal, without the columns that say nothing there."""
    rows = [row | {f"cosine with {name}": value for name, value in row.get("alignment", {}).items()} for row in rows]
    dull = {"alignment"} | {name for name in ("latent", "position") if len({row[name] for row in rows}) == 1}
    return [{name: _score(value) for name, value in row.items() if name not in dull} for row in rows]


def _score(value: object) -> str:
    return "–" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)


def _write_page(path: Path, model: Any, found: Any, chosen: Any) -> None:
    from interp.views.report_page import Report, write_report

    title = f"What separates {found.contrast.name}"
    write_report(Report(title, model.reference, findings=found, chosen=chosen), path)


def _trials(model: Any, candidates: Any, behaviour: str) -> Any:
    from interp.auditing.ablation_trials import rank_by_ablation
    from interp.auditing.suites import organism_suite

    suite = organism_suite(40, split="train", seed=1)
    harms = [known.name for known in suite if known.kind == "harm"]
    if behaviour not in harms:
        raise InterpError(f"--try {behaviour!r} is not a harm of the organism; {nearest(behaviour, harms)}")
    return rank_by_ablation(model, candidates, suite, behaviour)
