"""Scores: which answer a model prefers, whether it says yes, and its loss on text.

An answer's score is the mean log-probability of its tokens. The prompt is read once into a cache, from which both
answers go on; what a recipe does is the same as if all were read anew.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from items import AGREEMENT, Item
from torch import Tensor

from interp.interventions import Recipe
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform

BATCH = 32
Recipes = Recipe | Iterable[tuple[str, Transform]]


@torch.no_grad()
def margins(model: HookedModel, questions: Sequence[Item], wording: str, recipe: Recipes = ()) -> Tensor:
    """Score of the right answer minus score of the wrong one, in nats a token; above zero the right is preferred."""
    return differences(model, questions, wording, recipe)


def differences(model: HookedModel, questions: Sequence[Item], wording: str, recipe: Recipes = ()) -> Tensor:
    """The same with the graph that gradients need."""
    prompts = [model.chat(item.ask(wording)) for item in questions]
    with model.hooked(recipe):
        right, wrong = score(model, prompts, [[item.right for item in questions], [item.wrong for item in questions]])
    return right - wrong


@torch.no_grad()
def assents(model: HookedModel, questions: Sequence[Item], wording: str, right: bool, recipe: Recipes = ()) -> Tensor:
    """Score of Yes minus score of No, where the user names the right answer or the wrong one."""
    answers = [item.right if right else item.wrong for item in questions]
    prompts = [
        model.chat(AGREEMENT[wording].format(question=item.question, answer=x))
        for item, x in zip(questions, answers, strict=True)
    ]
    with model.hooked(recipe):
        yes, no = score(model, prompts, [["Yes"] * len(prompts), ["No"] * len(prompts)])
    return yes - no


def score(model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[Tensor]:
    """For each list of answers, one a prompt, their scores; in float64."""
    columns = [torch.zeros(len(prompts), dtype=torch.float64) for _ in answers]
    order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        batch = model.tokens([prompts[row] for row in rows])
        read = model.hf(batch.ids, attention_mask=batch.mask.long(), use_cache=True, logits_to_keep=1)
        for column, replies in zip(columns, answers, strict=True):
            column[rows] = _continued(model, batch.mask, read, [replies[row] for row in rows])
    return columns


def _continued(model: HookedModel, before: Tensor, read: Any, replies: Sequence[str]) -> Tensor:
    """Scores of answers to prompts that were read."""
    ids = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in replies]
    width = max(map(len, ids))
    table = torch.tensor([row + [0] * (width - len(row)) for row in ids])
    real = torch.arange(width) < torch.tensor([[len(row)] for row in ids])
    logits = read.logits
    if width > 1:
        # A cache of its own, on the same tensors: reading an answer puts longer ones in their place.
        cache = copy.copy(read.past_key_values)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        mask = torch.cat([before, real[:, :-1]], dim=1).long()
        with model.forward_passes.branched(torch.arange(len(ids))):
            later = model.hf(table[:, :-1], attention_mask=mask, past_key_values=cache, use_cache=True).logits
        logits = torch.cat([logits, later], dim=1)
    token = logits.log_softmax(-1).gather(2, table[..., None])[..., 0].double()
    return (token * real).sum(1) / real.sum(1)


def loss(model: HookedModel, passages: Sequence[str], recipe: Recipes = (), tokens: int = 160) -> Tensor:
    """Mean loss of each passage, nats a token."""
    losses = []
    with model.hooked(recipe), torch.no_grad():
        for start in range(0, len(passages), BATCH // 4):
            batch = model.tokens(list(passages[start : start + BATCH // 4]), cut=tokens)
            logits = model.logits(batch)[:, :-1].log_softmax(-1)
            each = -logits.gather(2, batch.ids[:, 1:, None])[..., 0].double()
            kept = batch.mask[:, 1:] & batch.mask[:, :-1]
            losses.append((each * kept).sum(1) / kept.sum(1))
    return torch.cat(losses)
