"""Activations of a contrast's two sides at one site and position: one part to fit on, one held out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.display import Displayed, brief
from interp.core.errors import InterpError, located
from interp.data.contrast import Contrast
from interp.directions.methods.closed_form import require_sides
from interp.models.hooked import HookedModel
from interp.models.sites import Site


class Sides(NamedTuple):
    """Activations of a contrast's two sides, one row per pair, or numbers computed from them.

    Args:
        positive: Of the side that shows the behaviour, (pairs, d_model) or (pairs,).
        negative: Of the other side, of the same shape.

    Example:
        >>> sides = interp.directions.Sides(torch.ones(4, 3), torch.zeros(4, 3))
        >>> sides.read(lambda x: x.sum(1)).positive
        tensor([3., 3., 3., 3.])
    """

    positive: Float[Tensor, "pairs *d_model"]
    negative: Float[Tensor, "pairs *d_model"]

    def __repr__(self) -> str:
        return f"Sides(positive={brief(self.positive)}, negative={brief(self.negative)})"

    def read(self, function: Callable[[Tensor], Tensor]) -> "Sides":
        """A function of the activations, applied to both sides."""
        return Sides(function(self.positive), function(self.negative))

    def pick(self, pairs: Int[Tensor, "n"]) -> "Sides":
        """The pairs with these indices, which may repeat."""
        return Sides(self.positive[pairs], self.negative[pairs])


@dataclass(frozen=True)
class ContrastActivations(Displayed):
    """Both sides at one site and position: the part to fit on and the held-out part."""

    site: Site
    position: int
    fit: Sides
    held_out: Sides


def capture_contrast(
    model: HookedModel,
    train: Contrast,
    test: Contrast,
    sites: Sequence[Site],
    positions: Sequence[int],
    chat: bool = True,
) -> list[ContrastActivations]:
    """Capture both parts of a contrast at each site and position where its two sides differ.

    Args:
        model: The model.
        train: The pairs to fit on.
        test: The held-out pairs.
        sites: Where to read.
        positions: Tokens to read, counted from a prompt's end if negative.
        chat: Render prompts with the chat template, where the tokenizer has one.

    Returns:
        One record per site and position. Those at which both sides have the same activations, such as tokens before
        the first difference, are left out.

    Raises:
        InterpError: The two sides differ nowhere, or an activation is not finite.
    """
    captured = [capture_sides(model, part, sites, positions, chat) for part in (train, test)]
    cells = []
    for (site, position), fit in captured[0].items():
        if not torch.equal(*fit):
            cells.append(ContrastActivations(site, position, fit, captured[1][site, position]))
    if not cells:
        at = list(positions)
        raise InterpError(f"both sides have the same activations at positions {at}; choose some where they differ")
    return cells


def capture_sides(
    model: HookedModel, contrast: Contrast, sites: Sequence[Site], positions: Sequence[int], chat: bool = True
) -> dict[tuple[Site, int], Sides]:
    """Activations of both sides at each site and position, in float32 on the CPU. Raises where one is not finite."""
    texts = contrast.texts(partial(model.render, chat=chat), model.chat)
    captured = [model.capture(side, sites, positions, chat=False) for side in texts]
    sides = {
        (site, position): Sides(*(acts[site][:, column].cpu().float() for acts in captured))
        for site in sites
        for column, position in enumerate(positions)
    }
    for (site, position), pair in sides.items():
        with located(f"{site}, position {position}"):
            require_sides(*pair)
    return sides
