"""The front of a sweep, measured again on items that no trial saw.

The best of many noisy points is chosen partly for its noise, so that its change on the choosing items is too good: the
shrinkage says by how much. Every interval is one of 1 - 0.05 / points, so that those of all confirmed points cover
together. Next to each point stand random edits of the same shapes and strengths, and a no-op: the model without an
edit, measured again after all edits, so that scores that differ by themselves, or what an edit left behind, would show.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from interp.auditing.behaviours import Kind, Unit
from interp.auditing.policy.schema import ends
from interp.auditing.statistics.comparison import Estimate, compare_scores
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import read_json, write_json
from interp.search.sweeps.objectives import Goals, ItemValues

CONFIRMED = "confirm.json"


@dataclass(frozen=True)
class ConfirmedChange(Displayed):
    """What a point does to one behaviour.

    Attributes:
        name, kind, unit: Those of the behaviour.
        chosen: The change on the choosing items.
        before, after, change: On the confirming items, with simultaneous intervals.
        kept: Whether the bound is kept by the whole interval, or exceeded by the whole of it; None between, or without.
        random: The change of each random edit, on the confirming items.
        no_op: The change without an edit, on the confirming items.
    """

    name: str
    kind: Kind
    unit: Unit
    chosen: float
    before: Estimate
    after: Estimate
    change: Estimate
    kept: bool | None = None
    random: tuple[float, ...] = ()
    no_op: float | None = None

    @property
    def shrinkage(self) -> float:
        """How much of the change on the choosing items is not there on the confirming ones."""
        return self.chosen - self.change.estimate

    def _card(self) -> Card:
        return self.name, [("choosing", self.chosen), ("confirming", self.change), ("shrinkage", self.shrinkage)]


@dataclass(frozen=True)
class ConfirmedPoint(Displayed):
    """A point of the front.

    Attributes:
        trial: The number of its trial.
        changes: One per behaviour.
    """

    trial: int
    changes: tuple[ConfirmedChange, ...]

    def __getitem__(self, name: str) -> ConfirmedChange:
        """The change of a behaviour."""
        return next(change for change in self.changes if change.name == name)

    def _card(self) -> Card:
        return f"trial {self.trial}", [(change.name, change.change) for change in self.changes]


_POINTS = TypeAdapter(tuple[ConfirmedPoint, ...])


def confirmed_point(
    goals: Goals,
    trial: int,
    chosen: tuple[ItemValues, ItemValues],
    confirmed: tuple[ItemValues, ItemValues],
    random: Sequence[ItemValues],
    no_op: ItemValues,
    points: int,
    seed: int = 0,
) -> ConfirmedPoint:
    """A point, from scores by behaviour.

    Args:
        goals: Behaviours (on the confirming items), objectives and constraints.
        trial: Its number.
        chosen: Scores on the choosing items, of the unedited model and of the point.
        confirmed: The same on the confirming items.
        random: Scores of random edits on the confirming items.
        no_op: Scores on the confirming items without an edit, measured again.
        points: How many points are confirmed.
        seed: Seed of the intervals.
    """
    changes = []
    for name, behaviour in goals.behaviours.items():
        old, new = confirmed[0][name], confirmed[1][name]
        result = compare_scores(old, new, behaviour.groups, behaviour.unit, seed, level=1 - 0.05 / points)
        first, none = _mean_change(chosen[0][name], chosen[1][name]), _mean_change(old, no_op[name])
        draws = tuple(_mean_change(old, draw[name]) for draw in random)
        bound = goals.constraints.get(name)
        kept = None if bound is None else bound.kept(*ends(result, bound.metric, behaviour.chance))
        estimates = result.before, result.after, result.difference
        changes.append(ConfirmedChange(name, behaviour.kind, behaviour.unit, first, *estimates, kept, draws, none))
    return ConfirmedPoint(trial, tuple(changes))


def _mean_change(before: Sequence[float], after: Sequence[float]) -> float:
    return float(np.nanmean(np.subtract(after, before)))


def write_confirmed(folder: Path, points: Sequence[ConfirmedPoint]) -> None:
    """Write what was confirmed into a sweep's folder."""
    write_json(folder / CONFIRMED, {"points": [asdict(point) for point in points]})


def read_confirmed(folder: str | Path) -> tuple[ConfirmedPoint, ...]:
    """What was confirmed of a sweep; empty while nothing is.

    Raises:
        InterpError: The file is damaged.
    """
    file = Path(folder) / CONFIRMED
    if not file.is_file():
        return ()
    content: Mapping[str, Any] = read_json(file)
    try:
        return _POINTS.validate_python(content["points"])
    except (KeyError, TypeError, ValueError) as problem:
        raise InterpError(f"{file}: not what interp sweep wrote ({problem}); run the sweep again") from None
