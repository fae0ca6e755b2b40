"""Scores from log-probabilities: what a model thinks of given text, no text generated."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from interp.auditing.likelihoods import answer_logprobs
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.continuations import Continuations, logprobs
from interp.models.hooked import HookedModel
from interp.models.tokens import Tokens, padded

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
