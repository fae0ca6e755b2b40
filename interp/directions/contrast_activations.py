"""Cells: what a model computes on the two sides of a contrast, at one site and position, to fit on and held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.directions.methods.closed_form import require_sides
from interp.models.hooked import HookedModel
from interp.models.sites import Site


class Sides(NamedTuple):
    """Activations of a contrast's two sides, one row a pair; or what a direction or latent reads of them."""

    positive: Float[Tensor, "pairs *d_model"]
    negative: Float[Tensor, "pairs *d_model"]

    def read(self, by: Callable[[Tensor], Tensor]) -> "Sides":
        """What a function of the activations reads of both."""
        return Sides(by(self.positive), by(self.negative))

    def pick(self, pairs: Int[Tensor, "n"]) -> "Sides":
        """The pairs of these numbers, which may repeat."""
        return Sides(self.positive[pairs], self.negative[pairs])


@dataclass(frozen=True)
class ContrastActivations:
    """The sides at one site and position: of the part to fit on, and of that held out."""

    site: Site
    position: int
    fit: Sides
    held_out: Sides


def capture_contrast(
    model: HookedModel, train: Contrast, test: Contrast, sites: Sequence[Site], positions: Sequence[int]
) -> list[ContrastActivations]:
    """Every cell at which the two sides differ; at tokens before the first difference there is nothing to find.

    Raises where there is none, and for activations that are not finite.
    """
    parts = [part.texts(model.render, model.chat) for part in (train, test)]
    captured = [[model.capture(side, sites, positions) for side in part] for part in parts]
    cells = []
    for site in sites:
        for column, position in enumerate(positions):
            fit, held_out = (Sides(*(acts[site][:, column].cpu().float() for acts in part)) for part in captured)
            for sides in (fit, held_out):
                _require(sides, f"{site}, position {position}")
            if not torch.equal(*fit):
                cells.append(ContrastActivations(site, position, fit, held_out))
    if not cells:
        raise InterpError(
            f"both sides have the same activations at positions {list(positions)}; choose positions at or after the "
            "first token that differs"
        )
    return cells


def _require(sides: Sides, where: str) -> None:
    try:
        require_sides(*sides)
    except InterpError as problem:
        raise InterpError(f"{where}: {problem}") from None
