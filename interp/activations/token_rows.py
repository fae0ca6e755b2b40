"""A corpus as rows of tokens for a model, and the model's activations on them."""

import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.data import corpora
from interp.data.conversations import render_conversation
from interp.data.packing import PackedRows, Piece, assign_rows, encode, lay_out
from interp.models.hooked import HookedModel
from interp.models.sites import Site


@dataclass
class CorpusProgress:
    """How far a corpus has been read: documents used so far, the digest of them, and how many had to be split."""

    documents: int = 0
    split: int = 0
    digest: corpora.Digest = field(default_factory=corpora.Digest)


def pack_rows(model: HookedModel, texts: corpora.Source, context: int, tokens: int | None = None) -> PackedRows:
    """Read, tokenise and pack a corpus, at most `tokens` of it, into rows of `context` tokens, all held in memory."""
    return next(pack_groups(model, texts, sys.maxsize, context=context, tokens=tokens))


def pack_groups(
    model: HookedModel,
    texts: corpora.Source,
    size: int,
    *,
    context: int,
    reading: CorpusProgress | None = None,
    tokens: int | None = None,
    bos_first: bool = True,
    skip_bad: bool = False,
    text_field: str = "text",
) -> Iterator[PackedRows]:
    """The same in groups of `size` rows, made as they are asked for; `reading` says what went into them so far.

    Only documents up to the last one used count, so an endless corpus will do if `tokens` is given. A corpus without a
    token raises with the first group.
    """
    if model.context is not None and context > model.context:
        raise InterpError(
            f"context is {context} but the model's is {model.context}; pass context={model.context} or less"
        )
    reading = CorpusProgress() if reading is None else reading
    ahead: deque[corpora.Document] = deque()

    def fits(document: corpora.Document) -> None:
        if not isinstance(document, str):
            render_conversation(document, model.tokenizer)

    def noted() -> Iterator[corpora.Document]:
        for document in corpora.documents(texts, text_field, skip_bad, accept=fits):
            ahead.append(document)
            yield document

    def numbered() -> Iterator[Piece]:
        for number, encoded in enumerate(encode(noted(), model.tokenizer, tokens, bos_first)):
            reading.digest.update(ahead.popleft())
            reading.documents = number + 1
            reading.split += len(encoded) > context
            yield number, encoded

    found = False
    for group in _batched(assign_rows(numbered(), context, model.packs), size):
        found = True
        yield lay_out(group, context)
    if not found:
        raise InterpError("the corpus has no tokens; expected at least one document with text")


def _batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(rows, size)):
        yield group


class CorpusPasses:
    """Forward passes over rows, so many at a time; fewer from then on if so many do not fit into memory."""

    def __init__(self, model: HookedModel, sites: list[Site], batch_size: int):
        # What a recipe leaves of the activations would be recorded as the plain model's.
        if model.inside_hooked:
            raise InterpError("activations are harvested from the plain model; leave the hooked block first")
        self.model, self.sites, self.batch_size = model, sites, batch_size

    def over(self, packed: PackedRows) -> Iterator[tuple[PackedRows, dict[Site, Float[Tensor, "batch pos d_in"]]]]:
        """Batches of the rows with their activations at the sites, heads side by side, on the CPU."""
        start = 0
        while start < len(packed):
            batch = packed.rows(start, start + self.batch_size)
            if (found := self._tried(batch)) is not None:
                yield batch, found
                start += len(batch)
            elif self.batch_size == 1:
                raise InterpError("one row does not fit into memory; pass a shorter context, or a smaller dtype")
            else:
                print(f"interp: {len(batch)} rows do not fit into memory; trying {len(batch) // 2}", file=sys.stderr)
                self.batch_size = max(1, len(batch) // 2)

    def widths(self, sample: PackedRows) -> dict[str, int]:
        """Number of features at each site, heads side by side, found by running two tokens."""
        found = self._computed(sample.part(slice(0, 1), slice(0, 2)))
        return {str(site): x.shape[-1] for site, x in found.items()}

    def _tried(self, batch: PackedRows) -> dict[Site, Tensor] | None:
        try:
            return self._computed(batch)
        except torch.OutOfMemoryError:
            return None
        except RuntimeError as problem:
            if "can't allocate memory" in str(problem):  # the CPU's allocator has no error of its own
                return None
            raise

    def _computed(self, batch: PackedRows) -> dict[Site, Tensor]:
        found = self.model.forward_to(self.sites, batch.model_inputs(self.model.device))
        return {site: x.flatten(2).cpu() for site, x in found.items()}
