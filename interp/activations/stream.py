"""Activations straight from the model, through the interface of a store.

A stream runs the model over a corpus as batches are read. Rows go through a pool: it is filled and permuted, half of it
is given out, and it is filled again, so that a batch mixes rows of many documents in bounded memory. Each pass over the
corpus runs the model again: harvest a store if a corpus is read more than about twice, or by several trainings.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations._batching import epoch_batches
from interp.activations.columns import SiteColumns, Sites, select_sites
from interp.activations.config import HarvestConfig
from interp.activations.token_rows import CorpusPasses, pack_groups
from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.data import corpora
from interp.data.corpora import Keep
from interp.models.hooked import HookedModel
from interp.models.sites import Site


@runtime_checkable
class ActivationSource(Protocol):
    """Where training reads activations: a Store, a Stream or a PairedStore."""

    @property
    def digest(self) -> str:
        """Identifies the source, as far as that is possible without reading all of it."""
        ...

    def places(self, sites: Sites) -> tuple[SiteColumns, ...]:
        """The columns of `batches` for these sites. Raises for sites that are not there."""
        ...

    def trainable(self) -> int | None:
        """Number of tokens that are not the first of their document; None if unknown before the end."""
        ...

    def batches(
        self, sites: Sites, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Shuffled rows, each once per epoch, endless if `epochs` is None; several sites are side by side."""
        ...

    def first_not_finite(self, sites: Sites) -> str | None:
        """Where the first NaN or infinity is, None if there is none."""
        ...


class Stream(Displayed):
    """Activations of a model over a corpus, computed as they are read.

    Args:
        model: The model.
        texts: A corpus that can be read once per epoch, so an iterator is refused.
        sites: The sites whose activations it can give.
        tokens: Tokens of the corpus per epoch; None for all.
        context: Tokens per row.
        batch_size: Rows per forward pass.
        keep: "all", "inner" or "assistant", as for `harvest`.
        bos_first: Begin each text with what began a document of pretraining.
        skip_bad: Ignore broken records.
        text_field: The key or column of the document in a record.
        pool_tokens: Number of rows of activations that are held and mixed.

    Raises:
        InterpError: The corpus is an iterator, an option is out of range, or a site is unknown.

    Example:
        >>> from interp.activations import Stream
        >>> stream = Stream(model, ["the baker ."] * 4, "resid_post.1", context=16)
        >>> [tuple(batch.shape) for batch in stream.batches("resid_post.1", 12, seed=0, epochs=1)]
        [(12, 192), (12, 192)]
    """

    def __init__(
        self,
        model: HookedModel,
        texts: corpora.Source,
        sites: str | Site | list[str | Site],
        *,
        tokens: int | None = None,
        context: int = 128,
        batch_size: int = 16,
        keep: Keep = "all",
        bos_first: bool = True,
        skip_bad: bool = False,
        text_field: str = "text",
        pool_tokens: int = 32768,
    ):
        if isinstance(texts, Iterator):
            raise InterpError("a stream reads its text once per epoch, and an iterator ends; pass a path or a list")
        HarvestConfig(context=context, batch_size=batch_size, keep=keep, bos_first=bos_first)  # raises for bad ones
        if pool_tokens < 2 or (tokens is not None and tokens < 1):
            raise InterpError(f"tokens is {tokens}, pool_tokens {pool_tokens}; expected at least 1 and 2")
        self.model = model.reference
        self.sites = model.resolve(sites)
        self._hooked, self._pool, self._rows, self._keep = model, pool_tokens, batch_size, keep
        read: dict[str, Any] = {"context": context, "tokens": tokens, "bos_first": bos_first, "skip_bad": skip_bad}
        self._settings = {**read, "batch_size": batch_size, "keep": keep, "pool_tokens": pool_tokens}
        self._read = partial(pack_groups, model, texts, batch_size, text_field=text_field, **read)
        self._widths = CorpusPasses(model, self.sites, batch_size).widths(next(self._read()))

    def __str__(self) -> str:
        return f"stream of {self.model.name}"

    def places(self, sites: Sites) -> tuple[SiteColumns, ...]:
        """The columns of `batches` for these sites. Raises for sites that the stream does not have."""
        names = map(str, select_sites(sites, self._widths, "this stream"))
        return tuple(SiteColumns(site=name, model=self.model, width=self._widths[name]) for name in names)

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the model and the settings, but not of the text."""
        return sha256_json({"model": self.model.model_dump(), **self._settings})

    def trainable(self) -> None:
        """None: a corpus is not counted before it is read."""
        return

    def batches(
        self, sites: Sites, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Shuffled rows, as from `Store.batches`: the same seed gives the same rows.

        Raises for NaN and infinite activations.
        """
        selected, generator = select_sites(sites, self._widths, "this stream"), torch.Generator().manual_seed(seed)
        return epoch_batches(partial(self._pools, selected, generator, first_tokens), batch_size, epochs)

    def first_not_finite(self, sites: Sites) -> None:
        """None: `batches` raises before it gives one out."""
        return

    def _pools(self, sites: list[Site], generator: torch.Generator, first_tokens: bool) -> Iterator[Tensor]:
        """One epoch: rows are held until the pool is full, permuted, and half of them given out."""
        held: list[Tensor] = []
        room, seen = self._pool, 0
        for rows in chain(self._activations(sites, first_tokens), [None]):
            if rows is not None:
                held.append(rows)
                room, seen = room - len(rows), seen + len(rows)
            if held and (rows is None or room <= 0):
                pool = torch.cat(held)
                pool = pool[torch.randperm(len(pool), generator=generator)]
                count_out = len(pool) if rows is None else len(pool) // 2
                yield pool[:count_out]
                held = [pool[count_out:].clone()]
                room = self._pool - len(held[0])
        if not seen:
            raise InterpError("the corpus has only first tokens, or none that are kept; give longer documents")

    def _activations(self, sites: list[Site], first_tokens: bool) -> Iterator[Tensor]:
        passes = CorpusPasses(self._hooked, sorted(set(sites), key=lambda site: site.order), self._rows)
        for group in self._read():
            for batch, activations in passes.over(group):
                kept = batch.kept(self._keep) & (batch.inner | first_tokens)
                for site in sites:
                    if not torch.isfinite(activations[site][kept]).all():
                        raise InterpError(f"{site} of {self.model.name}: NaN or infinite activations; check the model")
                yield torch.cat([activations[site][kept] for site in sites], dim=1)

    def _card(self) -> Card:
        return self.model.name, [("sites and widths", self._widths), ("pool", plural(self._pool, "token"))]
