"""The autoencoders of a book, loaded when a page needs them, and how the decoders of two compare."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError, located
from interp.features import Book
from interp.sae.coder import SparseAutoencoder

SHARED = 0.7  # the cosine from which latents of two autoencoders count as shared, as in Paulo and Belrose 2025
_BLOCK = 1024


class BookCoders:
    """The autoencoders of a book, by name.

    Args:
        book: The book.
        paths: Where they are, where that is not where they were when they were scanned.

    Raises:
        InterpError: A path is of an autoencoder that is not in the book.
    """

    def __init__(self, book: Book, paths: Mapping[str, str] | None = None):
        self.book, self._paths, self._loaded = book, dict(paths or {}), dict[str, SparseAutoencoder]()
        for name in self._paths:
            book.card.name(name)

    def path(self, name: str) -> str:
        """Where an autoencoder is; empty if that is not known."""
        return self._paths.get(name) or self.book.card.autoencoders[name].path

    def __getitem__(self, name: str) -> SparseAutoencoder:
        """An autoencoder. Raises where it can't be read, or is not the one that was scanned."""
        if name not in self._loaded:
            with located(f"autoencoder {name}", f"; if it was moved, give --sae {name}=FOLDER"):
                self._loaded[name] = self.book.card.load(name, self.path(name))
        return self._loaded[name]


@dataclass(frozen=True)
class DecoderMatch:
    """For each latent of two autoencoders its nearest of the other by the cosine of decoder rows."""

    cosines: tuple[Float[Tensor, "first"], Float[Tensor, "second"]]
    nearest: tuple[Int[Tensor, "first"], Int[Tensor, "second"]]

    def shared(self, least: float) -> list[tuple[int, int, float]]:
        """Pairs that are each other's nearest, with at least this cosine, the most similar first."""
        there, back = self.nearest
        mutual = (back[there] == torch.arange(len(there))) & (self.cosines[0] >= least)
        pairs = [
            (first, int(there[first]), float(self.cosines[0][first])) for first in mutual.nonzero().flatten().tolist()
        ]
        return sorted(pairs, key=lambda pair: -pair[2])


def match_decoders(first: SparseAutoencoder, second: SparseAutoencoder) -> DecoderMatch:
    """The nearest latents of two autoencoders. Raises where their decoder rows have different widths."""
    if first.d_out != second.d_out:
        raise InterpError(
            f"decoder rows have {first.d_out} and {second.d_out} entries; compare autoencoders of one model's site"
        )
    rows, columns = (torch.nn.functional.normalize(x.W_dec.float(), dim=1) for x in (first, second))
    there, back = _nearest(rows, columns), _nearest(columns, rows)
    return DecoderMatch((there[0], back[0]), (there[1], back[1]))


def _nearest(rows: Float[Tensor, "row d"], others: Float[Tensor, "other d"]) -> tuple[Tensor, Tensor]:
    parts = [(block @ others.T).max(1) for block in rows.split(_BLOCK)]
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])
