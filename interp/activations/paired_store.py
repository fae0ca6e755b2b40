"""Two stores of the same tokens side by side, such as a base model's and a fine-tuned one's, for a crosscoder."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.columns import SiteColumns, Sites
from interp.activations.store import Store
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.files import sha256_json


@dataclass(frozen=True)
class PairedStore(Displayed):
    """Two stores as one source of activations; the first store's columns come before the second's.

    Args:
        first: A store.
        second: A store of another model, harvested from the same text with the same settings.

    Raises:
        InterpError: The stores do not hold the same tokens in the same shards and type.

    Example:
        >>> from interp.activations import PairedStore, harvest
        >>> stores = [harvest(model, ["the baker ."] * 4, "embed", tmp / name) for name in ("base", "tuned")]
        >>> [columns.width for columns in PairedStore(*stores).places("embed")]
        [192, 192]
    """

    first: Store
    second: Store

    def __post_init__(self) -> None:
        first, second = self.first, self.second
        if first.manifest.settings.harvest != second.manifest.settings.harvest or not (
            [shard.tokens for shard in first.manifest.shards] == [shard.tokens for shard in second.manifest.shards]
            and all(torch.equal(getattr(first, x), getattr(second, x)) for x in ("ids", "document", "position"))
        ):
            raise InterpError(
                f"{first} and {second} do not hold the same tokens in the same order; harvest both models on one text "
                "with the same settings"
            )

    def __str__(self) -> str:
        return f"{self.first} beside {self.second}"  # saved runs hold this text

    @property
    def digest(self) -> str:
        """Hex SHA-256 of both stores' digests."""
        return sha256_json([self.first.digest, self.second.digest])

    def places(self, sites: Sites) -> tuple[SiteColumns, ...]:
        """The sites of the first model, then of the second. Raises if a store lacks one, or widths differ."""
        first, second = self.first.places(sites), self.second.places(sites)
        for columns, other in zip(first, second, strict=True):
            if columns.width != other.width:
                raise InterpError(f"{columns} has width {columns.width}, {other} has {other.width}; expected the same")
        return (*first, *second)

    def trainable(self) -> int:
        """Number of tokens that are not the first of their document, or of a piece of one."""
        return self.first.trainable()

    def batches(
        self, sites: Sites, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """As `Store.batches`, with a token's activations in both models side by side."""
        self.places(sites)
        # Pools are sized by type and widths, which are equal, so both stores draw the same order from one seed.
        both = (store.batches(sites, batch_size, seed, epochs, first_tokens) for store in (self.first, self.second))
        return (torch.cat(pair, dim=1) for pair in zip(*both, strict=True))

    def first_not_finite(self, sites: Sites) -> str | None:
        """The first shard and row of either store that hold a NaN or an infinity."""
        for store in (self.first, self.second):
            if place := store.first_not_finite(sites):
                return f"{store}: {place}"
        return None
