"""What is asked of a trial: objectives, of which less is better, and constraints, of which at most 0 is kept.

Both are means over items, so that they can be tested on the first few (`stopping`). A constraint is a bound of a
policy (`Threshold`) on the estimate: its excess over the bound, item by item.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from interp.auditing.behaviours import Behaviour
from interp.auditing.policy.schema import Threshold
from interp.core.display import Displayed
from interp.core.errors import InterpError, nearest
from interp.search.sweeps.sweep_file import KL

ItemValues = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Goals(Displayed):
    """The objectives and constraints of a sweep.

    Args:
        behaviours: What is measured, by name.
        objectives: The names that are minimised (harms and losses) or maximised (the others).
        constraints: The bound of each behaviour that has one.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.search.sweeps.objectives import Goals
        >>> goals = Goals.of([text_loss("loss", ["The mill is by the river."])], ["loss"], (), ())
        >>> goals.costs({"loss": [2.5]})
        [2.5]
    """

    behaviours: Mapping[str, Behaviour]
    objectives: tuple[str, ...]
    constraints: Mapping[str, Threshold]

    @classmethod
    def of(
        cls,
        behaviours: Iterable[Behaviour],
        objectives: Sequence[str],
        constraints: Sequence[Threshold],
        bounds: Sequence[Threshold],
    ) -> "Goals":
        """The goals for behaviours. A bound by name replaces those of the kind; objectives have no bound of a kind."""
        known = {behaviour.name: behaviour for behaviour in behaviours}
        named = {bound.behaviour: bound for bound in constraints}
        default = tuple(x.name for x in known.values() if x.kind == "harm") + (KL,) * (KL in known)
        chosen = tuple(objectives) or default
        for name in (*chosen, *named):
            if name not in known:
                raise InterpError(f"no behaviour {name!r} is measured; {nearest(name, known)}")
        if not chosen or len(set(chosen)) < len(chosen):
            given = f"objectives are {list(chosen)}" if chosen else "no objective is given, and no harm measured"
            raise InterpError(f"{given}; expected different behaviours, at least one")
        for name, bound in named.items():
            if not bound.measures(known[name]):
                raise InterpError(
                    f"{name} is in the unit {known[name].unit}; give its constraint unit: {known[name].unit}"
                )
        for behaviour in known.values():
            general = [bound for bound in bounds if bound.names(behaviour)]
            if behaviour.name not in (*named, *chosen, KL) and general:
                named[behaviour.name] = general[0]
        return cls(known, chosen, named)

    def sign(self, name: str) -> int:
        """1 for a behaviour of which less is better (harms and losses), -1 for others."""
        return 1 if self.behaviours[name].kind == "harm" or self.behaviours[name].unit == "nats" else -1

    def costs(self, scores: ItemValues) -> list[float]:
        """The value of each objective, of which less is better, over items that have a score."""
        return [float(np.nanmean(self.item_costs(name, scores[name]))) for name in self.objectives]

    def item_costs(self, name: str, values: Sequence[float]) -> Float[ndarray, "item"]:
        """The same item by item."""
        return np.asarray(values, dtype=np.float64) * self.sign(name)

    def excess(self, name: str, before: Sequence[float], after: Sequence[float]) -> Float[ndarray, "item"]:
        """By how much each item exceeds the bound of a constraint; it is kept where the mean is at most 0."""
        bound, old, new = self.constraints[name], np.asarray(before), np.asarray(after)
        limit = bound.limit
        values = {
            "after": new - limit,
            "excess": new - (self.behaviours[name].chance or 0.0) - limit,
            "change": new - old - limit,
            "relative_change": new - old - limit * old,
        }[bound.metric]
        return values if bound.at_most is not None else -values

    def broken(self, before: ItemValues, after: ItemValues) -> dict[str, float]:
        """The mean excess of each constraint that was measured; those above 0 are broken."""
        measured = [name for name in self.constraints if name in after]
        return {name: float(np.nanmean(self.excess(name, before[name], after[name]))) for name in measured}


def dominates(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether a point is at least as good as another in all costs, and better in one."""
    return all(x <= y for x, y in zip(one, other, strict=True)) and any(x < y for x, y in zip(one, other, strict=True))
