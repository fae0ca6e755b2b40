"""What is read of a pass: the log-probabilities of chosen tokens, and no other logits."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.models.hooked import HookedModel
from interp.models.tokens import common_length

_LOGITS = 50_000_000  # held at once
_TOKENS = 2048  # of a pass
_ROWS = 128  # of a pass
_PASS = 80  # positions that cost as much as a pass of none

Score = tuple["TokenisedItem", int, float]  # an item, its answer's number, the log-probability of one of its tokens


@dataclass(frozen=True, eq=False)
class TokenisedItem:
    """An item's answers as tokens, each with its prompt. Tokens from `scored` on are the answer's."""

    number: int
    ids: list[list[int]]
    scored: list[int]
    bytes: tuple[int, ...]

    @property
    def shared(self) -> list[int]:
        """What all of them begin with."""
        return self.ids[0][: common_length(self.ids)]

    def ends(self, shared: int) -> list[list[int]]:
        """What is to be read of each answer after that; its last token predicts nothing that is scored."""
        return [row[shared:-1] for row in self.ids]

    @property
    def tokens(self) -> tuple[int, ...]:
        """How many tokens of each answer are scored."""
        return tuple(len(row) - start for row, start in zip(self.ids, self.scored, strict=True))


def positions_of_a_pass(model: HookedModel) -> int:
    """How many positions a pass may have, so that neither activations nor logits take much memory."""
    return max(1, min(_TOKENS, _LOGITS // model.hf.get_output_embeddings().weight.shape[0]))


def batch_cuts(lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
    """Where to cut rows, longest first, into passes: the cuts of least cost, by dynamic programming.

    A pass costs as many positions as its rows, padded to its longest, have, and about `_PASS` more for reading the
    weights.
    """
    least, cut = [0.0], [0]
    for stop in range(1, len(lengths) + 1):
        starts = [start for start in range(max(0, stop - _ROWS), stop) if (stop - start) * lengths[start] <= limit]
        costs = {start: least[start] + (stop - start) * lengths[start] + _PASS for start in starts or [stop - 1]}
        cut.append(min(costs, key=lambda start: costs[start]))
        least.append(costs[cut[-1]])
    groups, stop = [], len(lengths)
    while stop:
        groups.append((cut[stop], stop))
        stop = cut[stop]
    return groups[::-1]


@dataclass(frozen=True)
class TokenRead:
    """Where a token's log-probability is to be read, and what it counts for."""

    row: int
    column: int
    token: int
    item: TokenisedItem
    answer: int


def read_logprobs(
    model: HookedModel, reads: Sequence[TokenRead], inputs: dict[str, Tensor], **options: Any
) -> tuple[list[Score], Any]:
    """A forward pass: what is read, and the model's output."""
    places = sorted({(read.row, read.column) for read in reads})
    with _only(model.hf.get_output_embeddings(), torch.tensor(places, dtype=torch.long).reshape(-1, 2)):
        out = model.hf(**{name: x.to(model.device) for name, x in inputs.items()}, **options)
    if not reads:
        return [], out
    number = {place: n for n, place in enumerate(places)}
    chosen = torch.tensor([(number[read.row, read.column], read.token) for read in reads], device=out.logits.device)
    values = _logprobs(out.logits[0], chosen).tolist()
    return [(read.item, read.answer, value) for read, value in zip(reads, values, strict=True)], out


def _logprobs(logits: Float[Tensor, "n d_vocab"], chosen: Int[Tensor, "reads 2"]) -> Float[Tensor, "reads"]:
    total = logits.float().logsumexp(-1).double()
    return logits[chosen[:, 0], chosen[:, 1]].double() - total[chosen[:, 0]]


@contextmanager
def _only(unembedding: nn.Module, places: Int[Tensor, "n 2"]) -> Iterator[None]:
    """Have the unembedding given chosen rows and columns alone, as one sequence.

    What a model does to its logits afterwards (a scale, a cap) is done to each by itself, so they are the model's own.
    """

    def pick(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        return (hidden[places[:, 0].to(hidden.device), places[:, 1].to(hidden.device)][None], *rest)

    handle = unembedding.register_forward_pre_hook(pick)
    try:
        yield
    finally:
        handle.remove()
