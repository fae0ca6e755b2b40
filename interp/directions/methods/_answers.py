"""The texts of a contrast as continuations: what a direction trained on the model's output is trained with."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.models.continuations import Continuations
from interp.models.hooked import HookedModel
from interp.models.sites import Site


class Answers(NamedTuple):
    """The two sides of a contrast, a row a pair."""

    positive: Continuations
    negative: Continuations

    def pick(self, pairs: Int[Tensor, "n"]) -> "Answers":
        """The pairs of these numbers."""
        return Answers(self.positive.pick(pairs), self.negative.pick(pairs))


def answer_continuations(model: HookedModel, contrast: Contrast) -> Answers:
    """Prompts, the same on both sides, with two answers. Raises for pairs of two prompts, and without answers."""
    if not _answered(contrast):
        raise InterpError(f"{contrast.name} has no answers; training on answers needs one prompt with two answers")
    for number, pair in enumerate(contrast.pairs, 1):
        positive, negative = pair.positive, pair.negative
        if (positive.prompt, positive.before) != (negative.prompt, negative.before):
            raise InterpError(
                f"{contrast.name}, row {number}: the sides have two prompts; training on answers needs one prompt with "
                "two answers, as preference pairs and A/B questions have"
            )
    return answer_texts(model, contrast)


def answer_texts(model: HookedModel, contrast: Contrast) -> Answers:
    """Both sides' answers, or where the contrast has none, their texts from the second token on.

    Raises where some turns have answers and others have none.
    """
    whole = contrast.texts(model.render, model.chat)
    if not _answered(contrast):
        return Answers(*(Continuations.whole(model.tokens(side)) for side in whole))
    prompts = contrast.prompts(model.render, model.chat)
    ends = [pair.positive.answer for pair in contrast.pairs], [pair.negative.answer for pair in contrast.pairs]
    return Answers(*(Continuations.of(model, *side) for side in zip(prompts, ends, strict=True)))


def residual_site(model: HookedModel, site: str | Site) -> Site:
    """The one site that is named. Raises for several, and for one that is not in the residual stream's basis."""
    found = model.resolve(site)
    if len(found) != 1 or not found[0].in_residual_basis:
        raise InterpError(
            f"{site} names {', '.join(map(str, found))}; expected one site in the residual stream's basis"
        )
    return found[0]


def adding(vector: Float[Tensor, "*row d_model"]) -> Callable[[Tensor], Tensor]:
    """What adds the vector, or each row's own, to every token."""
    return lambda x: x + vector.to(x)


def require_steps(**values: int | float) -> None:
    """Raise for numbers that are not above zero, by name."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InterpError(f"{name} is {value}; expected a finite number above 0")


def batches(count: int, size: int, steps: int, seed: int) -> list[Int[Tensor, "_"]]:
    """Numbers of rows for each step: all rows in a random order, then in another one, and so on."""
    generator = torch.Generator().manual_seed(seed)
    found: list[Tensor] = []
    while len(found) < steps:
        found += torch.randperm(count, generator=generator).split(min(size, count))
    return found[:steps]


def _answered(contrast: Contrast) -> bool:
    have = {bool(turn.answer) for pair in contrast.pairs for turn in (pair.positive, pair.negative)}
    if len(have) > 1:
        raise InterpError(f"{contrast.name}: some turns have an answer and others have none; give all of them one")
    return have == {True}
