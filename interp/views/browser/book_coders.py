"""The autoencoders of a book, loaded when a page needs them, and which of their latents fire."""

from collections.abc import Mapping
from threading import Lock

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.core.errors import located
from interp.features import Book
from interp.sae.coder import SparseAutoencoder


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
        self._one = Lock()
        for name in self._paths:
            book.card.name(name)

    def path(self, name: str) -> str:
        """Where an autoencoder is; empty if that is not known."""
        return self._paths.get(name) or self.book.card.autoencoders[name].path

    def __getitem__(self, name: str) -> SparseAutoencoder:
        """An autoencoder. Raises where it can't be read, or is not the one that was scanned."""
        with self._one, located(f"autoencoder {name}", f"; if it was moved, give --sae {name}=FOLDER"):
            if name not in self._loaded:
                self._loaded[name] = self.book.card.load(name, self.path(name))
            return self._loaded[name]

    def fires(self, name: str) -> Bool[Tensor, "d_sae"]:
        """Which latents of an autoencoder fired on the book's text."""
        rows = self.book.query("SELECT count > 0 AS fires FROM latents WHERE sae = ? ORDER BY latent", [name])
        return torch.tensor([row["fires"] for row in rows])
