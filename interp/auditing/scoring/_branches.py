"""Branches: a forward pass over what items share, and passes over their answers that continue from its key-value cache.

Hooks see what they see while a reply is generated: the prompts, then each answer by itself. Logits are computed only
where a scored token is predicted; see `likelihoods`.
"""

import copy
from typing import Any

import torch

from interp.auditing.scoring._token_reads import Read, Score, TokenisedItem, TokenRead, batch_cuts, read_logprobs
from interp.models.hooked import HookedModel
from interp.models.tokens import padded


class BranchedPass:
    """One pass over the shared tokens of items, and the passes over their answers."""

    def __init__(self, model: HookedModel, items: list[TokenisedItem], read: Read = read_logprobs):
        self.model, self.items, self.read = model, items, read
        self.shared = [item.shared for item in items]
        self.prompts = padded(self.shared)
        self.width = self.prompts.ids.shape[1]
        self.ends = [item.ends(len(row)) for item, row in zip(items, self.shared, strict=True)]

    def scores(self) -> list[Score]:
        """The score of every scored token."""
        branches = [(row, answer) for row, ends in enumerate(self.ends) for answer, end in enumerate(ends) if end]
        branches.sort(key=lambda branch: len(self.ends[branch[0]][branch[1]]), reverse=True)
        widths = [len(self.ends[row][answer]) for row, answer in branches]
        first = self.items[0]
        with self.model.forward_passes.prompted(self.width - len(self.shared[0]) + first.start):
            scores, cache = self._read_shared(keep=bool(branches))
            for start, stop in batch_cuts(self.model, widths):
                scores += self._read_answers(cache, branches[start:stop], widths[start])
        return scores

    def _read_shared(self, keep: bool) -> tuple[list[Score], Any]:
        reads: list[TokenRead] = []
        for row, item in enumerate(self.items):
            left, length = self.width - len(self.shared[row]), len(self.shared[row])
            for answer, ids in enumerate(item.ids):
                stop = min(length + 1, len(ids))
                reads += [TokenRead(row, left + t - 1, ids[t], item, answer) for t in range(item.start, stop)]
        inputs = self.prompts.model_inputs(self.model.device)
        scores, output = self.read(self.model, reads, inputs, use_cache=keep)
        return scores, output.past_key_values if keep else None

    def _read_answers(self, cache: Any, branches: list[tuple[int, int]], width: int) -> list[Score]:
        """Continue from the cache. Answers are padded on the right, which no token attends to."""
        rows = torch.tensor([row for row, _ in branches])
        ids = torch.zeros(len(branches), width, dtype=torch.long)
        real = torch.zeros(len(branches), width, dtype=torch.bool)
        reads: list[TokenRead] = []
        for number, (row, answer) in enumerate(branches):
            end, item, length = self.ends[row][answer], self.items[row], len(self.shared[row])
            ids[number, : len(end)], real[number, : len(end)] = torch.tensor(end), True
            reads += [
                TokenRead(number, t - 1, item.ids[answer][length + t], item, answer) for t in range(1, len(end) + 1)
            ]
        mask = torch.cat([self.prompts.mask[rows], real], 1)
        positions = self.prompts.lengths[rows, None] + torch.arange(width)
        inputs = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": positions}
        chosen = copy.copy(cache)  # which a pass can extend, and the original stays unchanged
        chosen.layers = [copy.copy(layer) for layer in cache.layers]
        chosen.batch_select_indices(rows.to(cache.layers[0].keys.device))
        with self.model.forward_passes.branched(rows):
            return self.read(self.model, reads, inputs, past_key_values=chosen, use_cache=True)[0]
