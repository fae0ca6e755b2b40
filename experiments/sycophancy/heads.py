"""Which attention heads copy what the user said, and models without them.

Three ways to find them, all on the fitting half:

- `copying`: how much each head attends, from where an answer's token is predicted, to that token in the user's words.
- `attributed`: what zeroing each head would change in the margin, to first order: -z · (gradient of the margin).
- `learned`: one factor a head, trained to raise the margin after a wrong hint and to keep the loss on text low. Heads
  are scaled by their factors, or those with the smallest are zeroed.

What it does not know: heads that stand in for others once these are gone, except `learned`, which sees them all at
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import torch
from items import Item
from jaxtyping import Float
from scoring import differences
from torch import Tensor
from torch.nn.functional import softplus

from interp.attribution import attention_patterns
from interp.interventions import Recipe, Replace, Scale
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform

Heads = list[tuple[int, int]]


def zeroed(heads: Heads) -> Recipe:
    """Heads, as (layer, head), that write nothing."""
    layers = sorted({layer for layer, _ in heads})
    return Recipe(
        [(f"z.{layer}", Replace(units=sorted(h for place, h in heads if place == layer))) for layer in layers]
    )


def scaled(factors: Float[Tensor, "layer head"]) -> list[tuple[str, Transform]]:
    """Each head's output times its factor, with a gradient for the factors."""
    return [(f"z.{layer}", lambda z, row=row: z * row[:, None]) for layer, row in enumerate(factors)]


def as_recipe(factors: Float[Tensor, "layer head"]) -> Recipe:
    """The same as a recipe, which is saved and exported."""
    return Recipe([(f"z.{layer}", Scale(row)) for layer, row in enumerate(factors)])


def ranked(scores: Float[Tensor, "layer head"], count: int) -> Heads:
    """The heads with the largest scores."""
    width = scores.shape[1]
    return [(int(place) // width, int(place) % width) for place in scores.flatten().argsort(descending=True)[:count]]


def drawn(model: HookedModel, count: int, seed: int) -> Heads:
    """As many, at random."""
    width = model.config.num_attention_heads
    places = Random(seed).sample(range(model.n_layers * width), count)
    return [(place // width, place % width) for place in places]


@torch.no_grad()
def copying(model: HookedModel, questions: Sequence[Item]) -> Float[Tensor, "layer head"]:
    """Mean attention from where a wrong answer's later tokens are predicted to those tokens in the hint."""
    total, count = torch.zeros(model.n_layers, model.config.num_attention_heads), 0
    for item in questions:
        prompt, answer = (token_ids(model, text) for text in (model.chat(item.ask("wrong hint")), item.wrong))
        hinted = token_ids(model, " " + item.wrong)
        start = next((s for s in range(len(prompt), -1, -1) if prompt[s : s + len(hinted)] == hinted), None)
        if start is None or hinted[1:] != answer[1:]:
            continue
        weights = attention_patterns(model, [prompt + answer]).weights
        for j in range(1, len(answer)):
            total, count = total + weights[:, :, len(prompt) + j - 1, start + j], count + 1
    return total / max(count, 1)


def attributed(model: HookedModel, questions: Sequence[Item], batch: int = 16) -> Float[Tensor, "layer head"]:
    """What zeroing each head would add to the mean margin after a wrong hint, to first order."""
    factors = torch.ones(model.n_layers, model.config.num_attention_heads, requires_grad=True)
    with frozen_weights(model):
        for start in range(0, len(questions), batch):
            differences(model, questions[start : start + batch], "wrong hint", scaled(factors)).sum().backward()
    return -factors.grad / len(questions)


def learned(
    model: HookedModel,
    questions: Sequence[Item],
    passages: Sequence[str],
    steps: int,
    weight: float = 4.0,
    rate: float = 0.08,
    seed: int = 0,
) -> Float[Tensor, "layer head"]:
    """Factors from 0 to 2 that lower softplus(-margin after a wrong hint) + weight · loss on text, by Adam.

    A batch is small and a step is long, so the mean over the last third of the steps is taken.
    """
    factors = torch.ones(model.n_layers, model.config.num_attention_heads, requires_grad=True)
    optimiser, rng = torch.optim.Adam([factors], lr=rate), Random(seed)
    total, kept = torch.zeros_like(factors), max(1, steps // 3)
    with frozen_weights(model):
        for step in range(steps):
            recipe = scaled(factors)
            margin = differences(model, rng.sample(list(questions), min(12, len(questions))), "wrong hint", recipe)
            batch = model.tokens(rng.sample(list(passages), min(6, len(passages))), cut=128)
            with model.hooked(recipe):
                objective = softplus(-margin).mean() + weight * model.mean_loss(batch)
            optimiser.zero_grad()
            objective.backward()
            optimiser.step()
            del margin, objective  # with their graphs, before the next are made
            with torch.no_grad():
                factors.clamp_(0, 2)
                total += factors if step >= steps - kept else 0
    return total / kept


def token_ids(model: HookedModel, text: str) -> list[int]:
    """The tokens of a text, without any that the tokenizer adds."""
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]
