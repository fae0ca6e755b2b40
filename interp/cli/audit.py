"""The verb `interp audit`: behaviours before and after an edit, or several, with baselines, as files and as a page."""

import sys
import time
from collections.abc import Mapping
from itertools import permutations
from pathlib import Path
from typing import Annotated, Any

import typer

from interp.core.display import print_table, print_values
from interp.core.errors import InterpError, nearest
from interp.core.files import new_folder, require_free

CACHE = ".interp-audit"
MATRIX = "entanglement"


def audit(
    model: Annotated[str, typer.Argument(help="organism, a local Hugging Face folder, or a hub id")],
    out: Annotated[Path, typer.Option(help="file for the audit (JSON); a folder where there are several recipes")],
    base: Annotated[str | None, typer.Option(help="the model before the edit, where MODEL is the edited one")] = None,
    recipe: Annotated[
        list[Path] | None,
        typer.Option(help="an edit of MODEL, as hooks; repeated for a matrix. With --base: what MODEL was made by"),
    ] = None,
    suite: Annotated[str, typer.Option(help="the behaviours: a suite's name, or a YAML file of them")] = "organism",
    data: Annotated[Path | None, typer.Option(help="folder of the sets that a suite reads")] = None,
    items: Annotated[int, typer.Option(help="items a behaviour; a set kept balanced may give a few more", min=1)] = 300,
    only: Annotated[list[str] | None, typer.Option(help="one behaviour of the suite; may be repeated")] = None,
    baselines: Annotated[str, typer.Option(help="random, prompt, all or none; names with commas between")] = "all",
    instruction: Annotated[
        str | None, typer.Option(help="of the prompt baseline; asks for the suite's harms to stop if not given")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help=f"folder of scores, for going on and for other edits; {CACHE} beside --out if not given"),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="a policy (YAML), or release, whose decision is shown")] = None,
    page: Annotated[Path | None, typer.Option(help="new HTML file for the report")] = None,
    seed: Annotated[int, typer.Option(help="seed of items and intervals", min=0)] = 0,
    device: Annotated[str | None, typer.Option(help="where to run it: cpu, cuda, cuda:1, mps")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float16; the checkpoint's own if not given")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="one JSON value on standard output")] = False,
) -> None:
    """Measure behaviours before and after an edit, on the same items, with intervals, tests and baselines.

    Without --recipe and --base: of MODEL as it is.
    A killed audit goes on where it was when the same command is given again.
    """
    from interp.auditing import suites
    from interp.auditing.entanglement_matrix import require_names
    from interp.auditing.policy.decision import Policy
    from interp.interventions.recipe import Recipe
    from interp.models.loading import load

    began = time.perf_counter()
    recipes = _named(recipe or [])
    require_names(recipes)
    if base is not None and len(recipes) > 1:
        raise InterpError(f"--base with {len(recipes)} recipes; MODEL is one edited model, made by one of them")
    scores = cache or out.parent / CACHE
    _require_places(out, page, scores, several=len(recipes) > 1)
    edits = {name: Recipe.load(folder) for name, folder in recipes.items()}
    rules = Policy.of_name(policy) if policy else None
    behaviours = _only(suites.suite(suite, items, seed, data), only or [])
    loaded = [load(name, dtype=dtype, device=device) for name in (base, model) if name is not None]
    options: dict[str, Any] = {
        "seed": seed,
        "baselines": _baselines(baselines),
        "instruction": instruction,
        "cache": scores,
    }
    from interp.auditing.auditor import audit as compare
    from interp.auditing.entanglement_matrix import Entanglement, entanglement

    matrix: Entanglement | None
    if len(edits) > 1:
        options["baselines"] = options["baselines"] if options["baselines"] is not None else ("random", "prompt")
        matrix, audits = entanglement(loaded[0], edits, behaviours, **options)
        with new_folder(out) as staging:
            matrix.save(staging / f"{MATRIX}.json")
            for name, one in audits.items():
                one.save(staging / f"{name}.json")
    else:
        edit = next(iter(edits.values()), None)
        after = loaded[1] if base is not None else edit
        made_by = edit if base is not None else None
        audits = {
            next(iter(edits), "edit" if base else "model"): compare(
                loaded[0], after, behaviours, recipe=made_by, **options
            )
        }
        matrix = Entanglement.of(audits) if next(iter(audits.values())).edited else None
        out.parent.mkdir(parents=True, exist_ok=True)
        next(iter(audits.values())).save(out)
    decisions = _decisions(audits, rules)
    if page is not None:
        page.parent.mkdir(parents=True, exist_ok=True)
        _write_page(page, audits, matrix, rules, decisions, time.perf_counter() - began)
    _say(as_json, audits, matrix, decisions, f"Audit of {model}" + (f" against {base}" if base else ""))


def _named(folders: list[Path]) -> dict[str, Path]:
    named = {folder.resolve().name: folder for folder in folders}
    if len(named) < len(folders):
        raise InterpError(f"recipes {', '.join(map(str, folders))}: two have one name; give folders of different names")
    if len(named) > 1 and MATRIX in named:
        raise InterpError(
            f"{named[MATRIX]}: its audit would be written over the matrix, {MATRIX}.json; rename the folder"
        )
    return named


def _require_places(out: Path, page: Path | None, cache: Path, several: bool) -> None:
    """Refuse places that would fail, or take each other's, after everything was measured."""
    files = {"--out": out} | ({"--page": page} if page else {})
    for path in files.values():
        require_free(path)
    places = {name: path.resolve() for name, path in (files | {"--cache": cache}).items()}
    for name, other in permutations(places, 2):
        inside = name in files and places[name] in places[other].parents
        # A folder of audits may hold the page.
        if places[name] == places[other] or (inside and not (several and (name, other) == ("--out", "--page"))):
            raise InterpError(f"{name} {places[name]} is in the way of {other} {places[other]}; choose another place")


def _only(behaviours: list[Any], names: list[str]) -> list[Any]:
    known = [behaviour.name for behaviour in behaviours]
    for name in names:
        if name not in known:
            raise InterpError(f"the suite has no behaviour {name!r}; {nearest(name, known)}")
    return [behaviour for behaviour in behaviours if not names or behaviour.name in names]


def _baselines(text: str) -> tuple[str, ...] | None:
    """None: all that can be made."""
    if text in ("all", "none"):
        return None if text == "all" else ()
    return tuple(name.strip() for name in text.split(","))


def _decisions(audits: Mapping[str, Any], policy: Any) -> dict[str, Any]:
    from interp.auditing.policy.decision import decide

    return {name: decide(one, policy) for name, one in audits.items()} if policy else {}


def _write_page(
    page: Path, audits: Mapping[str, Any], matrix: Any, policy: Any, decisions: Mapping[str, Any], seconds: float
) -> None:
    from interp.views.report_page import Report, ReportedRun, write_report

    name, first = next(iter(audits.items()))
    one = {"audit": first, "baselines": first.baselines, "policy": policy, "decision": decisions.get(name)}
    hashes = {f"audit {edit}": audit.digest for edit, audit in audits.items()} | {"suite": first.suite}
    report = Report(
        title=f"Audit of {first.after.name}" if len(audits) == 1 else f"Audits of {len(audits)} edits",
        model=first.before,
        summary=f"{len(first.rows)} behaviours"
        + (" before and after, on the same items" if first.edited else " of the model as it is"),
        run=ReportedRun(" ".join(["interp", *sys.argv[1:]]), seconds, first.versions, hashes),
        entanglement=matrix,
        **(one if len(audits) == 1 else {"edits": audits, "decisions": decisions}),
    )
    write_report(report, page)


def _say(as_json: bool, audits: Mapping[str, Any], matrix: Any, decisions: Mapping[str, Any], title: str) -> None:
    several = len(audits) > 1
    if as_json:
        decided = {name: decision.to_json() for name, decision in decisions.items()}
        rows = next(iter(audits.values())).to_json()["rows"]
        if several or decided:
            print_values(
                True, ({"entanglement": matrix.to_json()} if several else {"rows": rows}) | {"decisions": decided}
            )
        else:
            print_table(True, rows, "")
        return
    if several:
        print_table(False, matrix.rows(), f"{title}: differences, * p < .05 over the matrix")
        print("".join(f"{name}: {note}\n" for name, one in audits.items() for note in _notes(one)), end="")
    else:
        first = next(iter(audits.values()))
        print_table(False, [_row(row) if first.edited else _measured(row) for row in first.rows], title)
        print("".join(f"{note}\n" for note in _notes(first)), end="")
        if matrix is not None and len(matrix.columns) > 1:
            print_table(False, matrix.rows(), "Beside baselines: differences, * p < .05 over the table")
    for name, decision in decisions.items():
        print("\n  ".join([f"{name}: {decision.outcome}", *map(str, decision.unmet)]))


def _row(row: Any) -> dict[str, Any]:
    return {
        "behaviour": row.name,
        "kind": row.kind,
        "before": row.before.estimate,
        "after": row.after.estimate,
        "difference": str(row.difference),
        "p (Holm)": f"{row.p_holm:.2g}",
    }


def _measured(row: Any) -> dict[str, Any]:
    return {"behaviour": row.name, "kind": row.kind, "score [95 %]": str(row.before), "items": row.before.n}


def _notes(audit: Any) -> list[str]:
    """What the table has no room for and must not be missed."""
    notes = []
    for row in audit.rows:
        if row.constant:
            notes.append(f"{row.name}: every item scored alike; it can't discriminate")
        if row.missing:
            notes.append(f"{row.name}: {row.missing} of {row.missing + row.after.n} items have no score")
    return notes
