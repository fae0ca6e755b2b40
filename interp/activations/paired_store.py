"""Two stores of the same tokens side by side: a base model and its edited or fine-tuned self, for a crosscoder."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.columns import SiteColumns, Sites
from interp.activations.store import Store
from interp.core.errors import InterpError
from interp.core.files import sha256_json


@dataclass(frozen=True)
class PairedStore:
    """See the module. For each of the sites asked for, the first store's comes before the second's.

    Raises unless the stores hold the same tokens in the same shards, in one type: harvest both with one text and the
    same settings.
    """

    first: Store
    second: Store

    def __post_init__(self) -> None:
        one, other = self.first, self.second
        if one.manifest.settings.harvest != other.manifest.settings.harvest or not (
            [shard.tokens for shard in one.manifest.shards] == [shard.tokens for shard in other.manifest.shards]
            and all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("ids", "document", "position"))
        ):
            raise InterpError(
                f"{one} and {other} do not hold the same tokens in the same order; harvest both models on one text "
                "with the same settings"
            )

    def __str__(self) -> str:
        return f"{self.first} beside {self.second}"

    @property
    def digest(self) -> str:
        """Hex SHA-256 of both stores'."""
        return sha256_json([self.first.digest, self.second.digest])

    def places(self, sites: Sites) -> tuple[SiteColumns, ...]:
        """The sites in the first model, then in the second. Raises where a store lacks one, or widths differ."""
        ours, theirs = self.first.places(sites), self.second.places(sites)
        for one, other in zip(ours, theirs, strict=True):
            if one.width != other.width:
                raise InterpError(f"{one} has width {one.width}, {other} has {other.width}; expected the same")
        return (*ours, *theirs)

    def trainable(self) -> int:
        """Number of tokens that are not the first of their document, or of a piece of one."""
        return self.first.trainable()

    def batches(
        self, sites: Sites, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """As `Store.batches`, a token's activations in both models side by side."""
        self.places(sites)
        # Pools are sized by type and widths, which are the same, so both stores draw one order from one seed.
        both = (store.batches(sites, batch_size, seed, epochs, first_tokens) for store in (self.first, self.second))
        return (torch.cat(pair, dim=1) for pair in zip(*both, strict=True))

    def first_not_finite(self, sites: Sites) -> str | None:
        """The first shard and row of either store that hold a NaN or an infinity."""
        for store in (self.first, self.second):
            if found := store.first_not_finite(sites):
                return f"{store}: {found}"
        return None
