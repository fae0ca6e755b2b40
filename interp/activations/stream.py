"""Activations straight from the model: what a store gives, without one.

A stream runs the model over a corpus as batches are asked for. Rows go through a pool: it is filled, permuted, half of
it is given out, and it is filled again, so that a batch mixes rows of many documents in bounded memory. Each pass over
the corpus runs the model anew: harvest a store where a corpus is read more than twice or so, or by several trainers.
"""

from collections.abc import Iterator
from functools import partial
from itertools import chain, count
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.rows import activations, groups, widths
from interp.core.display import card
from interp.core.errors import InterpError, nearest
from interp.data import corpora
from interp.models.hooked import HookedModel
from interp.models.reference import ModelReference
from interp.models.sites import Site


@runtime_checkable
class ActivationSource(Protocol):
    """Where training takes activations from: a Store, or a Stream."""

    @property
    def model(self) -> ModelReference:
        """The model whose activations these are."""
        ...

    def width(self, site: str | Site) -> int:
        """Number of features at a site. Raises for a site that is not there."""
        ...

    def trainable(self) -> int | None:
        """Number of tokens that are not the first of their document; None if that can't be told before the end."""
        ...

    def batches(
        self, site: str | Site, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Shuffled rows, each once an epoch, endless if `epochs` is None."""
        ...

    def first_not_finite(self, site: str | Site) -> str | None:
        """Where the first NaN or infinity is, if there is one."""
        ...


class Stream:
    """See the module. `texts` is read once an epoch, so an iterator that can be read but once is refused."""

    def __init__(
        self,
        model: HookedModel,
        texts: corpora.Source,
        sites: str | Site | list[str | Site],
        *,
        tokens: int | None = None,
        context: int = 128,
        batch_size: int = 16,
        bos_first: bool = True,
        skip_bad: bool = False,
        text_field: str = "text",
        pool_tokens: int = 32768,
    ):
        if isinstance(texts, Iterator):
            raise InterpError("a stream reads its text once an epoch, and an iterator ends; pass a path or a list")
        if batch_size < 1 or pool_tokens < 2:
            raise InterpError(f"batch_size is {batch_size} and pool_tokens {pool_tokens}; expected at least 1 and 2")
        self.model = model.reference
        self.sites = model.resolve(sites)
        self._hooked, self._pool = model, pool_tokens
        self._read = partial(
            groups,
            model,
            texts,
            batch_size,
            context=context,
            tokens=tokens,
            bos_first=bos_first,
            skip_bad=skip_bad,
            text_field=text_field,
        )
        self._widths = widths(model, next(self._read()), self.sites)

    def __str__(self) -> str:
        return f"stream of {self.model.name}"

    def width(self, site: str | Site) -> int:
        """Number of features at a site. Raises for a site that was not asked for."""
        return self._widths[str(self._site(site))]

    def trainable(self) -> None:
        """A corpus is not counted before it is read."""
        return

    def batches(
        self, site: str | Site, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """As `Store.batches`: shuffled rows, each once an epoch, endless if `epochs` is None, the same for one seed.

        Raises for NaN and infinite activations.
        """
        if batch_size < 1:
            raise InterpError(f"batch_size is {batch_size}; expected at least 1 row")
        wanted, generator = self._site(site), torch.Generator().manual_seed(seed)
        rest = torch.empty(0, self.width(site))
        for _ in count() if epochs is None else range(epochs):
            for pool in self._mixed(wanted, generator, first_tokens):
                rows = torch.cat([rest, pool]) if len(rest) else pool
                whole = len(rows) // batch_size * batch_size
                yield from rows[:whole].split(batch_size) if whole else ()
                rest = rows[whole:]
        if len(rest):
            yield rest

    def first_not_finite(self, site: str | Site) -> None:
        """`batches` has raised before one is given out."""
        return

    def _mixed(self, site: Site, generator: torch.Generator, first_tokens: bool) -> Iterator[Tensor]:
        held: list[Tensor] = []
        room = self._pool
        for rows in chain(self._activations(site, first_tokens), [None]):
            if rows is not None:
                held.append(rows)
                room -= len(rows)
            if held and (rows is None or room <= 0):
                pool = torch.cat(held)
                pool = pool[torch.randperm(len(pool), generator=generator)]
                given = len(pool) if rows is None else len(pool) // 2
                yield pool[:given]
                held = [pool[given:].clone()]
                room = self._pool - len(held[0])

    def _activations(self, site: Site, first_tokens: bool) -> Iterator[Tensor]:
        for batch in self._read():
            x = activations(self._hooked, batch, [site])[site][batch.kept("all" if first_tokens else "inner")]
            if not torch.isfinite(x).all():
                raise InterpError(f"{site} of {self.model.name} has NaN or infinite activations; use float32")
            yield x

    def _site(self, site: str | Site) -> Site:
        wanted = site if isinstance(site, Site) else Site.parse(site)
        if wanted not in self.sites:
            raise InterpError(f"site {str(wanted)!r} is not in this stream; {nearest(str(wanted), self._widths)}")
        return wanted

    def _repr_html_(self) -> str:
        sites = ", ".join(f"{name} ({width})" for name, width in self._widths.items())
        return card("Stream", [("model", self.model.name), ("sites", sites), ("pool", f"{self._pool:,} tokens")])
