"""Tries: whole items in one pass, each token seeing the tokens before it in its own texts, and no others.

The texts of an item, and of items that begin alike (a system prompt), are a trie. Its nodes stand in one row; a node
sees its ancestors, and its position is its depth. So no token is read twice, and items lie side by side without
padding. The mask is that of tree attention (Miao et al. 2023, "SpecInfer", arXiv:2305.09781).

A hook sees texts side by side, so this is for models without one and for ops that act on each token by itself.
"""

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
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
from interp.models.tokens import common_length

_WIDTH = 256  # of a row; attention's cost grows with it, padding falls


def supports_prefix_trees(model: HookedModel, longest: int) -> bool:
    """Whether a model takes a mask of single edges for texts of such a length: no window, and nothing by position."""
    windows = [getattr(model.config, name, None) for name in ("sliding_window", "attention_chunk_size")]
    return (
        model.packs
        and model.tokenwise
        and model.config._attn_implementation in ("sdpa", "eager")
        and all(window is None or window >= longest for window in windows)
    )


def prefix_passes(model: HookedModel, items: Sequence[TokenisedItem]) -> Iterator["PrefixPass"]:
    """All items, first fit by decreasing size into rows, rows of like length together."""
    sized = sorted(((len(PrefixTree([item])), item) for item in items), key=lambda pair: pair[0], reverse=True)
    common = common_length([ids for item in items for ids in item.ids]) if len(items) > 1 else 0
    width, rows = max(_WIDTH, sized[0][0]), list[list[TokenisedItem]]()
    room: list[int] = []
    for size, item in sized:
        row = next((number for number, left in enumerate(room) if size - common <= left), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width - common)
        rows[row].append(item)
        room[row] -= size - common
    tries = sorted(map(PrefixTree, rows), key=len, reverse=True)
    for start, stop in batch_cuts([len(trie) for trie in tries], positions_of_a_pass(model)):
        yield PrefixPass(model, tries[start:stop])


class PrefixTree:
    """The texts of items, without tokens that predict nothing. Nodes are numbered as they are met."""

    def __init__(self, items: Sequence[TokenisedItem]):
        self.items = items
        self.tokens: list[int] = []
        self.paths: list[list[list[int]]] = []  # of each item's answers: the nodes of its tokens but the last
        self._parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}
        for item in items:
            self.paths.append([self._put(ids[:-1]) for ids in item.ids])

    def __len__(self) -> int:
        return len(self.tokens)

    def _put(self, ids: Sequence[int]) -> list[int]:
        path, node = [], -1
        for token in ids:
            parent, node = node, self._children.setdefault((node, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self._parents.append(parent)
            path.append(node)
        return path

    def sees(self, width: int) -> Tensor:
        """(width, width), which nodes each sees: its ancestors and itself. Padding sees itself."""
        seen = torch.eye(width, dtype=torch.bool).numpy()
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return torch.from_numpy(seen)

    def reads(self, row: int) -> Iterator[TokenRead]:
        """Where each scored token is predicted, if this is a pass's row."""
        for item, paths in zip(self.items, self.paths, strict=True):
            for answer, (ids, start, path) in enumerate(zip(item.ids, item.scored, paths, strict=True)):
                for t in range(start, len(ids)):
                    yield TokenRead(row, path[t - 1], ids[t], item, answer)


class PrefixPass:
    """One pass over tries, a row each."""

    def __init__(self, model: HookedModel, tries: Sequence[PrefixTree]):
        self.model, self.tries = model, tries

    def scores(self) -> list[Score]:
        """Of every scored token."""
        width = max(map(len, self.tries))
        ids = torch.zeros(len(self.tries), width, dtype=torch.long)
        sees = torch.stack([trie.sees(width) for trie in self.tries])
        for row, trie in enumerate(self.tries):
            ids[row, : len(trie)] = torch.tensor(trie.tokens)
        inputs = {"input_ids": ids, "attention_mask": self._mask(sees), "position_ids": sees.sum(-1) - 1}
        reads = [read for row, trie in enumerate(self.tries) for read in trie.reads(row)]
        return read_logprobs(self.model, reads, inputs, use_cache=False)[0]

    def _mask(self, sees: Tensor) -> Float[Tensor, "row 1 width width"]:
        """What is added to attention's scores: both of Hugging Face's ways to compute it take that."""
        dtype = self.model.dtype
        return torch.zeros(sees.shape, dtype=dtype).masked_fill(~sees, torch.finfo(dtype).min)[:, None]
