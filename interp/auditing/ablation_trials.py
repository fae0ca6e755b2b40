"""Trials: candidate directions judged by intervention, because reading a behaviour is not causing it.

Each candidate is projected out at every writer, and the behaviours are measured on items kept for this choice. Its
cost adds what is left of the target to what was lost elsewhere: rates that fell (or other harms that rose), and
losses' relative rise.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from interp.auditing.behaviours import Behaviour, mean_scores
from interp.core.progress import track
from interp.directions.finder import Finding
from interp.interventions.ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class AblationTrial:
    """A candidate, its cost (lower is better), and each behaviour's mean score before and under it."""

    finding: Finding
    cost: float
    before: dict[str, float]
    after: dict[str, float]


def rank_by_ablation(
    model: HookedModel, candidates: Sequence[Finding], behaviours: Sequence[Behaviour], target: str
) -> list[AblationTrial]:
    """A trial of each candidate, cheapest first."""
    before = mean_scores(model, behaviours)
    trials = [_trial(model, candidate, behaviours, target, before) for candidate in track(candidates, "try")]
    return sorted(trials, key=lambda trial: trial.cost)


def _trial(
    model: HookedModel, candidate: Finding, behaviours: Sequence[Behaviour], target: str, before: dict[str, float]
) -> AblationTrial:
    with model.hooked(Recipe([("writers", Project(candidate.direction))])):
        after = mean_scores(model, behaviours)
    cost = sum(_cost(behaviour, before[behaviour.name], after[behaviour.name], target) for behaviour in behaviours)
    return AblationTrial(candidate, cost, before, after)


def _cost(behaviour: Behaviour, before: float, after: float, target: str) -> float:
    if behaviour.name == target:
        return after
    if behaviour.unit == "nats":
        return max(0.0, after / before - 1)
    return max(0.0, after - before if behaviour.kind == "harm" else before - after)
