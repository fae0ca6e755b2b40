"""What documents are scored by, and how a corpus is split, as options that load nothing."""

import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from interp.core.config import Config
from interp.core.errors import InterpError
from interp.features.latent_names import PREFIX, LatentName


def _names(value: Any) -> Any:
    """Latents of a text such as 5,7 or book:hostile; anything else as it is."""
    if not isinstance(value, str):
        return value
    words = re.split(rf",(?=\s*(?:\d+\s*(?:,|$)|{PREFIX}))", value)
    return tuple(int(word) if word.strip().isdecimal() else word.strip() for word in words)


class CurationOptions(Config):
    """How a corpus is split.

    Example:
        >>> from interp.upkeep import CurationOptions
        >>> CurationOptions(threshold=2.5).near_duplicates
        0.8
    """

    field: str = Field("text", description="key or column of the document")
    skip_bad: bool = Field(False, description="skip broken records, instead of stopping at them")
    score: str | None = Field(None, description="score that decides: mean, max, difference, firing [default: the best]")
    threshold: float | None = Field(None, description="score from which documents are flagged, in place of --labels")
    error: float = Field(
        0.05, description="largest share of harmful labelled documents kept, and of clean ones flagged"
    )
    near_duplicates: float = Field(0.8, description="Jaccard similarity of near-duplicates; 0 does not search them")
    drop_duplicates: bool = Field(False, description="leave near-duplicates of earlier documents out of what is kept")
    shard: int = Field(256, ge=1, description="documents of a shard, the unit of resuming")
    worst: int = Field(20, ge=0, description="documents on the page, those with the largest scores")
    train_steps: int = Field(60, ge=1, description="steps of each trial training that predicts changes")
    train_rate: float = Field(1e-3, gt=0, description="its learning rate at the first step")
    train_sample: int = Field(1000, ge=1, description="documents of each trial training, drawn at random")
    seed: int = Field(0, ge=0, description="seed of the halves of the labels, and of the trials")


class ScorerSettings(Config):
    """What documents are scored by, from names and folders, so that every process can open it.

    Example:
        >>> from interp.upkeep import ScorerSettings
        >>> ScorerSettings(model="organism", direction="hostility").own_reply
        False
    """

    model: str = Field(description="organism, a local Hugging Face folder, or a hub id")
    direction: str | None = Field(None, description="folder of a saved direction that documents are scored by")
    sae: str | None = Field(None, description="folder of an autoencoder, in place of --direction")
    latents: Annotated[tuple[LatentName, ...] | None, BeforeValidator(_names)] = Field(
        None, strict=False, description="its latents that count, such as 5,7 or book:LABEL"
    )
    book: str | None = Field(None, description="folder of its feature book, for labels")
    own_reply: bool = Field(False, description="also measure the projection difference from the model's own reply")
    reply_tokens: int = Field(64, ge=1, description="most tokens of the model's own reply")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")

    def open(self) -> Any:
        """The scorer; it loads the model. Raises as the loaders and `DocumentScorer` do."""
        from interp.directions.direction import Direction
        from interp.features.book import resolve_latents
        from interp.models.loading import load
        from interp.sae.coder import SparseAutoencoder
        from interp.upkeep.curation.document_scorer import DocumentScorer

        direction = Direction.load(self.direction) if self.direction else None
        if self.sae and not Path(self.sae).exists():
            raise InterpError(f"{self.sae}: no such folder; expected that of an autoencoder")
        model = load(self.model, device=self.device)
        sae = SparseAutoencoder.load(self.sae, model) if self.sae else None
        latents, named = resolve_latents(self.latents or (), sae, self.book)
        return DocumentScorer(model, direction, sae, tuple(latents), self.own_reply, self.reply_tokens, named)
