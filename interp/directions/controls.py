"""Baselines of a search: how well directions that do not depend on the contrast separate its held-out pairs.

- random: five directions drawn isotropically, the same at every site.
- shuffled: five differences of means, each computed after the sides of a random half of the training pairs are
  swapped. This is what the fit finds without knowing which side is which.

Neither has a sign, so the score of a seed is the larger of AUROC and 1 - AUROC, and the score of a baseline is the mean
over seeds: somewhat above 0.5 where there is nothing to find. A direction that scores no higher is not evidence.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import Displayed, displayed
from interp.directions.contrast_activations import ContrastActivations
from interp.directions.scores import auroc
from interp.models.sites import Site

SEEDS = 5
NAMES = ("random", "shuffled")


@dataclass(frozen=True)
class ControlScore(Displayed):
    """A baseline's held-out AUROC at one site and position: the mean, and the value of each seed."""

    name: str
    site: Site
    position: int
    auroc: float
    each: tuple[float, ...]


def control_scores(cell: ContrastActivations, seed: int = 0) -> list[ControlScore]:
    """Score both baselines at one site and position.

    Args:
        cell: The activations to fit on and to score on.
        seed: Draws the directions and the swaps.

    Returns:
        The scores of "random" and of "shuffled".

    Example:
        >>> from interp.directions.contrast_activations import ContrastActivations, Sides
        >>> sides = Sides(torch.randn(64, 8), torch.randn(64, 8))
        >>> cell = ContrastActivations(interp.models.Site("resid_post", 0), -1, sides, sides)
        >>> [score.name for score in interp.directions.control_scores(cell)]
        ['random', 'shuffled']
    """
    generators = [torch.Generator().manual_seed(SEEDS * seed + index) for index in range(SEEDS)]
    random = [torch.randn(cell.fit.positive.shape[1], generator=generator) for generator in generators]
    shuffled = [_shuffled(cell, generator) for generator in generators]
    return displayed([_score(name, cell, rows) for name, rows in zip(NAMES, (random, shuffled), strict=True)])


def _shuffled(cell: ContrastActivations, generator: torch.Generator) -> Float[Tensor, "d_model"]:
    differences = cell.fit.positive.double() - cell.fit.negative.double()
    sign = torch.ones(len(differences), 1, dtype=torch.float64)
    sign[torch.randperm(len(sign), generator=generator)[: len(sign) // 2]] = -1
    return (sign * differences).mean(0).float()


def _score(name: str, cell: ContrastActivations, rows: list[Tensor]) -> ControlScore:
    values = cell.held_out.read(lambda x: x @ torch.stack(rows).T)
    areas = [auroc(positive, negative) for positive, negative in zip(*(side.T for side in values), strict=True)]
    each = tuple(max(area, 1 - area) for area in areas)
    return ControlScore(name, cell.site, cell.position, sum(each) / len(each), each)
