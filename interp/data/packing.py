"""Packing: documents laid end to end in rows of one length, so that no computation is spent on padding.

1. `encode` turns documents into tokens, each beginning with BOS where the tokenizer has one, and keeps which characters
   of the document each token stands for.
2. `pack` puts each document into the first open row with room for it; only one longer than a row is split.
3. Position ids restart at 0 with every piece. Given `input_ids` and `position_ids` and no attention mask,
   transformers reads the restarts as boundaries and attends within each piece alone: a packed document's
   activations are those it has alone.

Some architectures do not read the restarts, and their documents would leak into each other. For these each
piece gets a row of its own (`together=False`), padded on the right, where causal attention never looks.

A document that is split loses its earlier part from view, as it would at the model's context length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.data.conversations import Span, render_conversation
from interp.data.corpora import Document

PADDING = -1
Keep = Literal["all", "inner", "assistant"]
# Rows kept open for a document that fits; the fullest is closed when there are more.
_OPEN_ROWS = 32
_ENCODED_TOGETHER = 64


@dataclass(frozen=True, eq=False)
class Encoded:
    """A document's tokens, the characters [begin, end) that each stands for, and which are an assistant's words.

    Characters are those of the document, of a conversation as it is rendered. A BOS that was added stands for none, and
    so do all tokens of a tokenizer that can't tell (those written in Python): begin and end are 0.
    """

    ids: Int[Tensor, "token"]
    begin: Int[Tensor, "token"]
    end: Int[Tensor, "token"]
    assistant: Bool[Tensor, "token"]

    @classmethod
    def of(cls, ids: list[int]) -> "Encoded":
        """Bare ids, of which no character is known."""
        none = torch.zeros(len(ids), dtype=torch.long)
        return cls(torch.tensor(ids, dtype=torch.long), none, none, none.bool())

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int | None) -> "Encoded":
        """Some of the tokens."""
        return Encoded(*(getattr(self, field.name)[start:stop] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows of documents. `document` is the number of each token's document, -1 on padding at a row's end.

    `begin`, `end` and `assistant` are those of `Encoded`.
    """

    ids: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]
    document: Int[Tensor, "batch pos"]
    begin: Int[Tensor, "batch pos"]
    end: Int[Tensor, "batch pos"]
    assistant: Bool[Tensor, "batch pos"]

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

    def kept(self, keep: Keep) -> Bool[Tensor, "batch pos"]:
        """True on the tokens that a filter keeps: all real ones, those after a piece's first, an assistant's words."""
        return {"all": self.mask, "inner": self.inner, "assistant": self.assistant}[keep]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> "PackedRows":
        """A part of the rows, without the columns at their end that this part does not need."""
        filled = (self.document[start:stop] != PADDING).any(0).nonzero()
        return self.part(slice(start, stop), slice(0, int(filled[-1]) + 1 if len(filled) else 1))

    def part(self, rows: slice | Int[Tensor, "row"], columns: slice) -> "PackedRows":
        """Some rows and columns."""
        return PackedRows(*(getattr(self, field.name)[rows, columns] for field in fields(self)))

    def batches(self, size: int) -> Iterator["PackedRows"]:
        """The rows, `size` at a time."""
        return (self.rows(start, start + size) for start in range(0, len(self), size))

    def model_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments for a Hugging Face model's forward; add `use_cache=False`, or documents leak."""
        return {"input_ids": self.ids.to(device), "position_ids": self.position_ids.to(device)}


def encode(
    documents: Iterable[Document], tokenizer: Any, tokens: int | None = None, bos_first: bool = True
) -> Iterator[Encoded]:
    """The tokens of each document, BOS first where the tokenizer has one and the text does not begin with it.

    Conversations are rendered with the chat template. `bos_first=False` adds no BOS. `tokens` ends the stream after
    that many, cutting the last document short.
    """
    if tokenizer is None:
        raise InterpError("this model has no tokenizer, so it can't read text; load it with load(..., tokenizer=)")
    bos = tokenizer.bos_token_id if bos_first else None
    left, stream = tokens, iter(documents)
    while (left is None or left > 0) and (together := list(islice(stream, _ENCODED_TOGETHER))):
        texts = [(text, []) if isinstance(text, str) else render_conversation(text, tokenizer) for text in together]
        found = tokenizer(
            [text for text, _ in texts],
            add_special_tokens=False,
            return_offsets_mapping=tokenizer.is_fast,
            verbose=False,
        )
        for index, (_, spans) in enumerate(texts):
            if left == 0:
                return
            characters = found["offset_mapping"][index] if tokenizer.is_fast else None
            document = _encoded(found["input_ids"][index], characters, spans, bos).part(0, left)
            left = None if left is None else left - len(document)
            yield document


def _encoded(ids: list[int], characters: list[Span] | None, spans: list[Span], bos: int | None) -> Encoded:
    if spans and characters is None:
        raise InterpError("this tokenizer does not say which characters its tokens stand for; give plain text")
    if bos is not None and ids[:1] != [bos]:
        ids, characters = [bos, *ids], None if characters is None else [(0, 0), *characters]
    if characters is None:
        return Encoded.of(ids)
    begin, end = torch.tensor(characters, dtype=torch.long).reshape(-1, 2).unbind(1)
    assistant = torch.zeros(len(ids), dtype=torch.bool)
    for first, last in spans:
        # A token that reaches beyond the words, as those that join a space do, counts if any character is theirs.
        assistant |= (end > first) & (begin < last)
    return Encoded(torch.tensor(ids, dtype=torch.long), begin, end, assistant)


def pack(documents: Iterable[Encoded], context: int, pad: int = 0, together: bool = True) -> PackedRows:
    """Rows of `context` tokens, all at once. A document without tokens takes no room but keeps its number.

    `together=False` puts every piece in a row of its own. Raises for a context below 2 and a corpus without a token.
    """
    rows = list(assign_rows(enumerate(documents), context, together))
    if not rows:
        raise InterpError("the corpus has no tokens; expected at least one document with text")
    return lay_out(rows, context, pad)


Piece = tuple[int, Encoded]


def assign_rows(documents: Iterable[Piece], context: int, together: bool = True) -> Iterator[list[Piece]]:
    """Rows as pieces with the number of their document, each as soon as it is full or, among the open ones, fullest.

    Memory is bounded by the open rows, however long the corpus.
    """
    if context < 2:
        raise InterpError(f"context is {context}; expected at least 2 tokens a row")
    rows: dict[int, list[Piece]] = {}
    room: dict[int, int] = {}
    opened = 0
    for index, document in documents:
        for start in range(0, len(document), context):
            piece = document.part(start, start + context)
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


def lay_out(rows: list[list[Piece]], context: int, pad: int = 0) -> PackedRows:
    """Placed rows as tensors."""
    shape = (len(rows), context)
    ids, position_ids, document = torch.full(shape, pad), torch.zeros(shape).long(), torch.full(shape, PADDING)
    begin, end, assistant = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.zeros(shape).bool()
    for number, row in enumerate(rows):
        start = 0
        for index, piece in row:
            place = (number, slice(start, start + len(piece)))
            ids[place], begin[place], end[place], assistant[place] = piece.ids, piece.begin, piece.end, piece.assistant
            position_ids[place], document[place] = torch.arange(len(piece)), index
            start += len(piece)
    return PackedRows(ids, position_ids, document, begin, end, assistant)
