"""How likely answers are to follow their prompts, at the price of what is read.

What texts share is computed once, little is padding, and the unembedding is multiplied only where a scored token is
predicted: with 49k words it would be a fifth of the work.

Without hooks, and with a recipe that acts on each token by itself, items lie side by side in one pass (`tries`). Other
recipes see what they see while a reply is written: prompts in one pass, answers after it through the key-value cache,
each by itself (`branches`); so do models whose attention has windows, or positions of its own.
Prompt and answer are tokenised as one text; the answer's tokens are those past what this shares with the prompt alone.

Scores from log-probabilities: what a model thinks of given text, no text generated.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.auditing.scoring import _prefix_tree
from interp.auditing.scoring._branches import Batch
from interp.auditing.scoring._token_reads import TokenisedItem, batch_cuts, positions_of_a_pass
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.continuations import Continuations, logprobs
from interp.models.hooked import HookedModel
from interp.models.tokens import Tokens, common_length, padded

Normalise = Literal["none", "token", "byte"]


@dataclass(frozen=True)
class AnswerLogprobs:
    """Of one item's answers: log p(answer | prompt) in nats, summed over tokens, and how long each answer is."""

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]

    def normalised(self, by: Normalise = "none") -> tuple[float, ...]:
        """The sums, or nats a token or a byte of UTF-8."""
        lengths = {"none": [1] * len(self.nats), "token": self.tokens, "byte": self.bytes}[by]
        return tuple(nats / length for nats, length in zip(self.nats, lengths, strict=True))


@torch.no_grad()
def answer_logprobs(
    model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[AnswerLogprobs]:
    """How likely each answer is to follow its prompt. Texts are as they are: a space between is part of the answer.

    Raises, with the item's number, for an answer that adds no token, a text longer than the model's context,
    and log-probabilities that are no numbers.
    """
    items = _items(model, prompts, answers)
    nats = [[0.0] * len(item.ids) for item in items]
    longest = max(len(ids) for item in items for ids in item.ids)
    passes: list[_prefix_tree.PrefixPass | Batch] = []
    passes += (
        _prefix_tree.prefix_passes(model, items)
        if _prefix_tree.supports_prefix_trees(model, longest)
        else _branched(model, items)
    )
    for each in track(passes, "score") if len(passes) > 4 else passes:
        for item, answer, value in each.scores():
            nats[item.number][answer] += value
    for item, values in zip(items, nats, strict=True):
        for answer, value in enumerate(values):
            if not isfinite(value):
                raise InterpError(
                    f"item {item.number + 1}, answer {answer}: its log-probability is {value}; the model's logits hold "
                    "NaN or infinity, which an edit or a broken checkpoint can cause"
                )
    return [AnswerLogprobs(tuple(values), item.tokens, item.bytes) for item, values in zip(items, nats, strict=True)]


def _items(model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[TokenisedItem]:
    if not len(prompts) == len(answers) > 0:
        raise InterpError(
            f"got {len(prompts)} prompts and {len(answers)} lists of answers; expected as many of each, at least one"
        )
    items = []
    for number, (prompt, ends) in enumerate(zip(prompts, answers, strict=True)):
        try:
            alone, *rows = (_ids(model, prompt + end) for end in ("", *ends))
        except InterpError as problem:
            text = str(problem).replace("prompt 0 ", "its text ")
            raise InterpError(f"item {number + 1}: {text}") from None
        scored = [common_length([alone, row]) for row in rows]
        for answer, (row, start) in enumerate(zip(rows, scored, strict=True)):
            if start >= len(row):
                raise InterpError(f"item {number + 1}: answer {answer}, {ends[answer]!r}, adds no token to its prompt")
        if not rows or not min(scored):
            raise InterpError(f"item {number + 1} has {len(rows)} answers after a prompt of no token of its own")
        items.append(TokenisedItem(number, rows, scored, tuple(len(end.encode()) for end in ends)))
    return items


def _ids(model: HookedModel, text: str) -> list[int]:
    return model.tokens(text).ids[0].tolist()


def _branched(model: HookedModel, items: Sequence[TokenisedItem]) -> Iterator[Batch]:
    """Items of like length together, the longest first.

    In a recipe's presence, only those whose shared part goes as far past the prompt: it may act on prompts alone, and
    these have to end in one column.
    """
    parts: dict[int, list[TokenisedItem]] = {}
    for item in items:
        beyond = len(item.shared) - min(item.scored) if model.inside_hooked else 0
        parts.setdefault(beyond, []).append(item)
    for part in parts.values():
        part.sort(key=lambda item: (len(item.shared), max(map(len, item.ids))), reverse=True)
        for start, stop in batch_cuts([len(item.shared) for item in part], positions_of_a_pass(model)):
            yield Batch(model, part[start:stop])


_BATCH = 16


def continuation_logprobs(
    model: HookedModel, prompts: Sequence[str], continuations: Sequence[str]
) -> Float[Tensor, "batch"]:
    """log p(continuation | prompt) in nats, summed over the continuation's tokens; see `answer_logprobs`."""
    found = answer_logprobs(model, prompts, [(end,) for end in continuations])
    return torch.tensor([item.nats[0] for item in found], dtype=torch.float64)


@torch.no_grad()
def text_losses(model: HookedModel, texts: Sequence[str]) -> list[float]:
    """Mean next-token loss of each text in nats a token, after the model's instruction where it has one.

    The same tokens are scored either way. A text longer than the context (with the instruction) is cut to it.
    """
    batch = model.tokens(texts, cut=model.context)
    if (batch.lengths < 2).any():
        raise InterpError(f"text {int((batch.lengths < 2).int().argmax())} has one token: nothing to predict")
    before = model.render("", chat=False)
    whole = _behind(model, before, batch) if before else Continuations.whole(batch)
    order = whole.tokens.lengths.argsort(stable=True)  # texts of like length together spare padding
    total = torch.zeros(len(whole), dtype=torch.float64)
    for rows in track(order.split(_BATCH), "loss"):
        total[rows] = logprobs(model, whole.pick(rows)).cpu()
    losses = (-total / whole.scored.sum(1)).tolist()
    for number, loss in enumerate(losses):
        if loss != loss:
            raise InterpError(f"text {number}: its loss is NaN; an edit or a broken checkpoint can cause that")
    return losses


def _behind(model: HookedModel, before: str, texts: Tokens) -> Continuations:
    """Texts behind another, each token as it was alone; those are scored that are scored alone."""
    first = model.tokens(before).ids[0].tolist()
    rows = [ids[mask].tolist() for ids, mask in zip(texts.ids, texts.mask, strict=True)]
    marked = all(row[0] == first[0] for row in rows) and first[0] in model.tokenizer.all_special_ids
    whole = padded([[*first, *row[int(marked) :]][: model.context] for row in rows])
    skipped = len(first) + (0 if marked else 1)  # what begins a text is not predicted, if it is no mark
    return Continuations(whole, torch.full_like(whole.lengths, skipped))
