"""Scores from log-probabilities: what a model thinks of given text, no text generated."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.continuations import Continuations, logprobs
from interp.models.hooked import HookedModel
from interp.models.tokens import Tokens

_BATCH = 16


def continuation_logprobs(
    model: HookedModel, prompts: Sequence[str], continuations: Sequence[str]
) -> Float[Tensor, "batch"]:
    """log p(continuation | prompt) in nats, summed over the continuation's tokens.

    Prompt and continuation are tokenised as one text; see `Continuations`.
    """
    whole = Continuations.of(model, prompts, continuations)
    return _logprobs(model, whole, "score")


def prefers_first(
    model: HookedModel, prompts: Sequence[str], first: Sequence[str], second: Sequence[str]
) -> Float[Tensor, "batch"]:
    """1 where the first continuation is likelier than the second, 0 where the second is, one half for a tie.

    Where all pairs differ in their last token alone, as letters do, one forward pass a prompt serves both.
    """
    whole = [model.tokens([p + end for p, end in zip(prompts, ends, strict=True)]) for ends in (first, second)]
    if torch.equal(whole[0].mask, whole[1].mask) and torch.equal(whole[0].ids[:, :-1], whole[1].ids[:, :-1]):
        margins = _last_token_margins(model, *whole)
    else:
        margins = continuation_logprobs(model, prompts, first) - continuation_logprobs(model, prompts, second)
    return (margins.sign() + 1) / 2


def _last_token_margins(model: HookedModel, first: Tokens, second: Tokens) -> Float[Tensor, "batch"]:
    """Difference of the logits of the two last tokens, given all tokens before them."""
    prefix, pair = (
        Tokens(first.ids[:, :-1], first.mask[:, :-1]),
        torch.stack([first.ids[:, -1], second.ids[:, -1]], 1),
    )
    margins = []
    for start in track(range(0, len(prefix), _BATCH), "score"):
        logits = model.logits(prefix.rows(start, start + _BATCH), last=1)[:, 0].cpu()
        chosen = logits.gather(1, pair[start : start + _BATCH]).double()
        margins.append(chosen[:, 0] - chosen[:, 1])
    return torch.cat(margins)


def text_losses(model: HookedModel, texts: Sequence[str]) -> list[float]:
    """Mean next-token loss of each text in nats a token. A text longer than the context is cut to it."""
    batch = model.tokens(texts, cut=model.context)
    if (batch.lengths < 2).any():
        raise InterpError(f"text {int((batch.lengths < 2).int().argmax())} has one token: nothing to predict")
    total = _logprobs(model, Continuations.whole(batch), "loss")
    return (-total / (batch.lengths - 1)).tolist()


@torch.no_grad()
def _logprobs(model: HookedModel, whole: Continuations, title: str) -> Float[Tensor, "batch"]:
    starts = track(range(0, len(whole), _BATCH), title)
    return torch.cat([logprobs(model, whole.rows(start, start + _BATCH)).cpu() for start in starts])
