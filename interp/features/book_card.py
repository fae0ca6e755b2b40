"""What a feature book is of: autoencoders, model, text and settings. It is the file by which a book is known."""

from pathlib import Path

from pydantic import Field, PositiveInt

from interp.core.config import Config
from interp.core.digests import weight_digests
from interp.core.errors import InterpError, nearest
from interp.core.files import sha256_json
from interp.features.scanning.options import ScanOptions
from interp.models.identity import ModelReference
from interp.sae.coder import SparseAutoencoder

CARD, LATENTS_FILE, EXAMPLES_FILE, LABELS_FILE = "book.json", "latents.parquet", "examples.parquet", "labels.jsonl"
BACKGROUND_FILE, DESCRIPTIONS_FILE, REPLIES_FILE = "background.parquet", "descriptions.jsonl", "replies.jsonl"


class BookAutoencoder(Config):
    """An autoencoder of a book."""

    digest: str = Field(description="SHA-256 of its tensors, nonlinearity and sites")
    site: str = Field(description="the first site that it reads")
    d_sae: PositiveInt = Field(description="number of latents")
    path: str = Field("", description="where its files were when it was scanned; empty if that is not known")


class BookCard(Config):
    """The record of a book."""

    format: int = Field(1, ge=1, le=1)
    model: ModelReference
    autoencoders: dict[str, BookAutoencoder]
    source: str = Field(description="the store or the model that was read")
    tokens: int = Field(description="tokens that were counted, without the first of each piece of a document")
    options: ScanOptions
    versions: dict[str, str]

    def name(self, sae: str | None) -> str:
        """An autoencoder's name. Raises for one that is not in the book, and without a name where there are several."""
        if sae is None and len(self.autoencoders) == 1:
            return next(iter(self.autoencoders))
        if sae is None:
            raise InterpError(
                f"the book has {len(self.autoencoders)} autoencoders; name one: {', '.join(self.autoencoders)}"
            )
        if sae not in self.autoencoders:
            raise InterpError(f"autoencoder {sae!r} is not in the book; {nearest(sae, self.autoencoders)}")
        return sae

    def require_latent(self, sae: str, latent: int) -> None:
        """Raise for a latent that the autoencoder does not have."""
        d_sae = self.autoencoders[sae].d_sae
        if not 0 <= latent < d_sae:
            raise InterpError(f"latent {latent} does not exist; autoencoder {sae} has latents 0 to {d_sae - 1}")

    def load(self, sae: str, path: str = "") -> SparseAutoencoder:
        """An autoencoder from a path, or from where it was scanned. Raises where it is not there, or another one is."""
        path = path or self.autoencoders[sae].path
        if not path or not Path(path).exists():
            place = f"not at {path} any more" if path else "not known to the book"
            raise InterpError(f"the files of autoencoder {sae} are {place}; give it or its folder (sae=, or --sae)")
        coder = SparseAutoencoder.load(path, self.model)
        self.require(coder, sae)
        return coder

    def require(self, sae: SparseAutoencoder, name: str | None = None) -> str:
        """The name of an autoencoder in the book. Raises unless this is the one that was scanned."""
        digest = autoencoder_digest(sae)
        names = [self.name(name)] if name is not None else list(self.autoencoders)
        for known in names:
            if self.autoencoders[known].digest == digest:
                return known
        scanned = ", ".join(f"{known} ({self.autoencoders[known].digest[:12]})" for known in names)
        raise InterpError(f"the book is of {scanned}, not of this autoencoder ({digest[:12]}); scan it into a new book")


def autoencoder_digest(sae: SparseAutoencoder) -> str:
    """SHA-256 of what decides an autoencoder's latents: its tensors, its nonlinearity and its sites."""
    sites = [[place.site for place in side] for side in (sae.reads, sae.writes)]
    weights = weight_digests(sae.tensors()).exact
    return sha256_json({"weights": weights, "nonlinearity": sae.nonlinearity.model_dump(), "sites": sites})
