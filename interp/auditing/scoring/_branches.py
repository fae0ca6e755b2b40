"""Branches: a pass over what items share, and passes of their answers that go on from its key-value cache.

Hooks see what they see while a reply is written. Logits are computed where a scored token is predicted; see
`likelihoods`.
"""

import copy
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from interp.auditing.scoring._token_reads import (
    Score,
    TokenisedItem,
    TokenRead,
    batch_cuts,
    positions_of_a_pass,
    read_logprobs,
)
from interp.models.hooked import HookedModel
from interp.models.tokens import padded


class Batch:
    """One pass over what items share, and passes that go on from there."""

    def __init__(self, model: HookedModel, items: list[TokenisedItem]):
        self.model, self.items = model, items
        self.shared = [item.shared for item in items]
        self.begun = padded(self.shared)
        self.width = self.begun.ids.shape[1]
        self.ends = [item.ends(len(row)) for item, row in zip(items, self.shared, strict=True)]
        self.found: list[Score] = []

    def scores(self) -> list[Score]:
        """Of every scored token."""
        places = [(row, answer) for row, ends in enumerate(self.ends) for answer, end in enumerate(ends) if end]
        places.sort(key=lambda place: len(self.ends[place[0]][place[1]]), reverse=True)
        first = self.items[0]
        with self.model.passes.prompted(self.width - len(self.shared[0]) + min(first.scored)):
            cache = self._read_shared(keep=bool(places))
            widths = [len(self.ends[row][answer]) for row, answer in places]
            for start, stop in batch_cuts(widths, positions_of_a_pass(self.model)):
                self._go_on(cache, places[start:stop], widths[start])
        return self.found

    def _read_shared(self, keep: bool) -> Any:
        reads: list[TokenRead] = []
        for row, item in enumerate(self.items):
            left, length = self.width - len(self.shared[row]), len(self.shared[row])
            for answer, (whole, start) in enumerate(zip(item.ids, item.scored, strict=True)):
                until = min(length + 1, len(whole))
                reads += [TokenRead(row, left + t - 1, whole[t], item, answer) for t in range(start, until)]
        found, out = read_logprobs(self.model, reads, self.begun.model_inputs(self.model.device), use_cache=keep)
        self.found += found
        return out.past_key_values if keep else None

    def _go_on(self, cache: Any, places: list[tuple[int, int]], width: int) -> None:
        """Answers from the cache on, padded on the right, where nothing looks back at padding."""
        rows = torch.tensor([row for row, _ in places])
        ids = torch.zeros(len(places), width, dtype=torch.long)
        real = torch.zeros(len(places), width, dtype=torch.bool)
        reads: list[TokenRead] = []
        for number, (row, answer) in enumerate(places):
            end, item, length = self.ends[row][answer], self.items[row], len(self.shared[row])
            ids[number, : len(end)], real[number, : len(end)] = torch.tensor(end), True
            # A token of a longer text's beginning that this one shares with its prompt alone is not scored.
            after = range(max(1, item.scored[answer] - length), len(end) + 1)
            reads += [TokenRead(number, t - 1, item.ids[answer][length + t], item, answer) for t in after]
        mask = torch.cat([self.begun.mask[rows], real], 1)
        positions = self.begun.lengths[rows, None] + torch.arange(width)
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
        with self.model.passes.branched(rows):
            self.found += read_logprobs(
                self.model, reads, inputs, past_key_values=_selected(cache, rows), use_cache=True
            )[0]


def _selected(cache: Any, rows: Int[Tensor, "n"]) -> Any:
    """A cache of chosen rows that can be gone on from; the one given stays as it is."""
    chosen = copy.copy(cache)
    chosen.layers = [copy.copy(layer) for layer in cache.layers]
    chosen.batch_select_indices(rows.to(cache.layers[0].keys.device))
    return chosen
