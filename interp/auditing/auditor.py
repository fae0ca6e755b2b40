"""The audit runner: behaviours of a model before and after an edit, on the same items, and baselines beside.

1. Every behaviour is measured in both models: same items, same prompts, same decoding. What was measured is kept
   (`cache`), so that a killed audit goes on, and the unedited model is measured once for all edits.
2. The paired difference gets an interval and a p-value (`statistics.compare`), and Holm's correction over the suite
   (Holm 1979, "A simple sequentially rejective multiple test procedure").
3. Beside the edit stand baselines that cost no insight (`baselines`), on the same items.

Audit: what was measured of behaviours before and after an edit. `interp.auditing.auditor` makes one.

The record carries digests of what it was made of, and of itself: a file that was changed is refused. A digest is no
signature: it shows accidents and careless edits, not a forger who computes it anew.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from itertools import product
from math import inf, isfinite
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from interp.auditing.baselines import BASELINES, Baseline, asking, beside, require_known
from interp.auditing.behaviours import Behaviour, Kind, Scores, Unit
from interp.auditing.conditions import ModelCondition, establish_recipe, recipe_of_edit, require_comparable
from interp.auditing.score_cache import ScoreCache
from interp.auditing.statistics.comparison import Comparison, Estimate, compare, holm
from interp.core.digests import versions
from interp.core.display import html_table
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_json, write_json
from interp.core.progress import track
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference

FORMAT = 2


@dataclass(frozen=True)
class AuditRow:
    """One behaviour: estimates before and after, and the paired difference after - before.

    `p` is that of no difference, `p_holm` the same corrected for the number of behaviours, `effect` the standardised
    difference (None in a file where it is infinite), `detectable` the least difference that so many items find with
    80 % power. `n_groups` counts clusters of items, `missing` pairs without a score. `constant`: every item scored
    alike in both models, so the scorer may be unable to tell anything apart.
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
        """The difference with the sign of good: above zero where a harm or loss fell, or what must hold rose."""
        return -self.difference.estimate if self.kind == "harm" or self.unit == "nats" else self.difference.estimate


@dataclass(frozen=True)
class AuditExample:
    """One item's replies side by side."""

    behaviour: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Audit:
    """The comparison of two models over behaviours.

    `recipe` is the digest of the edit, if it is known. Where a recipe was audited and no checkpoint, `after` has the
    weights of `before`; where a model was measured as it is, `after` is `before`. `suite` is the digest of the
    behaviours, `instruction` what the prompt-only baseline was told.
    """

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
        """Whether it compares two models, and does not measure one as it is."""
        return bool(self.recipe) or self.after != self.before

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""
        return sha256_json(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Plain values; numbers that are not finite become None."""
        models = {"before": self.before.model_dump(), "after": self.after.model_dump()}
        return _plain({"format": FORMAT} | {name: getattr(self, name) for name in _PLAIN} | models)

    def save(self, file: str | Path) -> None:
        """Write JSON, with the digest of its content."""
        write_json(Path(file), self.to_json() | {"sha256": self.digest})

    @classmethod
    def read(cls, file: str | Path) -> "Audit":
        """The inverse of `save`. Raises where the file is not an audit, or was changed since it was written."""
        values = read_json(file)
        try:
            if values.get("format", FORMAT) != FORMAT:
                raise InterpError(f"{file}: an audit of format {values['format']}; audit again with this version")
            rows = tuple(_row(row) for row in values["rows"])
            if values.pop("sha256") != _digest(values):
                raise InterpError(f"{file}: changed since it was written (its SHA-256 is another); audit again")
            _AUDIT.validate_json(json.dumps({**values, "examples": [], "baselines": []}), strict=True)
            _require_sense(rows)
            del values["format"]
            sides = {side: ModelReference.parse(values[side], str(file)) for side in ("before", "after")}
            own = {
                "rows": rows,
                "examples": tuple(AuditExample(**example) for example in values["examples"]),
                "baselines": tuple(Baseline.from_json(one) for one in values["baselines"]),
            }
            return cls(**{**values, **sides, **own})
        except (KeyError, TypeError, AttributeError, ValidationError) as problem:
            raise InterpError(f"{file}: not an audit ({problem}); expected a file written by interp audit") from None

    def _repr_html_(self) -> str:
        cells = [[row.name, row.kind, row.before, row.after, row.difference, f"{row.p_holm:.3g}"] for row in self.rows]
        header = ["behaviour", "kind", "before", "after", "difference", "p (Holm)"]
        return html_table("Audit", header, [list(row) for row in cells])


_CLOSE = 1e-6
_AUDIT = TypeAdapter(Audit)
_PLAIN = ("rows", "examples", "baselines", "recipe", "suite", "instruction", "seed", "versions")


def _row(values: dict[str, Any]) -> AuditRow:
    estimates = {side: Estimate(**values[side]) for side in ("before", "after", "difference")}
    for side, estimate in estimates.items():
        if not all(isinstance(value, int | float) and isfinite(value) for value in asdict(estimate).values()):
            raise InterpError(f"behaviour {values['name']!r}: its {side} is not finite ({estimate}); audit again")
    return AuditRow(**{**values, **estimates})


def _require_sense(rows: tuple[AuditRow, ...]) -> None:
    """Raise for numbers that no measurement gives."""
    names = [row.name for row in rows]
    if len(set(names)) < len(names):
        raise InterpError(f"behaviours of an audit have names of their own; got {', '.join(names)}")
    for row in rows:
        sides = (row.before, row.after, row.difference)
        least, most = (0.0, 1.0) if row.unit == "rate" else (-inf, inf)
        bounds = ((least, most), (least, most), (least - most, most - least))
        wrong = {
            "its counts of items": len({one.n for one in sides}) > 1 or row.after.n < 1 or row.missing < 0,
            "its groups": not 0 <= row.n_groups <= row.after.n,
            "its intervals": not all(
                low - _CLOSE <= one.low <= one.estimate + _CLOSE and one.estimate - _CLOSE <= one.high <= high + _CLOSE
                for one, (low, high) in zip(sides, bounds, strict=True)
            ),
            "its difference": abs(row.after.estimate - row.before.estimate - row.difference.estimate) > _CLOSE,
            "its p-values": not 0 <= min(row.p, row.p_holm) <= max(row.p, row.p_holm) <= 1,
        }
        for what in (what for what, is_wrong in wrong.items() if is_wrong):
            raise InterpError(f"behaviour {row.name!r}: {what} can't be what was measured ({row}); audit again")


def _digest(values: dict[str, Any]) -> str | None:
    """None for what is no JSON: NaN."""
    try:
        return sha256_json(values)
    except ValueError:
        return None


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return None if isinstance(value, float) and not isfinite(value) else value


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
    """Measure each behaviour before and after an edit, on the same items.

    `after` is the edited model, or a recipe for hooks on `before`; None measures the model as it is. `baselines` are
    names of `BASELINES`; if not given, all that can be made (random ones need the recipe: `recipe`, or the one that an
    exported checkpoint carries), and none beside a model as it is.
    `instruction` is for the prompt-only baseline. Keeps up to `examples` items a behaviour, those first whose score
    changed, and none of a secret one. Raises for models with different tokenizers.
    """
    if examples < 0:
        raise InterpError(f"examples is {examples}; expected how many items a behaviour to keep, or 0")
    edit = recipe_of_edit(after, recipe)
    usual = BASELINES if edit else ("prompt",) if after else ()
    wanted = require_known(usual if baselines is None else baselines)
    suite, told = _suite(behaviours), asking(behaviours) if instruction is None else instruction
    if isinstance(after, HookedModel):
        require_comparable(before, after, suite)
    pair = [
        ModelCondition(before),
        ModelCondition(after) if isinstance(after, HookedModel) else ModelCondition(before, after),
    ]
    others = beside(before, edit, wanted, told, seed)
    kept = cache if isinstance(cache, ScoreCache) else ScoreCache(cache)
    measure_behaviours([*pair[: 2 if after else 1], *(one for group in others.values() for one in group)], suite, kept)
    found = [(b, kept.scores(pair[0], b), kept.scores(pair[1], b)) for b in suite]
    reference = before.identity.model_copy(update={"name": f"{before.name}, edited" if edit else before.name})
    return Audit(
        rows=rows_of(found, seed),
        before=before.identity,
        after=after.identity if isinstance(after, HookedModel) else reference,
        examples=tuple(example for one in found for example in _examples(*one)[:examples]),
        baselines=tuple(Baseline.of(name, group, suite, kept, pair[0], seed) for name, group in others.items()),
        recipe=establish_recipe(before, after),
        suite=suite_digest(suite),
        instruction=told if "prompt" in wanted else "",
        seed=seed,
        versions=versions(),
    )


def measure_behaviours(
    conditions: Sequence[ModelCondition], behaviours: Sequence[Behaviour], cache: ScoreCache
) -> None:
    """Measure what the cache does not hold yet."""
    todo = [pair for pair in product(conditions, behaviours) if cache.get(*pair) is None]
    for condition, behaviour in track(todo, "audit", size=lambda pair: len(pair[1]), unit="items"):
        cache.scores(condition, behaviour)


def suite_digest(behaviours: Iterable[Behaviour]) -> str:
    """SHA-256 of a suite, whatever the order of its behaviours."""
    return sha256_json(sorted(behaviour.digest for behaviour in behaviours))


def _suite(behaviours: Sequence[Behaviour]) -> list[Behaviour]:
    names = [behaviour.name for behaviour in behaviours]
    if not names or len(set(names)) < len(names):
        raise InterpError(f"an audit needs behaviours of different names; got {names}")
    for one in behaviours:
        if one.unit != "rate" and len(set(one.groups) or one.prompts) < 2:
            raise InterpError(
                f"behaviour {one.name!r} has one item, or one group of items, which says nothing of the spread; give "
                "at least two (--items)"
            )
    return list(behaviours)


def rows_of(found: Sequence[tuple[Behaviour, Scores, Scores]], seed: int) -> tuple[AuditRow, ...]:
    """Behaviours compared by their scores before and after, corrected for how many there are."""
    compared = [_compared(*one, seed) for one in found]
    corrected = holm([comparison.p for comparison in compared])
    return tuple(
        AuditRow(
            **{name: getattr(behaviour, name) for name in _OF_BEHAVIOUR},
            **{name: getattr(comparison, name) for name in _OF_COMPARISON},
            p_holm=p,
        )
        for (behaviour, _, _), comparison, p in zip(found, compared, corrected, strict=True)
    )


def _compared(behaviour: Behaviour, old: Scores, new: Scores, seed: int) -> Comparison:
    try:
        return compare(old.values, new.values, behaviour.groups, behaviour.unit, seed)
    except InterpError as problem:
        raise InterpError(f"behaviour {behaviour.name!r}: {problem}; leave it out of the suite") from None


_OF_BEHAVIOUR = (
    "name", "kind", "unit", "statement", "language", "scenario", "scorer", "chance", "secret", "digest",
)  # fmt: skip
_OF_COMPARISON = ("before", "after", "difference", "p", "effect", "detectable", "n_groups", "missing", "constant")


def _examples(behaviour: Behaviour, before: Scores, after: Scores) -> list[AuditExample]:
    """Side by side, where the behaviour reads replies that may be shown; those first whose score changed."""
    if behaviour.secret:
        return []
    items = zip(behaviour.prompts, before.replies, after.replies, before.values, after.values, strict=False)
    changed_first = sorted(items, key=lambda item: item[3] == item[4])
    return [AuditExample(behaviour.name, prompt, old, new) for prompt, old, new, _, _ in changed_first]
