"""Packing: documents laid end to end in rows of one length, so that no computation is spent on padding.

1. `encode` turns texts into token lists, each beginning with BOS where the tokenizer has one.
2. `pack` puts each document into the first open row with room for it; only one longer than a row is split.
3. Position ids restart at 0 with every piece. Given `input_ids` and `position_ids` and no attention mask,
   transformers reads the restarts as boundaries and attends within each piece alone: a packed document's
   activations are those it has alone.

Some architectures do not read the restarts, and their documents would leak into each other. For these each
piece gets a row of its own (`together=False`), padded on the right, where causal attention never looks.

A document that is split loses its earlier part from view, as it would at the model's context length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import InterpError

PADDING = -1
# Rows kept open for a document that fits; the fullest is closed when there are more.
_OPEN_ROWS = 32
_ENCODED_TOGETHER = 64


@dataclass(frozen=True, eq=False)
class Packed:
    """Rows of documents. `document` is the number of each token's document, -1 on padding at a row's end."""

    ids: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]
    document: Int[Tensor, "batch pos"]

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """True on real tokens."""
        return self.document != PADDING

    @property
    def inner(self) -> Bool[Tensor, "batch pos"]:
        """True on real tokens but the first of each piece, which models use as an attention sink."""
        return self.position_ids > 0

    @property
    def predicted(self) -> Bool[Tensor, "batch pos_minus_1"]:
        """Whether each token but the row's last has a successor in its piece, which it predicts."""
        return self.inner[:, 1:]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> "Packed":
        """A part of the rows, without the columns at their end that this part does not need."""
        filled = (self.document[start:stop] != PADDING).any(0).nonzero()
        part = (slice(start, stop), slice(0, int(filled[-1]) + 1 if len(filled) else 1))
        return Packed(self.ids[part], self.position_ids[part], self.document[part])

    def batches(self, size: int) -> Iterator["Packed"]:
        """The rows, `size` at a time."""
        return (self.rows(start, start + size) for start in range(0, len(self), size))

    def model_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments for a Hugging Face model's forward; add `use_cache=False`, or documents leak."""
        return {"input_ids": self.ids.to(device), "position_ids": self.position_ids.to(device)}


def encode(
    documents: Iterable[str], tokenizer: Any, tokens: int | None = None, bos_first: bool = True
) -> Iterator[list[int]]:
    """Token ids of each document, BOS first where the tokenizer has one and the text does not begin with it.

    `bos_first=False` adds none. `tokens` ends the stream after that many, cutting the last document short.
    """
    if tokenizer is None:
        raise InterpError("this model has no tokenizer, so it can't read text; load it with load(..., tokenizer=)")
    bos = [tokenizer.bos_token_id] if bos_first and tokenizer.bos_token_id is not None else []
    left, stream = tokens, iter(documents)
    while (left is None or left > 0) and (together := list(islice(stream, _ENCODED_TOGETHER))):
        for ids in tokenizer(together, add_special_tokens=False, verbose=False)["input_ids"]:
            if left == 0:
                return
            document = (ids if bos and ids[:1] == bos else bos + ids)[:left]
            left = None if left is None else left - len(document)
            yield document


def pack(documents: Iterable[list[int]], context: int, pad: int = 0, together: bool = True) -> Packed:
    """Rows of `context` tokens, all at once. A document without tokens takes no room but keeps its number.

    `together=False` puts every piece in a row of its own. Raises for a context below 2 and a corpus without a token.
    """
    rows = list(placed(enumerate(documents), context, together))
    if not rows:
        raise InterpError("the corpus has no tokens; expected at least one document with text")
    return laid_out(rows, context, pad)


def placed(
    documents: Iterable[tuple[int, list[int]]], context: int, together: bool = True
) -> Iterator[list[tuple[int, list[int]]]]:
    """Rows as pieces with the number of their document, each as soon as it is full or, among the open ones, fullest.

    Memory is bounded by the open rows, however long the corpus.
    """
    if context < 2:
        raise InterpError(f"context is {context}; expected at least 2 tokens a row")
    rows: dict[int, list[tuple[int, list[int]]]] = {}
    room: dict[int, int] = {}
    opened = 0
    for index, document in documents:
        for start in range(0, len(document), context):
            piece = document[start : start + context]
            if not together:
                yield [(index, piece)]
                continue
            row = next((number for number, left in room.items() if left >= len(piece)), opened)
            if row == opened:
                opened, rows[row], room[row] = opened + 1, [], context
            rows[row].append((index, piece))
            room[row] -= len(piece)
            done = row if not room[row] else min(room, key=room.__getitem__) if len(room) > _OPEN_ROWS else None
            if done is not None:
                del room[done]
                yield rows.pop(done)
    yield from rows.values()


def laid_out(rows: list[list[tuple[int, list[int]]]], context: int, pad: int = 0) -> Packed:
    """Placed rows as tensors."""
    shape = (len(rows), context)
    ids, positions, document = torch.full(shape, pad), torch.zeros(shape).long(), torch.full(shape, PADDING)
    for number, row in enumerate(rows):
        start = 0
        for index, piece in row:
            stop = start + len(piece)
            ids[number, start:stop] = torch.tensor(piece)
            positions[number, start:stop] = torch.arange(len(piece))
            document[number, start:stop] = index
            start = stop
    return Packed(ids, positions, document)
