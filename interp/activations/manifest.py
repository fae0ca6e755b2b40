"""The manifest of an activation store: what it was made from, and the checksum of each shard.

While a store grows, its manifest is called `manifest.partial.json`; the last step of a harvest renames it. So
a reader tells a finished store from an unfinished one by a name, and a store that is being appended to (it has both)
is what it was until that is done.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from interp.core.config import Config, differences
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_file
from interp.data.packing import Keep
from interp.models.identity import ModelReference

FINISHED = "manifest.json"
PARTIAL = "manifest.partial.json"
_REMEDY = "restore it, or harvest again into a new folder"


class HarvestConfig(Config):
    """How to harvest. A shard holds as many whole rows of `context` tokens as fit.

    `keep` stores all tokens, those after the first of each document or piece of one ("inner"), or an assistant's words.
    `bos_first` puts BOS before each document. "int8" stores each token's activations as whole numbers with one scale.
    """

    context: int = Field(ge=2)
    batch_size: PositiveInt
    dtype: Literal["float32", "bfloat16", "float16", "int8"]
    shard_tokens: PositiveInt
    keep: Keep
    bos_first: bool


class StoreSettings(Config):
    """Everything that determines the bytes of a store; a harvest continues one only with all of it."""

    harvest: HarvestConfig
    sites: dict[str, PositiveInt]
    model: ModelReference
    model_dtype: str
    device: str
    tokenizer_digest: str
    versions: dict[str, str]

    def differences(self, other: "StoreSettings") -> list[str]:
        """Each setting that is another now, with this value and the other."""
        before, now = (
            settings.harvest.model_dump() | settings.model_dump(exclude={"harvest"}) for settings in (self, other)
        )
        return differences(before, now)


class StoreStatistics(Config):
    """Of a site's activations in one shard: mean norm, mean square of an entry, and what rounding cost.

    `rounding` is the root mean square of what the stored type lost, relative to that of the activations.
    """

    mean_norm: float
    mean_square: float
    rounding: float


class StoreShard(Config):
    """One safetensors file: its name, how many tokens it holds, its SHA-256, and statistics by site.

    `documents` and `text_digest` are of all documents of its part read up to its last row, so that a continuation knows
    its corpus; `split` is how many of them were longer than the context.
    """

    name: str = Field(pattern=r"^shard-\d{5,}\.safetensors$")
    tokens: int = Field(ge=0)
    sha256: str
    documents: int
    split: int
    text_digest: str
    statistics: dict[str, StoreStatistics]


class StorePart(Config):
    """What one corpus gave: the most tokens that were to be read of it, all if None, and the shards in order."""

    tokens: PositiveInt | None
    shards: list[StoreShard]

    @property
    def documents(self) -> int:
        """Number of documents read."""
        return self.shards[-1].documents if self.shards else 0

    def begins(self, documents: int, text_digest: str) -> bool:
        """Whether its first shard was made of these documents."""
        return bool(self.shards) and (self.shards[0].documents, self.shards[0].text_digest) == (documents, text_digest)


class StoreManifest(Config):
    """The manifest: settings, and a part for the first corpus and each that was appended."""

    format: Literal[2] = 2
    settings: StoreSettings
    parts: list[StorePart]

    @model_validator(mode="after")
    def _measured(self) -> "StoreManifest":
        for shard in self.shards:
            if shard.statistics.keys() != self.settings.sites.keys():
                raise ValueError(f"{shard.name} has statistics of {sorted(shard.statistics)}, not of its sites")
        return self

    @property
    def shards(self) -> list[StoreShard]:
        """All shards, in order."""
        return [shard for part in self.parts for shard in part.shards]

    @property
    def documents(self) -> int:
        """Number of documents read."""
        return sum(part.documents for part in self.parts)

    @classmethod
    def load(cls, file: Path) -> "StoreManifest":
        """Read and validate; raises with the file's name and the key at fault."""
        return cls.parse(read_json(file), source=str(file))


def check_shard(folder: Path, shard: StoreShard) -> None:
    """Raise unless the shard's file is the one that was written."""
    file = folder / shard.name
    if not file.is_file():
        raise InterpError(f"{file}: missing, though the manifest names it; {_REMEDY}")
    if sha256_file(file) != shard.sha256:
        raise InterpError(f"{file}: damaged (its SHA-256 is not the manifest's); {_REMEDY}")
