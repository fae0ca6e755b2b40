"""Prefix trees: whole items in one forward pass, with each token attending to the earlier tokens of its own texts only.

The texts of an item, and of items with a common beginning (a system prompt), form a prefix tree (trie). Its nodes are
one row; a node attends to its ancestors, and its position is its depth. No token is computed twice, and items are
packed without padding. The mask is that of tree attention (Miao et al. 2023, "SpecInfer", arXiv:2305.09781).

Limitations: hooks see several texts in one row, so prefix trees serve models without hooks, and ops that act on each
token by itself.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from interp.auditing.scoring._token_reads import Read, Score, TokenisedItem, TokenRead, batch_cuts, read_logprobs
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel
from interp.models.tokens import common_length

_WIDTH = 256  # of a row: a wider one costs more attention and less padding


def supports_prefix_trees(model: HookedModel, longest: int) -> bool:
    """Whether a model accepts an arbitrary attention mask for texts of this length: no window, and only per-token
    hooks."""
    windows = [getattr(model.config, name, None) for name in ("sliding_window", "attention_chunk_size", "window_size")]
    return (
        architecture(model.config).packs
        and model.hooks_are_per_token
        and model.config._attn_implementation in ("sdpa", "eager")
        and all(window is None or window >= longest for window in windows)
    )


def prefix_passes(
    model: HookedModel, items: Sequence[TokenisedItem], read: Read = read_logprobs
) -> Iterator[Callable[[], list[Score]]]:
    """All items, packed into rows by first fit in decreasing size; rows of similar length share a pass."""
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
    trees = sorted(map(PrefixTree, rows), key=len, reverse=True)
    for start, stop in batch_cuts(model, [len(tree) for tree in trees]):
        yield partial(_scores, model, trees[start:stop], read)


class PrefixTree:
    """The texts of items, without tokens that predict nothing. Nodes are numbered in order of insertion."""

    def __init__(self, items: Sequence[TokenisedItem]):
        self.items = items
        self.tokens: list[int] = []
        self.paths: list[list[list[int]]] = []  # per item and answer: the nodes of its tokens except the last
        self._parents: list[int] = []
        self._children: dict[tuple[int, int], int] = {}
        for item in items:
            self.paths.append([self._insert(ids[:-1]) for ids in item.ids])

    def __len__(self) -> int:
        return len(self.tokens)

    def _insert(self, ids: Sequence[int]) -> list[int]:
        path, node = [], -1
        for token in ids:
            parent, node = node, self._children.setdefault((node, token), len(self.tokens))
            if node == len(self.tokens):
                self.tokens.append(token)
                self._parents.append(parent)
            path.append(node)
        return path

    def mask(self, width: int) -> Tensor:
        """(width, width): each node attends to its ancestors and itself, padding to itself."""
        attended = torch.eye(width, dtype=torch.bool).numpy()
        for node, parent in enumerate(self._parents):
            if parent >= 0:
                attended[node] |= attended[parent]
        return torch.from_numpy(attended)

    def reads(self, row: int) -> Iterator[TokenRead]:
        """The reads of all scored tokens, if the tree is this row of a pass."""
        for item, paths in zip(self.items, self.paths, strict=True):
            for answer, (ids, path) in enumerate(zip(item.ids, paths, strict=True)):
                for t in range(item.start, len(ids)):
                    yield TokenRead(row, path[t - 1], ids[t], item, answer)


def _scores(model: HookedModel, trees: Sequence[PrefixTree], read: Read) -> list[Score]:
    """The score of every scored token, in one forward pass over prefix trees, one row each."""
    width = max(map(len, trees))
    ids = torch.zeros(len(trees), width, dtype=torch.long)
    mask = torch.stack([tree.mask(width) for tree in trees])
    for row, tree in enumerate(trees):
        ids[row, : len(tree)] = torch.tensor(tree.tokens)
    # What is added to attention scores, as both attention implementations of Hugging Face accept it.
    additive = torch.zeros(mask.shape, dtype=model.dtype).masked_fill(~mask, torch.finfo(model.dtype).min)[:, None]
    inputs = {"input_ids": ids, "attention_mask": additive, "position_ids": mask.sum(-1) - 1}
    reads = [each for row, tree in enumerate(trees) for each in tree.reads(row)]
    return read(model, reads, inputs, use_cache=False)[0]
