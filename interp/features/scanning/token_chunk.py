"""Chunks of tokens with activations, from a store or straight from a model: what a scan reads, in bounded memory.

A chunk holds whole pieces of documents (a piece begins at position 0), so that the text around a token is in its chunk.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.activations.store import Store
from interp.activations.token_rows import CorpusPasses, CorpusProgress, pack_groups
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.data import corpora
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.sites import Site


@dataclass(frozen=True, eq=False)
class TokenChunk(Displayed):
    """Consecutive tokens of a corpus with their activations.

    Attributes:
        start: Number of tokens before it.
        ids: Token ids.
        document: Number of each token's document.
        position: Position of each token in its piece of a document.
        activations: By site, heads side by side, in float32; none before they are read.
        rows: The rows that a model reads; None for a chunk of a store.
    """

    start: int
    ids: Int[Tensor, "token"]
    document: Int[Tensor, "token"]
    position: Int[Tensor, "token"]
    activations: dict[str, Float[Tensor, "token d_in"]] = field(default_factory=dict)
    rows: PackedRows | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def piece(self) -> Int[Tensor, "token"]:
        """Number of each token's run of neighbours: same document, positions that follow each other."""
        breaks = (self.document.diff() != 0) | (self.position.diff() != 1)
        return torch.cat([torch.zeros(min(1, len(self)), dtype=torch.long), breaks.long().cumsum(0)])

    def around(
        self, tokens: Int[Tensor, "n"], offsets: Int[Tensor, "width"]
    ) -> tuple[Int[Tensor, "n width"], Bool[Tensor, "n width"]]:
        """The tokens at offsets from some, and which of these are of the same piece; others are any tokens."""
        around = tokens[:, None] + offsets
        inside = (around >= 0) & (around < len(self))
        around, piece = around.clamp(0, max(0, len(self) - 1)), self.piece()
        return around, inside & (piece[around] == piece[tokens][:, None])

    def read(self, source: Store | CorpusPasses, sites: list[Site]) -> "TokenChunk":
        """The chunk with its activations at sites. Raises where one is NaN or infinite."""
        if isinstance(source, Store):
            read = {str(site): source.read(site, self.start, self.start + len(self)).float() for site in sites}
        else:
            assert self.rows is not None
            parts: dict[str, list[Tensor]] = {str(site): [] for site in sites}
            for batch, activations in source.over(self.rows):
                for site in sites:
                    parts[str(site)].append(activations[site][batch.mask].float())
            read = {site: torch.cat(part) for site, part in parts.items()}
        for name, x in read.items():
            if not torch.isfinite(x).all():
                row = self.start + int(torch.isfinite(x).all(1).int().argmin())
                raise InterpError(f"{name}: token {row} has NaN or infinite activations; check the model or the store")
        return replace(self, activations=read)


def store_chunks(
    store: Store, sites: list[Site], size: int, tokens: int | None = None, start: int = 0
) -> Iterator[TokenChunk]:
    """Chunks of a store's tokens, each of about `size` tokens.

    Args:
        store: The store.
        sites: Sites to read; without any, chunks have tokens alone, to be read later (`TokenChunk.read`).
        size: Tokens to read at a time; a piece longer than this is cut.
        tokens: Read at most this many tokens; None for all.
        start: Where to begin: the end of a chunk.

    Example:
        >>> from interp.activations import harvest
        >>> from interp.features import store_chunks
        >>> store = harvest(model, ["the baker ."] * 4, "resid_post.1", tmp / "store")
        >>> [len(chunk) for chunk in store_chunks(store, store.sites, size=13)]
        [12, 12]
    """
    end = len(store) if tokens is None else min(tokens, len(store))
    while start < end:
        stop = min(start + size, end)
        ids, document, position = (store.column(name, start, stop) for name in ("ids", "document", "position"))
        begins = (position == 0).nonzero().flatten()
        if stop < end and len(begins) and begins[-1] > 0:  # the last piece may go on after the chunk
            stop = start + int(begins[-1])
        length = stop - start
        chunk = TokenChunk(start, ids[:length].long(), document[:length].long(), position[:length].long())
        yield chunk.read(store, sites)
        start = stop


def model_chunks(
    model: HookedModel,
    texts: corpora.Source,
    sites: list[Site],
    size: int,
    *,
    tokens: int | None = None,
    context: int = 128,
    batch_size: int = 16,
    reading: CorpusProgress | None = None,
) -> Iterator[TokenChunk]:
    """Chunks of a corpus, whose activations the model computes as they are read.

    Args:
        model: The model, outside any hooked block.
        texts: A corpus, as `interp.data.documents` takes it.
        sites: Sites to read; without any, the model does not run, and chunks have tokens alone.
        size: Tokens of a chunk, rounded down to whole rows.
        tokens: Read at most this many tokens; None for all.
        context: Tokens per row.
        batch_size: Rows per forward pass.
        reading: Updated with the documents read so far.

    Example:
        >>> from interp.features import model_chunks
        >>> from interp.models import Site
        >>> site = Site("resid_post", 1)
        >>> [len(chunk) for chunk in model_chunks(model, ["the baker ."] * 9, [site], size=40, context=16)]
        [24, 24, 6]
    """
    passes, start = CorpusPasses(model, sites, batch_size), 0
    groups = pack_groups(model, texts, max(1, size // context), context=context, tokens=tokens, reading=reading)
    for group in groups:
        mask = group.mask
        chunk = TokenChunk(start, group.ids[mask], group.document[mask], group.position_ids[mask], rows=group)
        yield chunk.read(passes, sites) if sites else chunk
        start += len(chunk)
