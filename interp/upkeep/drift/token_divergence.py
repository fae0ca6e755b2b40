"""Token-level divergence: KL of the next token between two models on the same text, and where it is largest.

The divergence is KL(first || second) of the whole vocabulary, in nats, at every token that is predicted. A document's
mean is one draw of the interval.

Limitations: a model that changed only behind a prompt which the text does not have does not diverge on it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.auditing.statistics.comparison import Estimate, mean_interval
from interp.core.display import Displayed
from interp.data.packing import PackedRows
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence

_BEFORE = 24  # tokens of context that are shown


@dataclass(frozen=True)
class DivergentToken(Displayed):
    """A place where two models predict differently.

    Attributes:
        document: Its number in the corpus, from 0.
        before: The text before it.
        token: What comes next in the text.
        nats: KL(first || second) there.
        first, second: The likeliest next token of each model, and its probability.
    """

    document: int
    before: str
    token: str
    nats: float
    first: tuple[str, float]
    second: tuple[str, float]


@dataclass(frozen=True)
class TokenDivergence(Displayed):
    """KL(first || second) of the next token in nats.

    Attributes:
        mean: The mean over documents of their tokens' mean, with its interval.
        largest_hundredth: The divergence that one token of a hundred exceeds.
        disagree: Share of tokens where the likeliest next token differs.
        tokens: Number of tokens.
        examples: The tokens where it is largest, none of them twice.
    """

    mean: Estimate
    largest_hundredth: float
    disagree: float
    tokens: int
    examples: tuple[DivergentToken, ...]


def document_means(values: Tensor, number: Int[Tensor, "token"], documents: int) -> Float[Tensor, "document *value"]:
    """The mean of the rows of each document that has any; `number` is each row's document."""
    sums = torch.zeros(documents, *values.shape[1:], dtype=torch.float64).index_add(0, number, values.double())
    counts = torch.bincount(number, minlength=documents)
    kept = counts > 0
    return sums[kept] / counts[kept].view(-1, *[1] * (values.ndim - 1))


class DivergenceTally:
    """Takes in batches of logits; `result` is the divergence over all of them."""

    def __init__(self) -> None:
        self._parts: list[list[Tensor]] = []

    def update(
        self, batch: PackedRows, first: Float[Tensor, "batch pos d_vocab"], second: Float[Tensor, "batch pos d_vocab"]
    ) -> None:
        """Take in the logits of a batch."""
        kept = batch.predicted
        sides = [logits[:, :-1][kept] for logits in (first, second)]
        likeliest = [side.softmax(-1).max(-1) for side in sides]
        nats = kl_divergence(*(side.double() for side in sides)).clamp(min=0)
        tops = [part for side in likeliest for part in (side.values, side.indices)]
        self._parts.append([batch.document[:, 1:][kept], nats, *tops])

    def result(self, model: HookedModel, rows: PackedRows, examples: int, seed: int) -> TokenDivergence:
        """The divergence, with the given number of examples, over the rows that were taken in."""
        document, nats, *tops = (torch.cat(part) for part in zip(*self._parts, strict=True))
        means = document_means(nats, document, int(document.max()) + 1)
        places = rows.predicted.nonzero()
        shown = dict[tuple[str, str], DivergentToken]()
        for index in nats.argsort(descending=True, stable=True).tolist():
            if len(shown) == examples or nats[index] == 0:
                break
            example = self._example(model, rows, places[index].tolist(), float(nats[index]), tops, index)
            shown.setdefault((example.before, example.token), example)
        return TokenDivergence(
            mean=mean_interval(means.tolist(), seed, unit="nats"),
            largest_hundredth=float(nats.quantile(0.99)),
            disagree=float((tops[1] != tops[3]).double().mean()),
            tokens=len(nats),
            examples=tuple(shown.values()),
        )

    def _example(
        self, model: HookedModel, rows: PackedRows, place: list[int], nats: float, tops: Sequence[Tensor], index: int
    ) -> DivergentToken:
        row, column = place
        start = max(0, column + 1 - min(_BEFORE, int(rows.position_ids[row, column]) + 1))
        words = [token_text(model.tokenizer, token) for token in rows.ids[row, start : column + 2].tolist()]
        first, second = (
            (token_text(model.tokenizer, int(tokens[index])), float(shares[index]))
            for shares, tokens in (tops[:2], tops[2:])
        )
        number = int(rows.document[row, column])
        return DivergentToken(number, "".join(words[:-1]), words[-1], nats, first, second)
