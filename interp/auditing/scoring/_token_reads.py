"""Token reads: the log-probabilities of chosen tokens in a forward pass, and no other logits.

`TokenisedItem` is an item of a measurement as tokens; `TokenRead` says where the log-probability of one of its tokens
is read. `batch_cuts` cuts rows into passes. `_prefix_tree` and `_branches` build the passes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from interp.models.hooked import HookedModel
from interp.models.tokens import common_length

_LOGITS = 50_000_000  # in memory at once
_TOKENS = 2048  # per pass
_ROWS = 128  # per pass
_PASS = 80  # positions that cost as much as an empty pass


@dataclass(frozen=True, eq=False)
class TokenisedItem:
    """The answers of an item as tokens, each after the prompt. Tokens from `start` on, the same for all, are scored."""

    number: int
    ids: list[list[int]]
    start: int

    @property
    def shared(self) -> list[int]:
        """The tokens that all answers begin with."""
        return self.ids[0][: common_length(self.ids)]

    def ends(self, shared: int) -> list[list[int]]:
        """The rest of each answer without its last token, which predicts nothing that is scored."""
        return [row[shared:-1] for row in self.ids]

    @property
    def tokens(self) -> tuple[int, ...]:
        """The number of scored tokens of each answer."""
        return tuple(len(row) - self.start for row in self.ids)


Score = tuple[TokenisedItem, int, float]  # an item, the number of an answer, the log-probability of one token
Read = Callable[..., tuple[list[Score], Any]]  # as `read_logprobs`


def batch_cuts(model: HookedModel, lengths: Sequence[int]) -> list[tuple[int, int]]:
    """Cut rows, longest first, into passes of least total cost, by dynamic programming.

    The cost of a pass is the number of its positions, with rows padded to the longest, plus about `_PASS` for reading
    the weights. The positions of a pass are limited, so that the memory of activations and logits stays small.
    """
    limit = max(1, min(_TOKENS, _LOGITS // model.hf.get_output_embeddings().weight.shape[0]))
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
    """The row and column that predict a token, and the answer that its log-probability counts towards."""

    row: int
    column: int
    token: int
    item: TokenisedItem
    answer: int


def read_logprobs(
    model: HookedModel, reads: Sequence[TokenRead], inputs: dict[str, Tensor], **options: Any
) -> tuple[list[Score], Any]:
    """Run a forward pass; returns the scores of the reads, and the output of the model."""
    positions = sorted({(read.row, read.column) for read in reads})
    with _unembed_only(model.hf.get_output_embeddings(), torch.tensor(positions, dtype=torch.long).reshape(-1, 2)):
        output = model.hf(**{name: x.to(model.device) for name, x in inputs.items()}, **options)
    if not reads:
        return [], output
    number = {position: n for n, position in enumerate(positions)}
    chosen = torch.tensor([(number[read.row, read.column], read.token) for read in reads], device=output.logits.device)
    logits = output.logits[0]
    total = logits.float().logsumexp(-1).double()
    values = (logits[chosen[:, 0], chosen[:, 1]].double() - total[chosen[:, 0]]).tolist()
    return [(read.item, read.answer, value) for read, value in zip(reads, values, strict=True)], output


def _unembed_only(unembedding: nn.Module, positions: Int[Tensor, "n 2"]) -> AbstractContextManager[Any]:
    """Pass, inside a block, only the chosen rows and columns to the unembedding, as one sequence.

    The logits are those of the full pass, since whatever follows (a scale, a soft cap) acts on each logit by itself.
    """

    def select(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        hidden, *rest = args
        return (hidden[positions[:, 0].to(hidden.device), positions[:, 1].to(hidden.device)][None], *rest)

    return unembedding.register_forward_pre_hook(select)
