"""The texts of a contrast as continuations, and what the methods that train through the model share."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.models.continuations import Continuations
from interp.models.hooked import HookedModel


class Answers(NamedTuple):
    """The two sides of a contrast, one row per pair."""

    positive: Continuations
    negative: Continuations

    def pick(self, pairs: Int[Tensor, "n"]) -> "Answers":
        """The pairs with these indices."""
        return Answers(self.positive.pick(pairs), self.negative.pick(pairs))


def answer_continuations(model: HookedModel, contrast: Contrast) -> Answers:
    """Pairs of one prompt with two answers. Raises where a pair has two prompts, and where there are no answers."""
    if not _has_answers(contrast):
        raise InterpError(f"{contrast.name} has no answers; training on answers needs one prompt with two answers")
    for number, pair in enumerate(contrast.pairs, 1):
        positive, negative = pair.positive, pair.negative
        if (positive.prompt, positive.before) != (negative.prompt, negative.before):
            row = f"{contrast.name}, row {number}"
            raise InterpError(f"{row}: the sides have two prompts; training on answers needs one with two answers")
    return answer_texts(model, contrast)


def answer_texts(model: HookedModel, contrast: Contrast) -> Answers:
    """The answers of both sides or, where the contrast has none, their texts from the second token on.

    Raises where some turns have answers and others have none.
    """
    if not _has_answers(contrast):
        return Answers(*(Continuations.whole(model.tokens(side)) for side in contrast.texts(model.render, model.chat)))
    prompts = contrast.prompts(model.render, model.chat)
    answers = [p.positive.answer for p in contrast.pairs], [p.negative.answer for p in contrast.pairs]
    sides = [Continuations.of(model, *side) for side in zip(prompts, answers, strict=True)]
    # Two answers to one prompt are compared, so they are scored from one token on.
    alike = torch.tensor([positive == negative for positive, negative in zip(*prompts, strict=True)])
    earliest = torch.minimum(sides[0].skipped, sides[1].skipped)
    return Answers(*(replace(side, skipped=torch.where(alike, earliest, side.skipped)) for side in sides))


def adding(vector: Float[Tensor, "*row d_model"]) -> Callable[[Tensor], Tensor]:
    """A transform that adds a vector, or one vector per row of the batch, to every token."""
    return lambda x: x + vector.to(x)


def require_positive(**values: int | float) -> None:
    """Raise where a number is not finite and above 0, with its name."""
    for name, value in values.items():
        if not 0 < value < float("inf"):
            raise InterpError(f"{name} is {value}; expected a finite number above 0")


def batches(count: int, size: int, steps: int, seed: int) -> list[Int[Tensor, "_"]]:
    """Indices of rows for each step: all rows in a random order, then in another, and so on."""
    generator = torch.Generator().manual_seed(seed)
    drawn: list[Tensor] = []
    while len(drawn) < steps:
        drawn += torch.randperm(count, generator=generator).split(min(size, count))
    return drawn[:steps]


def _has_answers(contrast: Contrast) -> bool:
    present = {bool(turn.answer) for pair in contrast.pairs for turn in (pair.positive, pair.negative)}
    if len(present) > 1:
        raise InterpError(f"{contrast.name}: some turns have an answer and others have none; give all of them one")
    return present == {True}
