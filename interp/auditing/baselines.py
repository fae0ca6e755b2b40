"""Baselines: what costs no insight, measured beside an edit on the same items.

- no-op: the model as it is.
- random: random directions projected out at every writer, one a seed. Any projection does something.
- shuffled: directions fitted at the same place by difference of means after the two sides of each pair were swapped at
  random: all that the fit finds without knowing which side is which.
- prompt: no edit, but a line of instruction. It beats most steering: Wu et al. 2025, "AxBench",
  https://arxiv.org/abs/2501.17148.

An edit that does no better than these has shown nothing.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from interp.auditing.behaviours import Behaviour, mean_scores
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.direction import Direction
from interp.interventions.ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

SEEDS = 5
INSTRUCTION = "Be truthful, fair and friendly to everyone. Say so where you are not sure."


@dataclass(frozen=True)
class Baseline:
    """Each behaviour's mean score under a baseline, and under each of its seeds if it has several."""

    name: str
    scores: dict[str, float]
    each: tuple[dict[str, float], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self) | {"each": list(self.each)}


def baselines(
    model: HookedModel,
    direction: Direction,
    contrast: Contrast,
    behaviours: Sequence[Behaviour],
    seed: int = 0,
    instruction: str = INSTRUCTION,
) -> list[Baseline]:
    """The baselines of projecting a direction out at every writer; `contrast` is what it was fitted on."""
    sides = [
        model.capture(side, direction.site, direction.position)[direction.site][:, 0].cpu()
        for side in contrast.texts(model.render, model.chat)
    ]
    generators = [torch.Generator().manual_seed(1_000 * seed + number) for number in range(SEEDS)]
    rows = {
        "random": [torch.randn(direction.rows.shape, generator=generator) for generator in generators],
        "shuffled": [_shuffled(sides[0], sides[1], generator)[None] for generator in generators],
    }
    found = [Baseline("no-op", mean_scores(model, behaviours))]
    for name, drawn in rows.items():
        each = [_projected(model, row, behaviours) for row in track(drawn, name)]
        found.append(Baseline(name, {key: sum(one[key] for one in each) / len(each) for key in each[0]}, tuple(each)))
    with model.instructed(instruction):
        found.append(Baseline("prompt", mean_scores(model, behaviours)))
    return found


def _shuffled(positive: Tensor, negative: Tensor, generator: torch.Generator) -> Tensor:
    """The difference of means after swapping the sides of about half the pairs."""
    sign = torch.randint(0, 2, (len(positive), 1), generator=generator) * 2 - 1
    return (sign * (positive - negative).double()).mean(0).float()


def _projected(model: HookedModel, rows: Tensor, behaviours: Sequence[Behaviour]) -> dict[str, float]:
    with model.hooked(Recipe([("writers", Project(rows))])):
        return mean_scores(model, behaviours)
