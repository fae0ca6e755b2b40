"""Branches: a pass over what items share, and passes of their answers that go on from its key-value cache.

Logits are computed only at positions that predict a scored token; see `likelihoods`.
"""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from interp.models.hooked import HookedModel

_READ = 50_000_000  # logits held at once
_TOKENS = 2048  # of a pass
_ROWS = 128  # of a pass
_PASS = 80  # positions that cost as much as a pass of none


@dataclass(frozen=True, eq=False)
class Item:
    """An item's answers as tokens, each with its prompt. Tokens from `scored` on are the answer's."""

    number: int
    ids: list[list[int]]
    scored: list[int]
    bytes: tuple[int, ...]

    @property
    def shared(self) -> list[int]:
        """What all of them begin with."""
        first, last = min(self.ids), max(self.ids)
        length = next((n for n, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(map(len, self.ids)))
        return self.ids[0][:length]

    def ends(self, shared: int) -> list[list[int]]:
        """What is to be read of each answer after that; its last token predicts nothing that is scored."""
        return [row[shared:-1] for row in self.ids]

    @property
    def tokens(self) -> tuple[int, ...]:
        """How many tokens of each answer are scored."""
        return tuple(len(row) - start for row, start in zip(self.ids, self.scored, strict=True))


def positions_of_a_pass(model: HookedModel) -> int:
    """How many positions a pass may have, so that neither activations nor logits take much memory."""
    return max(1, min(_TOKENS, _READ // model.hf.get_output_embeddings().weight.shape[0]))


def grouped(lengths: Sequence[int], limit: int) -> list[tuple[int, int]]:
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


class Batch:
    """One pass over what items share, and passes that go on from there."""

    def __init__(self, model: HookedModel, items: list[Item]):
        self.model, self.items = model, items
        self.shared = [item.shared for item in items]
        self.lengths = torch.tensor([len(row) for row in self.shared])
        self.width = int(self.lengths.max())
        self.mask = torch.arange(self.width) >= (self.width - self.lengths)[:, None]
        self.ends = [item.ends(len(row)) for item, row in zip(items, self.shared, strict=True)]
        self.found: list[tuple[Item, int, float]] = []

    def scores(self) -> list[tuple[Item, int, float]]:
        """Item, answer, and log-probability of some of its tokens, which sum to the answer's."""
        places = [(row, answer) for row, ends in enumerate(self.ends) for answer, end in enumerate(ends) if end]
        places.sort(key=lambda place: len(self.ends[place[0]][place[1]]), reverse=True)
        first = self.items[0]
        with self.model.passes.prompted(self.width - len(self.shared[0]) + min(first.scored)):
            cache = self._read_shared(keep=bool(places))
            widths = [len(self.ends[row][answer]) for row, answer in places]
            for start, stop in grouped(widths, positions_of_a_pass(self.model)):
                self._go_on(cache, places[start:stop], widths[start])
        return self.found

    def _read_shared(self, keep: bool) -> Any:
        ids = torch.zeros(len(self.items), self.width, dtype=torch.long)
        ids[self.mask] = torch.tensor([token for row in self.shared for token in row])
        reads: list[tuple[int, int, int, int]] = []
        for row, item in enumerate(self.items):
            left, length = self.width - len(self.shared[row]), len(self.shared[row])
            for answer, (whole, start) in enumerate(zip(item.ids, item.scored, strict=True)):
                reads += [(row, left + t - 1, whole[t], answer) for t in range(start, min(length + 1, len(whole)))]
        positions = (self.mask.long().cumsum(1) - 1).clamp(min=0)
        return self._pass(ids, self.mask, positions, torch.arange(len(ids)), reads, use_cache=keep)

    def _go_on(self, cache: Any, places: list[tuple[int, int]], width: int) -> None:
        """Answers from the cache on, padded on the right, where nothing looks back at padding."""
        rows = torch.tensor([row for row, _ in places])
        ids = torch.zeros(len(places), width, dtype=torch.long)
        real = torch.zeros(len(places), width, dtype=torch.bool)
        reads: list[tuple[int, int, int, int]] = []
        for number, (row, answer) in enumerate(places):
            end, item, length = self.ends[row][answer], self.items[row], len(self.shared[row])
            ids[number, : len(end)], real[number, : len(end)] = torch.tensor(end), True
            # A token of a longer text's beginning that this one shares with its prompt alone is not scored.
            after = range(max(1, item.scored[answer] - length), len(end) + 1)
            reads += [(number, t - 1, item.ids[answer][length + t], answer) for t in after]
        mask = torch.cat([self.mask[rows], real], 1)
        positions = self.lengths[rows, None] + torch.arange(width)
        with self.model.passes.branched(rows):
            self._pass(ids, mask, positions, rows, reads, past_key_values=_selected(cache, rows), use_cache=True)

    def _pass(
        self,
        ids: Int[Tensor, "batch pos"],
        mask: Bool[Tensor, "batch columns"],
        positions: Int[Tensor, "batch pos"],
        rows: Int[Tensor, "batch"],
        reads: list[tuple[int, int, int, int]],
        **options: Any,
    ) -> Any:
        """Run, and note each read: (row, column, the token that is predicted, answer)."""
        model, device = self.model, self.model.device
        places = sorted({(row, column) for row, column, _, _ in reads})
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
        with _only(model.hf.get_output_embeddings(), torch.tensor(places, dtype=torch.long).reshape(-1, 2)):
            out = model.hf(**{name: x.to(device) for name, x in inputs.items()}, **options)
        if reads:
            number = {place: n for n, place in enumerate(places)}
            chosen = torch.tensor([(number[row, column], token) for row, column, token, _ in reads])
            values = _logprobs(out.logits[0], chosen.to(device)).tolist()
            self.found += [
                (self.items[int(rows[row])], answer, value)
                for (row, _, _, answer), value in zip(reads, values, strict=True)
            ]
        return out.past_key_values if options.get("use_cache") else None


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


def _selected(cache: Any, rows: Int[Tensor, "n"]) -> Any:
    """A cache of chosen rows that can be gone on from; the one given stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows.to(cache.layers[0].keys.device))
    return chosen
