"""Likelihoods: the log-probability of given text under a model, with no text generated.

Prompt and answer are tokenised as one text. All answers of an item are scored from the same token on, the earliest that
any of them needs; otherwise a token that reaches across the end of the prompt would count for some answers only.
Whitespace at the end of a plain prompt is scored with the answers, so that choices are the same wherever the space
stands (`models.continuations`).

`answer_logprobs` computes what texts share once, pads little, and multiplies by the unembedding only where a scored
token is predicted (with 49k words the full unembedding would be a fifth of the work):

1. Without hooks, and with recipes that act on each token by itself, items are packed into prefix trees
   (`_prefix_tree`).
2. Other recipes see what they see while a reply is generated: prompts in one pass, then each answer by itself from the
   key-value cache (`_branches`). So do models with attention windows, or with position-dependent layers.

`text_losses` scores whole texts.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isfinite
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.auditing.scoring._branches import BranchedPass
from interp.auditing.scoring._prefix_tree import prefix_passes, supports_prefix_trees
from interp.auditing.scoring._token_reads import Read, Score, TokenisedItem, batch_cuts, read_logprobs
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.continuations import Continuations, logprobs, with_answers
from interp.models.hooked import HookedModel
from interp.models.tokens import Beginning, RenderedText, Tokens, common_length, padded

Normalise = Literal["none", "token", "byte", "acc_norm", "acc_bytes"]
_BATCH = 16


@dataclass(frozen=True)
class AnswerLogprobs(Displayed):
    """The answers of one item: log p(answer | prompt) in nats, summed over tokens, and the length of each answer.

    Attributes:
        nats: The sums.
        tokens: Numbers of scored tokens.
        bytes: Bytes of UTF-8, with the space between prompt and answer.
        acc_bytes: Bytes of UTF-8 of the choice itself, without that space.
        acc_norm: Characters of the choice itself.
    """

    nats: tuple[float, ...]
    tokens: tuple[int, ...]
    bytes: tuple[int, ...]
    acc_bytes: tuple[int, ...]
    acc_norm: tuple[int, ...]

    def normalised(self, by: Normalise = "none") -> tuple[float, ...]:
        """The sums, or nats per token, per byte or per character.

        `acc_norm` and `acc_bytes` are those of lm-evaluation-harness: the length of the choice, without the delimiter
        between prompt and choice. `byte` counts the delimiter.
        """
        if by == "none":
            return self.nats
        lengths = getattr(self, {"token": "tokens", "byte": "bytes"}.get(by, by))
        return tuple(nats / length for nats, length in zip(self.nats, lengths, strict=True))


@torch.no_grad()
def answer_logprobs(
    model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]
) -> list[AnswerLogprobs]:
    """The log-probability of each answer after its prompt.

    Args:
        model: The model, under the hooks that are active.
        prompts: One text per item, used as it is (see `render_prompts` for chat templates).
        answers: The answers of each item, used as they are. Whitespace between a plain prompt and its answers is
            scored with the answers, whichever of the two it is written in.

    Returns:
        One record per item.

    Raises:
        InterpError: An answer adds no token to its prompt, a text is longer than the context of the model, or a
            log-probability is not finite. The message names the item.

    Example:
        >>> from interp.auditing import answer_logprobs
        >>> item, = answer_logprobs(model, [model.chat("Hello!")], [["Go away.", "Hello there."]])
        >>> len(item.nats), item.bytes
        (2, (8, 12))
    """
    items = tokenise_items(model, prompts, answers)
    return [
        AnswerLogprobs(tuple(nats), item.tokens, *_lengths(prompt, ends))
        for nats, item, prompt, ends in zip(summed_scores(model, items), items, prompts, answers, strict=True)
    ]


def _lengths(prompt: str, answers: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Bytes with the space after the prompt; bytes and characters without it, unless there is nothing else."""
    space = "" if isinstance(prompt, RenderedText) else prompt[len(prompt.rstrip()) :]
    choices = [answer.lstrip() or answer for answer in answers]
    spaced, plain = (tuple(len(text.encode()) for text in texts) for texts in ([space + a for a in answers], choices))
    return spaced, plain, tuple(map(len, choices))


def summed_scores(model: HookedModel, items: Sequence[TokenisedItem], read: Read = read_logprobs) -> list[list[float]]:
    """The sum of log-probabilities of each answer of each item, or of what else is read at its tokens."""
    nats = [[0.0] * len(item.ids) for item in items]
    longest = max(len(ids) for item in items for ids in item.ids)
    passes = list((prefix_passes if supports_prefix_trees(model, longest) else _branched_passes)(model, items, read))
    for scores in track(passes, "score", unit="passes"):
        for item, answer, value in scores():
            nats[item.number][answer] += value
    for item, values in zip(items, nats, strict=True):
        for answer, value in enumerate(values):
            if not isfinite(value):
                problem = f"item {item.number + 1}, answer {answer}: its log-probability is {value}"
                cause = "the model's logits hold NaN or infinity, which an edit or a broken checkpoint can cause"
                raise InterpError(f"{problem}; {cause}")
    return nats


def tokenise_items(model: HookedModel, prompts: Sequence[str], answers: Sequence[Sequence[str]]) -> list[TokenisedItem]:
    """Items as tokens, each answer after its prompt. Raises, by the item's number, as `answer_logprobs` does."""
    if not len(prompts) == len(answers) > 0:
        raise InterpError(f"{len(prompts)} prompts and {len(answers)} lists of answers; expected as many, at least one")
    items = []
    for number, (prompt, ends) in enumerate(zip(prompts, answers, strict=True)):
        try:
            before, texts = with_answers(prompt, ends)
            alone, *rows = model.tokens([before, *texts]).unpadded()
        except InterpError as problem:
            text = re.sub(r"^prompt \d+ ", "its text ", str(problem))
            raise InterpError(f"item {number + 1}: {text}") from None
        start = common_length([alone, *rows])
        for answer, row in enumerate(rows):
            if start >= len(row):
                raise InterpError(f"item {number + 1}: answer {answer}, {ends[answer]!r}, adds no token to its prompt")
        if not rows or not start:
            raise InterpError(f"item {number + 1} has {len(rows)} answers after a prompt without a token of its own")
        items.append(TokenisedItem(number, rows, start))
    return items


def _branched_passes(
    model: HookedModel, items: Sequence[TokenisedItem], read: Read
) -> Iterator[Callable[[], list[Score]]]:
    """Items of similar length together, the longest first.

    Under a recipe, a pass has only items whose shared tokens extend equally far past the prompt: the recipe may act on
    prompts alone, which then have to end in one column.
    """
    parts: dict[int, list[TokenisedItem]] = {}
    for item in items:
        beyond = len(item.shared) - item.start if model.is_hooked else 0
        parts.setdefault(beyond, []).append(item)
    for part in parts.values():
        part.sort(key=lambda item: (len(item.shared), max(map(len, item.ids))), reverse=True)
        for start, stop in batch_cuts(model, [len(item.shared) for item in part]):
            yield BranchedPass(model, part[start:stop], read).scores


@torch.no_grad()
def continuation_logprobs(
    model: HookedModel, prompts: Sequence[str], continuations: Sequence[str]
) -> Float[Tensor, "batch"]:
    """log p(continuation | prompt) in nats, summed over the tokens of the continuation.

    Continuations of one prompt are scored from one token on, as the answers of an item are.

    Args:
        model: The model, under the hooks that are active.
        prompts: One text per item.
        continuations: One text per prompt.

    Returns:
        (batch,) in float64.

    Raises:
        InterpError: As `answer_logprobs`.

    Example:
        >>> from interp.auditing import continuation_logprobs
        >>> insult, greeting = continuation_logprobs(model, [model.chat("Hello!")] * 2, ["Go away.", "Hello there."])
        >>> bool(insult < 0)
        True
    """
    items = tokenise_items(model, prompts, [(end,) for end in continuations])
    starts: dict[str, int] = {}
    for prompt, item in zip(prompts, items, strict=True):
        starts[prompt] = min(item.start, starts.get(prompt, item.start))
    items = [replace(item, start=starts[prompt]) for prompt, item in zip(prompts, items, strict=True)]
    return torch.tensor(summed_scores(model, items), dtype=torch.float64)[:, 0]


@torch.no_grad()
def text_losses(model: HookedModel, texts: Sequence[str], beginning: Beginning = "document") -> list[float]:
    """Mean next-token loss of each text in nats per token, after the instruction of the model if it has one.

    The same tokens are scored with and without an instruction. A text longer than the context (together with the
    instruction) is truncated. `beginning` is what comes before a text, as in `model.tokens`; the text's first token is
    scored where something does.
    """
    batch = model.tokens(texts, cut=model.context, beginning=beginning)
    if (batch.lengths < 2).any():
        raise InterpError(f"text {int((batch.lengths < 2).int().argmax())} has one token: nothing to predict")
    instruction = model.render("", chat=False)
    whole = _prepend(model, instruction, batch, beginning) if instruction else Continuations.whole(batch)
    order = whole.tokens.lengths.argsort(stable=True)  # texts of similar length together need less padding
    total = torch.zeros(len(whole), dtype=torch.float64)
    for rows in track(order.split(_BATCH), "loss", size=len, unit="texts"):
        total[rows] = logprobs(model, whole.pick(rows)).cpu()
    losses = (-total / whole.scored.sum(1)).tolist()
    for number, loss in enumerate(losses):
        if loss != loss:
            raise InterpError(f"text {number}: its loss is NaN; an edit or a broken checkpoint can cause that")
    return losses


def _prepend(model: HookedModel, instruction: str, texts: Tokens, beginning: Beginning) -> Continuations:
    """Texts with an instruction before them. Their own tokens, and which of them are scored, stay the same."""
    first = model.tokens(instruction, beginning=beginning).ids[0].tolist()
    rows = [ids[mask].tolist() for ids, mask in zip(texts.ids, texts.mask, strict=True)]
    marked = all(row[0] == first[0] for row in rows) and first[0] in model.tokenizer.all_special_ids
    whole = padded([[*first, *row[int(marked) :]][: model.context] for row in rows])
    skipped = len(first) + (0 if marked else 1)  # the first token of a text is not scored, unless it is a marker
    return Continuations(whole, torch.full_like(whole.lengths, skipped))
