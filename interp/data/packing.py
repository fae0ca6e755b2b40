"""Packing: documents placed end to end in rows of one length, so that no computation is spent on padding.

1. `encode` turns documents into tokens and keeps which characters of the document each token stands for. A text begins
   as the documents of pretraining did, with what the tokenizer puts first or with the separator of documents
   (`<|endoftext|>`); a conversation as its template writes it.
2. `pack` puts each document into the first open row with room for it. Only a document longer than a row is split.
3. Position ids restart at 0 with every piece. Given `input_ids` and `position_ids` and no attention mask, transformers
   reads the restarts as boundaries and attends within each piece only: the activations of a packed document are those
   that it has by itself.

Limitations: some architectures ignore the restarts, so that packed documents would attend to each other. For these,
`together=False` gives each piece its own row, padded on the right, where causal attention never looks. A document that
is split loses its earlier part from view, as it would at the model's context length.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import Any

import torch
from jaxtyping import Bool, Int
from pydantic import NonNegativeInt
from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.data.conversations import Span, render_conversation
from interp.data.corpora import Document, Keep
from interp.models.chat_template import ChatTemplate, document_beginning

PADDING = -1
# Number of rows kept open for further documents; beyond it, the fullest row is closed.
_OPEN_ROWS = 32
_ENCODED_TOGETHER = 64


@dataclass(frozen=True, eq=False)
class Encoded(Displayed):
    """A document's tokens, the characters [begin, end) of each, and which are an assistant's words.

    Characters count in the document, or in the rendered text of a conversation. Begin and end are 0 for a beginning
    that was added, and for all tokens of a tokenizer written in Python, which does not report characters.
    """

    ids: Int[Tensor, "token"]
    begin: Int[Tensor, "token"]
    end: Int[Tensor, "token"]
    assistant: Bool[Tensor, "token"]

    @classmethod
    def of(cls, ids: list[int]) -> "Encoded":
        """Token ids without characters."""
        none = torch.zeros(len(ids), dtype=torch.long)
        return cls(torch.tensor(ids, dtype=torch.long), none, none, none.bool())

    def __len__(self) -> int:
        return len(self.ids)

    def part(self, start: int, stop: int | None) -> "Encoded":
        """The tokens from `start` up to `stop`."""
        return Encoded(*(getattr(self, field.name)[start:stop] for field in fields(self)))


@dataclass(frozen=True, eq=False)
class PackedRows(Displayed):
    """Rows of packed documents.

    Attributes:
        ids: Token ids, (batch, pos).
        position_ids: Position of each token in its piece of a document.
        document: Number of each token's document, -1 on padding at the end of a row.
        begin: First character of each token in its document.
        end: The character after its last one.
        assistant: True on an assistant's words.

    Example:
        >>> from interp.data import encode, pack
        >>> rows = pack(encode(["the baker .", "the doctor ."], model.tokenizer), context=16)
        >>> len(rows), int(rows.mask.sum()), rows.document.unique().tolist()
        (1, 15, [-1, 0, 1])
    """

    ids: Int[Tensor, "batch pos"]
    position_ids: Int[Tensor, "batch pos"]
    document: Int[Tensor, "batch pos"]
    begin: Int[Tensor, "batch pos"]
    end: Int[Tensor, "batch pos"]
    assistant: Bool[Tensor, "batch pos"]

    @property
    def mask(self) -> Bool[Tensor, "batch pos"]:
        """True on tokens that are not padding."""
        return self.document != PADDING

    @property
    def inner(self) -> Bool[Tensor, "batch pos"]:
        """True on all tokens except padding and the first of each piece, which models use as an attention sink."""
        return self.position_ids > 0

    @property
    def predicted(self) -> Bool[Tensor, "batch pos_minus_1"]:
        """Whether each token, the row's last apart, predicts a next token of its piece."""
        return self.inner[:, 1:]

    def kept(self, keep: Keep) -> Bool[Tensor, "batch pos"]:
        """True on the tokens that a filter keeps: "all", "inner" (not first of a piece), "assistant" (its words)."""
        return {"all": self.mask, "inner": self.inner, "assistant": self.assistant}[keep]

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> "PackedRows":
        """The rows from `start` up to `stop`, without columns at the end that hold only padding."""
        filled = (self.document[start:stop] != PADDING).any(0).nonzero()
        return self.part(slice(start, stop), slice(0, int(filled[-1]) + 1 if len(filled) else 1))

    def part(self, rows: slice | Int[Tensor, "row"], columns: slice) -> "PackedRows":
        """The given rows and columns."""
        return PackedRows(*(getattr(self, field.name)[rows, columns] for field in fields(self)))

    def batches(self, size: int) -> Iterator["PackedRows"]:
        """The rows, `size` at a time."""
        return (self.rows(start, start + size) for start in range(0, len(self), size))

    def model_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments for a Hugging Face model's forward; add `use_cache=False`, or documents leak."""
        return {"input_ids": self.ids.to(device), "position_ids": self.position_ids.to(device)}


def encode(
    documents: Iterable[Document], tokenizer: Any, tokens: NonNegativeInt | None = None, bos_first: bool = True
) -> Iterator[Encoded]:
    """The tokens of each document.

    Args:
        documents: Texts, or conversations, which are rendered with the chat template.
        tokenizer: A Hugging Face tokenizer, or a model.
        tokens: Stop after this many tokens, cutting the last document short; None for no end.
        bos_first: Begin each text with what began a document of pretraining, where it does not begin with it.

    Raises:
        InterpError: There is no tokenizer, or one that does not report characters for a conversation.

    Example:
        >>> from interp.data import encode
        >>> [document.ids.tolist() for document in encode(["the baker ."], model.tokenizer)]
        [[1, ...]]
    """
    template = ChatTemplate.of(tokenizer)
    tokenizer = template.tokenizer
    if tokenizer is None:
        raise InterpError("this model has no tokenizer, so it can't read text; load it with load(..., tokenizer=)")
    opening = document_beginning(template) if bos_first else []
    left, stream = tokens, iter(documents)
    while (left is None or left > 0) and (together := list(islice(stream, _ENCODED_TOGETHER))):
        texts = [(text, []) if isinstance(text, str) else render_conversation(text, template) for text in together]
        options = {"add_special_tokens": False, "return_offsets_mapping": tokenizer.is_fast, "verbose": False}
        encoded = tokenizer([text for text, _ in texts], **options)
        for index, (_, spans) in enumerate(texts):
            if left == 0:
                return
            characters = encoded["offset_mapping"][index] if tokenizer.is_fast else None
            before = opening if isinstance(together[index], str) else []
            document = _encoded(encoded["input_ids"][index], characters, spans, before).part(0, left)
            left = None if left is None else left - len(document)
            yield document


def _encoded(ids: list[int], characters: list[Span] | None, spans: list[Span], opening: list[int]) -> Encoded:
    if spans and characters is None:
        raise InterpError("this tokenizer does not report the characters of its tokens; give plain text")
    if ids[: len(opening)] != opening:
        characters = None if characters is None else [(0, 0)] * len(opening) + characters
        ids = [*opening, *ids]
    if characters is None:
        return Encoded.of(ids)
    begin, end = torch.tensor(characters, dtype=torch.long).reshape(-1, 2).unbind(1)
    assistant = torch.zeros(len(ids), dtype=torch.bool)
    for first, last in spans:
        # A token that extends beyond the words, such as one with a leading space, counts if it shares a character.
        assistant |= (end > first) & (begin < last)
    return Encoded(torch.tensor(ids, dtype=torch.long), begin, end, assistant)


def pack(documents: Iterable[Encoded], context: int, together: bool = True) -> PackedRows:
    """Pack documents into rows, all at once.

    Args:
        documents: Encoded documents. One without tokens takes no room but keeps its number.
        context: Tokens per row, at least 2.
        together: Put several documents into a row; False gives each piece its own row.

    Raises:
        InterpError: The context is below 2, or the corpus has no tokens.

    Example:
        >>> from interp.data import encode, pack
        >>> documents = list(encode(["the baker .", "the doctor ."], model.tokenizer))
        >>> pack(documents, context=16).ids.shape, pack(documents, context=16, together=False).ids.shape
        (torch.Size([1, 16]), torch.Size([2, 16]))
    """
    rows = list(assign_rows(enumerate(documents), context, together))
    if not rows:
        raise InterpError("the corpus has no tokens; expected at least one document with text")
    return lay_out(rows, context)


Piece = tuple[int, Encoded]


def assign_rows(documents: Iterable[Piece], context: int, together: bool = True) -> Iterator[list[Piece]]:
    """Rows as lists of pieces with the numbers of their documents, each as soon as it is closed.

    A row closes when it is full, or when it is the fullest of too many open ones: memory is bounded by the open rows.
    """
    if context < 2:
        raise InterpError(f"context is {context}; expected at least 2 tokens per row")
    rows: dict[int, list[Piece]] = {}
    room: dict[int, int] = {}
    opened = 0
    for index, document in documents:
        for start in range(0, len(document), context):
            piece = document.part(start, start + context)
            if not together:
                yield [(index, piece)]
                continue
            length = len(piece)
            row = next((number for number, left in room.items() if left >= length), opened)
            if row == opened:
                opened, rows[row], room[row] = opened + 1, [], context
            rows[row].append((index, piece))
            room[row] -= length
            done = row if not room[row] else min(room, key=room.__getitem__) if len(room) > _OPEN_ROWS else None
            if done is not None:
                del room[done]
                yield rows.pop(done)
    yield from rows.values()


def lay_out(rows: list[list[Piece]], context: int) -> PackedRows:
    """Rows of pieces as tensors."""
    shape = (len(rows), context)
    ids, position_ids, begin, end = torch.zeros(4, *shape).long()
    document, assistant = torch.full(shape, PADDING), torch.zeros(shape).bool()
    for number, row in enumerate(rows):
        start = 0
        for index, piece in row:
            place = (number, slice(start, start + len(piece)))
            ids[place], begin[place], end[place], assistant[place] = piece.ids, piece.begin, piece.end, piece.assistant
            position_ids[place], document[place] = torch.arange(len(piece)), index
            start += len(piece)
    return PackedRows(ids, position_ids, document, begin, end, assistant)
