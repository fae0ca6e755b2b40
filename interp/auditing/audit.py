"""Audit: behaviours of a model before and after an edit, on the same items, with intervals."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind, Scores, Unit
from interp.auditing.statistics import Estimate, mean_interval, paired_difference
from interp.core.display import table
from interp.core.errors import InterpError
from interp.core.files import read_json, write_json
from interp.core.progress import track
from interp.models.hooked import HookedModel
from interp.models.reference import ModelReference


@dataclass(frozen=True)
class Row:
    """One behaviour: estimates before and after, and the paired difference after - before."""

    name: str
    kind: Kind
    unit: Unit
    statement: str
    before: Estimate
    after: Estimate
    difference: Estimate


@dataclass(frozen=True)
class Example:
    """One item's replies side by side."""

    behaviour: str
    prompt: str
    before: str
    after: str


@dataclass(frozen=True)
class Audit:
    """The comparison of two models over behaviours."""

    rows: tuple[Row, ...]
    before: ModelReference
    after: ModelReference
    examples: tuple[Example, ...] = ()

    def __getitem__(self, name: str) -> Row:
        for row in self.rows:
            if row.name == name:
                return row
        raise InterpError(f"behaviour {name!r} was not audited; audited: {', '.join(row.name for row in self.rows)}")

    def save(self, file: str | Path) -> None:
        """Write JSON."""
        rows, examples = [asdict(row) for row in self.rows], [asdict(example) for example in self.examples]
        models = {"before": self.before.model_dump(), "after": self.after.model_dump()}
        write_json(Path(file), {"rows": rows, "examples": examples, **models})

    @classmethod
    def read(cls, file: str | Path) -> "Audit":
        """The inverse of `save`. Raises where the file is not an audit."""
        values = read_json(file)
        try:
            rows = tuple(_row(row) for row in values["rows"])
            before, after = (ModelReference.parse(values[side], str(file)) for side in ("before", "after"))
            return cls(rows, before, after, tuple(Example(**example) for example in values["examples"]))
        except (KeyError, TypeError) as problem:
            raise InterpError(f"{file}: not an audit ({problem}); expected a file written by interp audit") from None

    def _repr_html_(self) -> str:
        cells = [[row.name, row.kind, row.before, row.after, row.difference] for row in self.rows]
        return table("Audit", ["behaviour", "kind", "before", "after", "difference"], [list(row) for row in cells])


def audit(
    before: HookedModel, after: HookedModel, behaviours: Sequence[Behaviour], examples: int = 6, seed: int = 0
) -> Audit:
    """Measure each behaviour in both models on the same items.

    Keeps up to `examples` items a behaviour, those first whose score changed.
    """
    names = [behaviour.name for behaviour in behaviours]
    if not names or len(set(names)) < len(names):
        raise InterpError(f"an audit needs behaviours of different names; got {names}")
    rows: list[Row] = []
    kept: list[Example] = []
    for behaviour in track(behaviours, "audit"):
        first, second = behaviour.measure(before), behaviour.measure(after)
        rows.append(_compare(behaviour, first, second, seed))
        kept += _examples(behaviour, first, second)[:examples]
    return Audit(tuple(rows), before.reference, after.reference, tuple(kept))


def _compare(behaviour: Behaviour, before: Scores, after: Scores, seed: int) -> Row:
    estimates = mean_interval(before.values, seed), mean_interval(after.values, seed)
    change = paired_difference(before.values, after.values, seed)
    return Row(behaviour.name, behaviour.kind, behaviour.unit, behaviour.statement, *estimates, change)


def _examples(behaviour: Behaviour, before: Scores, after: Scores) -> list[Example]:
    """Side by side, where the behaviour reads replies."""
    items = zip(behaviour.prompts, before.replies, after.replies, before.values, after.values, strict=False)
    changed_first = sorted(items, key=lambda item: item[3] == item[4])
    return [Example(behaviour.name, prompt, old, new) for prompt, old, new, _, _ in changed_first]


def _row(values: dict[str, Any]) -> Row:
    estimates = {side: Estimate(**values[side]) for side in ("before", "after", "difference")}
    for side, estimate in estimates.items():
        if not all(isfinite(value) for value in asdict(estimate).values()):
            raise InterpError(f"behaviour {values['name']!r}: its {side} is not finite ({estimate}); audit again")
    return Row(**{**values, **estimates})
