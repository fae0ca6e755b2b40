"""Baselines of a search: how well directions separate held-out pairs that know nothing of the contrast.

- random: five directions drawn isotropically, the same at every site.
- shuffled: five differences of means, each after the two sides of half the training pairs, drawn at random, were
  swapped: all that the fit finds without knowing which side is which.

Neither has a right sign, so each seed's score is the larger of AUROC and 1 - AUROC, and the baseline's is their mean:
somewhat above 0.5 where there is nothing to find. A direction that separates no better has shown nothing.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.directions.contrast_activations import ContrastActivations
from interp.directions.scores import auroc
from interp.models.sites import Site

SEEDS = 5
NAMES = ("random", "shuffled")


@dataclass(frozen=True)
class ControlScore:
    """A baseline's held-out score at one site and position: the mean, and each seed's."""

    name: str
    site: Site
    position: int
    auroc: float
    each: tuple[float, ...]


def control_scores(cell: ContrastActivations, seed: int = 0) -> list[ControlScore]:
    """Both baselines of a cell."""
    generators = [torch.Generator().manual_seed(SEEDS * seed + number) for number in range(SEEDS)]
    drawn = [torch.randn(cell.fit.positive.shape[1], generator=generator) for generator in generators]
    shuffled = [_shuffled(cell, generator) for generator in generators]
    return [_scored(name, cell, rows) for name, rows in zip(NAMES, (drawn, shuffled), strict=True)]


def _shuffled(cell: ContrastActivations, generator: torch.Generator) -> Float[Tensor, "d_model"]:
    differences = cell.fit.positive.double() - cell.fit.negative.double()
    sign = torch.ones(len(differences), 1, dtype=torch.float64)
    sign[torch.randperm(len(sign), generator=generator)[: len(sign) // 2]] = -1
    return (sign * differences).mean(0).float()


def _scored(name: str, cell: ContrastActivations, rows: list[Tensor]) -> ControlScore:
    read = cell.held_out.read(lambda x: x @ torch.stack(rows).T)
    areas = [auroc(positive, negative) for positive, negative in zip(read.positive.T, read.negative.T, strict=True)]
    each = tuple(max(area, 1 - area) for area in areas)
    return ControlScore(name, cell.site, cell.position, sum(each) / len(each), each)
