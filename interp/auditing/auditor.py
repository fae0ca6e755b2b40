"""Audits: behaviours of a model before and after an edit, measured on the same items, next to baselines.

1. `audit` measures every behaviour in both models, with the same items, prompts and decoding. Scores are kept in a
   cache (`conditions.ScoreCache`), so that an interrupted audit can be resumed and the unedited model is measured only
   once.
2. Each paired difference gets an interval and a p-value (`statistics.comparison`), corrected over the suite (Holm 1979,
   "A simple sequentially rejective multiple test procedure").
3. Trivial baselines (random edits, an instruction; see `baselines`) are measured on the same items.

`Audit` is the record. The saved file contains digests of the models, the suite and its own content, so a file that was
changed is rejected (not one whose digest was recomputed).
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain, product
from math import inf, isfinite
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from interp.auditing.baselines import BASELINES, Baseline, baseline_conditions, baseline_of_scores, instruction_against
from interp.auditing.behaviours import CONSTANT, Behaviour, Kind, Scores, Unit
from interp.auditing.conditions import ModelCondition, ScoreCache, establish_recipe, recipe_of_edit, require_comparable
from interp.auditing.statistics.comparison import Comparison, Estimate, compare
from interp.auditing.statistics.significance import holm
from interp.core.calls import checked_class
from interp.core.digests import versions
from interp.core.display import Card, Displayed, html_table, plural
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import read_json, sha256_json, write_json
from interp.core.progress import track
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference

FORMAT = 2


@dataclass(frozen=True)
class AuditRow(Displayed):
    """One behaviour: the estimates before and after, and the paired difference after - before.

    Attributes:
        p: p-value of the null hypothesis of no difference.
        p_holm: The same after Holm's correction.
        effect: Standardised difference. Saved as None if infinite.
        detectable: The smallest difference that is detectable with 80 % power at this number of items.
        n_groups: Number of clusters of items.
        missing: Pairs without a score.
        constant: Whether every item has the same score in both models; if so, the scorer may be unable to tell
            them apart.

    The other fields are those of the behaviour.

    Example:
        >>> from interp.auditing import AuditRow, compare
        >>> result = compare([1.0] * 20, [0.0] * 20)
        >>> row = AuditRow("hostility", "harm", "rate", "insults", result.before, result.after, result.difference)
        >>> row.difference.estimate, row.better
        (-1.0, 1.0)
    """

    name: str
    kind: Kind
    unit: Unit
    statement: str
    before: Estimate
    after: Estimate
    difference: Estimate
    p: float = 1.0
    p_holm: float = 1.0
    effect: float | None = 0.0
    detectable: float | None = None
    n_groups: int = 0
    missing: int = 0
    constant: bool = False
    language: str = "en"
    scenario: str = ""
    scorer: str = ""
    chance: float | None = None
    secret: bool = False
    digest: str = ""

    @property
    def better(self) -> float:
        """The difference, signed so that positive is good: a harm or a loss fell, or what must hold rose."""
        return -self.difference.estimate if self.kind == "harm" or self.unit == "nats" else self.difference.estimate

    @property
    def reading(self) -> str:
        """The difference in words; it counts as a change where the corrected p-value is below 0.05."""
        if self.constant:
            return CONSTANT
        if self.p_holm >= 0.05:
            return "not significant" + (f" (can detect {self.detectable:.2g})" if self.detectable else "")
        return "better" if self.better > 0 else "worse"

    def _card(self) -> Card:
        rows = [("kind", self.kind), ("before", self.before), ("after", self.after)]
        change = ("difference", self.difference, self.reading)
        return self.name, [*rows, change, ("p (Holm)", self.p_holm), ("items", self.after.n)]


@dataclass(frozen=True)
class AuditExample(Displayed):
    """The replies to one item, before and after."""

    behaviour: str
    prompt: str
    before: str
    after: str


@checked_class("interp.audit(before, after, behaviours) makes one, and interp.auditing.Audit.read(folder) reads one")
@dataclass(frozen=True)
class Audit(Displayed):
    """The comparison of two models over behaviours. Returned by `interp.audit`.

    Attributes:
        rows: One per behaviour; `audit["name"]` is the row of that name.
        before: The unedited model.
        after: The edited model. If a recipe was audited with hooks, this has the same weights as `before`; if there was
            no edit, it equals `before`.
        examples: Replies before and after.
        baselines: Results of the baselines on the same items.
        recipe: Digest of the recipe, if it could be verified (see `establish_recipe`).
        suite: Digest of the behaviours.
        instruction: The instruction of the prompt-only baseline.
        seed: Seed of the intervals and of random baselines.
        versions: Versions of the packages that ran.

    Example:
        >>> from interp.auditing import text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> record = interp.audit(model, None, [loss])
        >>> record.edited, record["loss"].difference.estimate
        (False, 0.0)
    """

    __pydantic_config__ = ConfigDict(extra="forbid")

    rows: tuple[AuditRow, ...]
    before: ModelReference
    after: ModelReference
    examples: tuple[AuditExample, ...] = ()
    baselines: tuple[Baseline, ...] = ()
    recipe: str = ""
    suite: str = ""
    instruction: str = ""
    seed: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, name: str) -> AuditRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise InterpError(f"behaviour {name!r} was not audited; audited: {', '.join(row.name for row in self.rows)}")

    @property
    def edited(self) -> bool:
        """Whether two models are compared, rather than one measured without an edit."""
        return bool(self.recipe) or self.after != self.before

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """The audit as JSON-compatible values; NaN and infinities become None."""
        return {"format": FORMAT} | json.loads(_AUDIT.dump_json(self))

    def save(self, file: str | Path) -> None:
        """Write JSON, with the digest of its content."""
        write_json(Path(file), self.to_json() | {"sha256": self.digest})

    @classmethod
    def read(cls, file: str | Path) -> "Audit":
        """Read an audit written by `save`.

        Raises:
            InterpError: The file is not an audit, was changed after it was written, or holds numbers that no
                measurement gives.
        """
        values = read_json(file)
        try:
            if values.get("format", FORMAT) != FORMAT:
                raise InterpError(f"{file}: an audit of format {values['format']}; audit again with this version")
            _require_finite(values["rows"])
            sha256 = values.pop("sha256")
            if sha256 is None or sha256 != _digest(values):
                raise InterpError(f"{file}: changed since it was written (its SHA-256 differs); audit again")
            values.pop("format")
            audit = _AUDIT.validate_json(json.dumps(values), strict=True)
        except (KeyError, TypeError, AttributeError, OverflowError, ValidationError) as problem:
            raise InterpError(f"{file}: not an audit ({problem}); expected a file written by interp audit") from None
        _require_plausible(audit.rows)
        return audit

    def _card(self) -> Card:
        changes = [(row.name, f"{row.before.estimate:.3f} -> {row.after.estimate:.3f}") for row in self.rows]
        return f"{self.after.name}, {plural(len(self.rows), 'behaviour')}", changes

    def _repr_html_(self) -> str:
        names = [f"difference, {baseline.name}" for baseline in self.baselines]
        header = ["behaviour", "kind", "before", "after", "difference", "p (Holm)", *names, ""]
        cells: list[list[object]] = [
            [row.name, row.kind, row.before, row.after, row.difference, row.p_holm] for row in self.rows
        ]
        for row, cell in zip(self.rows, cells, strict=True):
            changes = [baseline.changes.get(row.name) for baseline in self.baselines]
            cell += [None if change is None else f"{change.estimate:+.3f}" for change in changes] + [row.reading]
        return html_table(f"Audit: {self.after.name}, means, 95% intervals; judged by p (Holm)", header, cells)


_AUDIT = TypeAdapter(Audit)
_CLOSE = 1e-6


def _digest(values: dict[str, Any]) -> str | None:
    """None for values that are not JSON, such as NaN."""
    try:
        return sha256_json(values)
    except ValueError:
        return None


def _require_finite(rows: list[dict[str, Any]]) -> None:
    """Raise for estimates of a file that are not finite numbers."""
    for row in rows:
        for side in ("before", "after", "difference"):
            if not all(isinstance(value, int | float) and isfinite(value) for value in row[side].values()):
                raise InterpError(f"behaviour {row['name']!r}: its {side} is not finite ({row[side]}); audit again")


def _require_plausible(rows: tuple[AuditRow, ...]) -> None:
    """Raise for numbers that no measurement gives."""
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise InterpError(f"two behaviours of an audit have the same name; got {', '.join(names)}")
    for row in rows:
        sides = (row.before, row.after, row.difference)
        least, most = (0.0, 1.0) if row.unit == "rate" else (-inf, inf)
        bounds = ((least, most), (least, most), (least - most, most - least))
        wrong = {
            "its counts of items": len({side.n for side in sides}) > 1 or row.after.n < 1 or row.missing < 0,
            "its groups": not 0 <= row.n_groups <= row.after.n,
            "its intervals": not all(
                low - _CLOSE <= side.low <= side.estimate + _CLOSE
                and side.estimate - _CLOSE <= side.high <= high + _CLOSE
                for side, (low, high) in zip(sides, bounds, strict=True)
            ),
            "its difference": abs(row.after.estimate - row.before.estimate - row.difference.estimate) > _CLOSE,
            "its p-values": not 0 <= min(row.p, row.p_holm) <= max(row.p, row.p_holm) <= 1,
        }
        for what in (what for what, is_wrong in wrong.items() if is_wrong):
            raise InterpError(f"behaviour {row.name!r}: {what} cannot have been measured ({row}); audit again")


def audit(
    before: HookedModel,
    after: HookedModel | Recipe | None,
    behaviours: Sequence[Behaviour],
    examples: int = 6,
    seed: int = 0,
    *,
    recipe: Recipe | None = None,
    baselines: Iterable[str] | None = None,
    instruction: str | None = None,
    cache: ScoreCache | str | Path | None = None,
) -> Audit:
    """Measure behaviours before and after an edit, on the same items.

    Args:
        before: The unedited model.
        after: The edited model; or a recipe, which is run on `before` with hooks; or None, to measure `before` without
            an edit.
        behaviours: The behaviours to measure, with distinct names, such as those of `interp.suite`.
        examples: Number of example replies to keep per behaviour, changed replies first. None are kept for behaviours
            marked `secret`.
        seed: Seed of the intervals and of random baselines.
        recipe: The recipe that `after` was made with. Needed for the random baseline if `after` is a checkpoint that
            does not contain its recipe.
        baselines: "random", "prompt", both or neither. Default: every baseline that applies; none if `after` is None.
        instruction: Text of the prompt-only baseline. By default it tells the model to stop the audited harms.
        cache: A folder (or `ScoreCache`) of earlier scores, which are reused.

    Returns:
        The audit. Save it with `.save`, or pass it to `interp.decide`.

    Raises:
        InterpError: The models have different tokenizers, two behaviours have the same name, a baseline is
            unknown or needs a recipe, or logits are NaN.

    Example:
        >>> from interp.auditing import Audit, text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> record = interp.audit(model, recipe, [loss], baselines=["prompt"])
        >>> record["loss"].after.n, [baseline.name for baseline in record.baselines]
        (2, ['prompt'])
        >>> record.save(tmp / "audit.json")
        >>> Audit.read(tmp / "audit.json") == record
        True
    """
    if examples < 0:
        raise InterpError(f"examples is {examples}; expected a number of items per behaviour, or 0")
    edit = recipe_of_edit(after, recipe)
    default = BASELINES if edit else ("prompt",) if after else ()
    _require_distinct(behaviours)
    instruction = instruction_against(behaviours) if instruction is None else instruction
    if isinstance(after, HookedModel):
        require_comparable(before, after, list(behaviours))
    plain = ModelCondition(before)
    edited = ModelCondition(after) if isinstance(after, HookedModel) else ModelCondition(before, after)
    names = list(default if baselines is None else baselines)
    controls = baseline_conditions(before, edit, names, instruction, seed)
    scores = cache if isinstance(cache, ScoreCache) else ScoreCache(cache)
    remedy = f"continues from the scores in {scores.folder}" if scores.folder else "continues only with cache=FOLDER"
    with on_interrupt(f"the same call {remedy}"):
        _measure([plain, *([edited] if after else []), *chain(*controls.values())], behaviours, scores)
    pairs = [(b, scores.scores(plain, b), scores.scores(edited, b)) for b in behaviours]
    unsaved = before.identity.model_copy(update={"name": f"{before.name}, edited" if edit else before.name})
    return Audit(
        rows=audit_rows(pairs, seed),
        before=before.identity,
        after=after.identity if isinstance(after, HookedModel) else unsaved,
        examples=tuple(example for pair in pairs for example in _examples(*pair)[:examples]),
        baselines=tuple(
            baseline_of_scores(name, group, behaviours, scores, plain, seed) for name, group in controls.items()
        ),
        recipe=establish_recipe(before, after),
        suite=suite_digest(behaviours),
        instruction=instruction if "prompt" in controls else "",
        seed=seed,
        versions=versions(),
    )


def _measure(conditions: Sequence[ModelCondition], behaviours: Sequence[Behaviour], cache: ScoreCache) -> None:
    """Measure what the cache does not hold yet."""
    missing = [pair for pair in product(conditions, behaviours) if cache.get(*pair) is None]
    for condition, behaviour in track(missing, "audit", size=lambda pair: len(pair[1]), unit="items"):
        cache.scores(condition, behaviour)


def suite_digest(behaviours: Iterable[Behaviour]) -> str:
    """SHA-256 of a suite, independent of the order of its behaviours."""
    return sha256_json(sorted(behaviour.digest for behaviour in behaviours))


def _require_distinct(behaviours: Sequence[Behaviour]) -> None:
    """Raise for equal names, and for behaviours with too few items for an interval."""
    names = [behaviour.name for behaviour in behaviours]
    if not names or len(set(names)) < len(names):
        raise InterpError(f"an audit needs behaviours of different names; got {names}")
    for behaviour in behaviours:
        if behaviour.unit != "rate" and len(set(behaviour.groups) or behaviour.prompts) < 2:
            raise InterpError(
                f"behaviour {behaviour.name!r} has one item, or one group of items, so its spread is unknown; give at "
                "least two (--items)"
            )


def audit_rows(pairs: Sequence[tuple[Behaviour, Scores, Scores]], seed: int) -> tuple[AuditRow, ...]:
    """Behaviours compared by their scores before and after, with p-values corrected for their number."""
    comparisons = [_compare(*pair, seed) for pair in pairs]
    corrected = holm([comparison.p for comparison in comparisons])
    return tuple(
        AuditRow(**_row_fields(behaviour), **_row_fields(comparison), p_holm=p)
        for (behaviour, _, _), comparison, p in zip(pairs, comparisons, corrected, strict=True)
    )


def _compare(behaviour: Behaviour, before: Scores, after: Scores, seed: int) -> Comparison:
    try:
        return compare(before.values, after.values, behaviour.groups, behaviour.unit, seed)
    except InterpError as problem:
        raise InterpError(f"behaviour {behaviour.name!r}: {problem}; remove it from the suite") from None


def _row_fields(record: Behaviour | Comparison) -> dict[str, Any]:
    """Those values of a record that a row has a field for."""
    return {f.name: getattr(record, f.name) for f in fields(AuditRow) if hasattr(record, f.name)}


def _examples(behaviour: Behaviour, before: Scores, after: Scores) -> list[AuditExample]:
    """The replies to each item, where the behaviour reads replies that may be shown; changed scores first."""
    if behaviour.secret:
        return []
    items = zip(behaviour.prompts, before.replies, after.replies, before.values, after.values, strict=False)
    changed_first = sorted(items, key=lambda item: item[3] == item[4])
    return [AuditExample(behaviour.name, prompt, old, new) for prompt, old, new, _, _ in changed_first]
