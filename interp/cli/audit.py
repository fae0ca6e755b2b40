"""The verbs `interp audit` and `interp gate`: behaviours before and after an edit, and a policy's decision on them."""

import sys
import time
from collections.abc import Mapping
from itertools import permutations
from os.path import relpath
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import Field, model_validator

from interp.cli._options import ChatOptions, Device, Json, Model, WorkOptions, named_values, repeated
from interp.core.config import Config
from interp.core.display import plural, print_table, print_values, say
from interp.core.errors import InterpError
from interp.core.files import new_folder, require_free, reserved, write_text
from interp.core.progress import Tracker, tracked

CACHE = ".interp-audit"
MATRIX = "entanglement"
CODES = {"allow": 0, "deny": 1, "inconclusive": 2}


class AuditOptions(Config):
    """What to measure, against what, and where the results go."""

    out: Path = Field(description="new file for the audit (JSON), or new folder, if --recipe is repeated")
    base: str | None = Field(None, description="the unedited model (MODEL is then the edited one)")
    recipe: tuple[Path, ...] = repeated("recipe to apply to MODEL with hooks; with --base, the one in MODEL's weights")
    suite: str = Field("organism", description="name of a suite of behaviours, or a YAML file of one")
    data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    judge_key: tuple[str, ...] = repeated("HOST=VARIABLE: environment variable with the key for judges there only")
    items: int = Field(300, ge=1, description="items per behaviour; balanced sets may use a few more")
    only: tuple[str, ...] = repeated("measure only this behaviour")
    stress: str = Field("", description="comma-separated list of slices: paraphrase, role, encoding, turns, language")
    stress_file: Path | None = Field(None, description="YAML file of slices [default: the one of interp]")
    baselines: str = Field("all", description="comma-separated list of baselines (random, prompt), or all or none")
    instruction: str | None = Field(None, description="text of the prompt baseline [default: stop the suite's harms]")
    cache: Path | None = Field(None, description=f"folder of cached scores [default: {CACHE} next to --out]")
    policy: str | None = Field(
        None, description="also show the decision of this policy (YAML file, release or targeted)"
    )
    page: Path | None = Field(None, description="new HTML file for the report")
    seed: int = Field(0, ge=0, description="seed for sampling items and for bootstrap intervals")
    dtype: str | None = Field(None, description="dtype of the models: float32, bfloat16 or float16 [default: float32]")
    track: Tracker = Field("none", description="dashboard that each behaviour is logged on: trackio or wandb")
    chat: ChatOptions = ChatOptions()
    work: WorkOptions = WorkOptions()

    @model_validator(mode="after")
    def _check_conflicts(self) -> "AuditOptions":
        names = self.recipes
        if len(names) < len(self.recipe):
            raise InterpError(f"two recipe folders have the same name: {', '.join(map(str, self.recipe))}; rename one")
        if len(names) > 1 and MATRIX in names:
            raise InterpError(f"{names[MATRIX]}: its audit would be written over the matrix, {MATRIX}.json; rename it")
        if self.stress_file is not None and not self.stress:
            raise InterpError(f"stress-file {self.stress_file} without --stress; name the slices of it to measure")
        if self.base is not None and len(names) > 1:
            raise InterpError(f"base with {len(names)} recipes; MODEL is one edited model, made by one of them")
        return self

    @property
    def recipes(self) -> dict[str, Path]:
        """Folders of the recipes by name."""
        return {folder.resolve().name: folder for folder in self.recipe}

    @property
    def judge_keys(self) -> dict[str, str]:
        """Variables that hold keys, by the host of a judge."""
        return named_values(self.judge_key, "--judge-key", "HOST=VARIABLE, such as api.openai.com=OPENAI_API_KEY")

    @property
    def scores(self) -> Path:
        """Folder of the cached scores."""
        return self.cache or self.out.parent / CACHE

    @property
    def baseline_names(self) -> tuple[str, ...] | None:
        """None: all that the edit allows."""
        if self.baselines == "all":
            return ("random", "prompt") if len(self.recipe) > 1 else None
        return () if self.baselines == "none" else tuple(name.strip() for name in self.baselines.split(","))

    def require_free_places(self) -> None:
        """Refuse outputs that exist, or that would overwrite each other, before anything is measured."""
        files = {"out": self.out} | ({"page": self.page} if self.page else {})
        for path in files.values():
            require_free(path)
        places = {name: path.resolve() for name, path in (files | {"cache": self.scores}).items()}
        for name, other in permutations(places, 2):
            inside = name in files and places[name] in places[other].parents
            # A folder of audits may hold the page.
            allowed = len(self.recipes) > 1 and (name, other) == ("out", "page")
            if places[name] == places[other] or (inside and not allowed):
                raise InterpError(f"{name} {places[name]} is in the way of {other} {places[other]}; move one")


def audit_command(model: Model, options: AuditOptions, device: Device = None, as_json: Json = False) -> None:
    """Measure behaviours before and after an edit, with confidence intervals, significance tests and baselines.

    The items are the same before and after. Without --recipe or --base, MODEL alone is measured.
    To resume a stopped audit, run the same command again.
    """
    from interp.auditing import suites
    from interp.auditing.entanglement_matrix import require_names
    from interp.auditing.policy.decision import Policy, decide
    from interp.auditing.stress.slices import add_slices
    from interp.interventions.recipe import Recipe
    from interp.models.loading import load

    began = time.perf_counter()
    require_names(options.recipes)
    options.require_free_places()
    edits = {name: Recipe.load(folder) for name, folder in options.recipes.items()}
    policy = Policy.read(options.policy) if options.policy else None
    suite = suites.suite(options.suite, options.items, options.seed, options.data, options.judge_keys)
    behaviours = suites.named_behaviours(suite, options.only)
    if options.stress:
        behaviours = add_slices(behaviours, options.stress, options.stress_file)
    loading = {"dtype": options.dtype, "device": device} | options.chat.loading
    config = {"model": model, "base": options.base, "suite": options.suite, "seed": options.seed}
    with reserved(options.out), tracked(options.track, "interp-audits", name=options.out.stem, config=config) as log:
        bases = [load(options.base, **loading | {"adapter": None})] if options.base is not None else []
        models = [*bases, load(model, **loading)]
        matrix, audits = _measure(models, edits, behaviours, options)
        for name, audit in audits.items():
            for row in audit.rows:
                log({f"{name}/{row.name}/{figure}": value for figure, value in _figures(row).items()})
    decisions = {name: decide(audit, policy) for name, audit in audits.items()} if policy else {}
    if options.page is not None:
        _write_page(options.page, audits, matrix, policy, decisions, time.perf_counter() - began)
    title = f"Audit of {model}" + (f" against {options.base}" if options.base else "")
    _print_audits(as_json, audits, matrix, decisions, title)


class TaskOptions(Config):
    """Which behaviours become tasks of Inspect, and on which items."""

    out: Path = Field(description="new Python file for the tasks")
    behaviour: tuple[str, ...] = repeated("only this behaviour")
    data: Path | None = Field(None, description="folder of the data sets that the suite reads")
    items: int = Field(300, ge=1, description="items per behaviour, unless a run says -T items=…")
    seed: int = Field(0, ge=0, description="seed for sampling items")


def inspect_task_command(
    suite: Annotated[str, typer.Argument(help="organism, public, or a YAML file of behaviours")],
    options: TaskOptions,
    as_json: Json = False,
) -> None:
    """Write a Python file of tasks for Inspect, one for each behaviour of a suite."""
    from interp.bridges.inspect_tasks import task_file

    require_free(options.out)
    source = task_file(suite, options.behaviour, options.items, options.seed, options.data)
    write_text(options.out, source)
    run = f"inspect eval {relpath(options.out)} --model interp/MODEL -M recipe=FOLDER"
    print_values(as_json, {"tasks": source.count("@task"), "file": str(options.out), "run": run})


class GateOptions(Config):
    """The policy, and what is released under it."""

    policy: str = Field(description='YAML file of the policy, or "release" or "targeted", which are bundled')
    checkpoint: Path | None = Field(None, description="checkpoint to release, which the audit must have measured")
    base: str | None = Field(None, description="unedited model, to repeat the export from [default: as it records]")
    key: Path | None = Field(None, description="public key (PEM) of the export's signature, instead of the base")
    safeguard: tuple[str, ...] = repeated("safeguard of the policy that you state is in place")
    reviewer: tuple[Path, ...] = repeated("public key (PEM) of a reviewer whose signature counts")
    depth: Path | None = Field(None, description="folder of interp depth, if the policy sets limits on erasure depth")


def gate_command(
    file: Annotated[Path, typer.Argument(help="audit written by interp audit, or folder of interp report")],
    options: GateOptions,
    as_json: Json = False,
) -> None:
    """Apply a policy to an audit or a risk report. Exit code: 0 allow, 1 deny, 2 inconclusive."""
    from interp.auditing.policy.release_gate import gate

    proofs: dict[str, Any] = {"base": options.base, "key": options.key, "reviewers": options.reviewer}
    proofs["depth"] = options.depth
    decision = gate(file, options.policy, options.checkpoint, options.safeguard, **proofs)
    print_decision(decision, as_json)
    raise typer.Exit(CODES[decision.outcome])


def print_decision(decision: Any, as_json: bool) -> None:
    """Each reason, and the outcome."""
    if as_json:
        print_values(True, decision.to_json())
        return
    for reason in decision.reasons:
        say(reason)
    for note in decision.notes:
        say(f"{'':<8} {note}")
    say(decision.outcome + (f" (tier {decision.tier})" if decision.tier else ""))


def _measure(
    models: list[Any], edits: Mapping[str, Any], behaviours: list[Any], options: AuditOptions
) -> tuple[Any, Mapping[str, Any]]:
    """The matrix, if an edit was measured, and the audits by the name of their edit; both are saved."""
    from interp.auditing.auditor import audit
    from interp.auditing.entanglement_matrix import Entanglement, entanglement

    settings: dict[str, Any] = options.model_dump(include={"seed", "instruction"})
    settings |= {"baselines": options.baseline_names, "cache": options.scores, "workers": options.work.place}
    if len(edits) > 1:
        matrix, audits = entanglement(models[0], edits, behaviours, **settings)
        with new_folder(options.out) as staging:
            matrix.save(staging / f"{MATRIX}.json")
            for name, result in audits.items():
                result.save(staging / f"{name}.json")
        return matrix, audits
    edit = next(iter(edits.values()), None)
    after, recipe = (models[1], edit) if options.base is not None else (edit, None)
    result = audit(models[0], after, behaviours, recipe=recipe, **settings)
    result.save(options.out)
    audits = {next(iter(edits), "edit" if options.base else "model"): result}
    return Entanglement.of(audits) if result.edited else None, audits


def _write_page(
    page: Path, audits: Mapping[str, Any], matrix: Any, policy: Any, decisions: Mapping[str, Any], seconds: float
) -> None:
    from interp.views.report_page import Report, ReportedRun, write_report

    name, first = next(iter(audits.items()))
    single = {"audit": first, "baselines": first.baselines, "policy": policy, "decision": decisions.get(name)}
    hashes = {f"audit {edit}": audit.digest for edit, audit in audits.items()} | {"suite": first.suite}
    report = Report(
        title=f"Audit of {first.after.name}" if len(audits) == 1 else f"Audits of {len(audits)} edits",
        model=first.before,
        summary=plural(len(first.rows), "behaviour")
        + (" before and after, on the same items" if first.edited else " of the model as it is"),
        run=ReportedRun(" ".join(["interp", *sys.argv[1:]]), seconds, first.versions, hashes),
        entanglement=matrix,
        **(single if len(audits) == 1 else {"edits": audits, "decisions": decisions}),
    )
    write_report(report, page)


def _print_audits(
    as_json: bool, audits: Mapping[str, Any], matrix: Any, decisions: Mapping[str, Any], title: str
) -> None:
    several, first = len(audits) > 1, next(iter(audits.values()))
    if as_json:
        rows = first.to_json()["rows"]
        if several or decisions:
            shown = {"entanglement": matrix.to_json()} if several else {"rows": rows}
            print_values(True, shown | {"decisions": {name: d.to_json() for name, d in decisions.items()}})
        else:
            print_table(True, rows, "")
        return
    if several:
        print_table(False, matrix.rows(), f"{title}: differences, * p < 0.05 over the matrix")
    else:
        print_table(False, [_row(row, first.edited) for row in first.rows], title)
    for name, audit in audits.items():
        for note in _notes(audit):
            say(f"{name}: {note}" if several else note)
    if not several and matrix is not None and len(matrix.columns) > 1:
        print_table(False, matrix.rows(), "The edit and its baselines: differences, * p < 0.05 over the table")
    for name, decision in decisions.items():
        say("\n  ".join([f"{name}: {decision.outcome}", *map(str, decision.unmet)]))


def _figures(row: Any) -> dict[str, float]:
    """What a dashboard shows of a behaviour."""
    change = row.difference
    means = {"before": row.before.estimate, "after": row.after.estimate, "difference": change.estimate}
    return means | {"low": change.low, "high": change.high, "p_holm": row.p_holm}


def _row(row: Any, edited: bool) -> dict[str, Any]:
    cells = {"behaviour": row.name, "kind": row.kind}
    if not edited:
        return cells | {"score [95 %]": str(row.before), "items": row.before.n}
    estimates = {"before": row.before.estimate, "after": row.after.estimate}
    return cells | estimates | {"difference": str(row.difference), "p (Holm)": f"{row.p_holm:.2g}"}


def _notes(audit: Any) -> list[str]:
    """What the table has no room for and a reader must not miss."""
    notes = _worst_slices(audit)
    for row in audit.rows:
        if row.constant:
            notes.append(f"{row.name}: every item has the same score, so this scorer can't discriminate")
        if row.missing:
            share = f"{row.name}: {row.missing} of {row.missing + row.after.n} items have no score"
            notes.append(f"{share} ({row.missing_reading})" if audit.edited else share)
        notes += [
            f"{row.name}: without a score {row.missing_before} before, {count} under the {baseline.name} baseline; the "
            "rates differ"
            for baseline in audit.baselines
            if (count := baseline.missing.get(row.name, 0)) != row.missing_before
        ]
    return notes


def _worst_slices(audit: Any) -> list[str]:
    """Of each behaviour with slices the one with the worst unfavourable end after the edit."""
    slices: dict[str, list[Any]] = {}
    for row in audit.rows:
        slices.setdefault(row.of, []).extend([row] if row.slice else [])
    worst = [
        max(rows, key=lambda row: row.after.high if row.kind == "harm" or row.unit == "nats" else -row.after.low)
        for rows in slices.values()
        if rows
    ]
    return [
        f"{row.of}: the worst of its {plural(len(slices[row.of]), 'slice')} is {row.slice}, {row.after}"
        for row in worst
    ]
