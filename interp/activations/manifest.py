"""The manifest of an activation store: its settings, its shards and their checksums.

While a store grows, its manifest is called `manifest.partial.json`; the last step of a harvest renames it. A reader
thus tells a finished store from an unfinished one by the name. A store that is being appended to has both files, and
reads as it was before until the append is done.
"""

from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from interp.activations.config import HarvestConfig
from interp.activations.token_rows import CorpusProgress
from interp.core.config import Config, differences
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_file
from interp.core.inputs import bound, over_bound, parse_json
from interp.models.checkpoints.object_folder import REMEDY, ObjectFolder, cached
from interp.models.checkpoints.remote_files import RemoteFile, is_http
from interp.models.identity import ModelReference

FINISHED = "manifest.json"
PARTIAL = "manifest.partial.json"
_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1}
_COLUMN_BYTES = 4 * 5  # of ids, document, position, begin and end


class StoreSettings(Config):
    """Everything that determines the bytes of a store; a harvest continues only with the same settings."""

    harvest: HarvestConfig
    sites: dict[str, PositiveInt]
    model: ModelReference
    model_dtype: str
    device: str
    tokenizer_digest: str
    versions: dict[str, str]
    separator: list[int] = Field(
        default=[], description="ids that texts begin with, where that is not BOS; without it, BOS or nothing"
    )

    @field_validator("harvest", mode="before")
    @classmethod
    def _complete(cls, values: object) -> object:
        """A saved setting that is missing is an error; the defaults are for callers."""
        if isinstance(values, dict) and (missing := HarvestConfig.model_fields.keys() - values.keys()):
            raise ValueError(f"lacks {', '.join(sorted(missing))}")
        return values

    def differences(self, other: "StoreSettings") -> list[str]:
        """Each setting that has changed, with the old and the new value."""
        before, now = (x.harvest.model_dump() | x.model_dump(exclude={"harvest"}) for x in (self, other))
        return differences(before, now)


class StoreStatistics(Config):
    """Statistics of a site's activations in one shard."""

    mean_norm: float = Field(description="mean Euclidean norm of a token's activations")
    mean_square: float = Field(description="mean square of an entry")
    rounding: float = Field(description="root mean square of the rounding error, relative to that of the activations")


class StoreShard(Config):
    """One safetensors file of a store."""

    name: str = Field(pattern=r"^shard-\d{5,}\.safetensors$")
    tokens: int = Field(ge=0, description="number of tokens that it holds")
    sha256: str
    documents: int = Field(description="documents of its part of the corpus that were read up to its last row")
    split: int = Field(description="how many of these were longer than the context")
    text_digest: str = Field(description="digest of these documents, by which a continuation recognises its corpus")
    statistics: dict[str, StoreStatistics] = Field(description="statistics by site")

    def ends(self, reading: CorpusProgress) -> bool:
        """Whether it ends where a corpus has been read to."""
        return (self.documents, self.text_digest) == (reading.documents, reading.digest.hex)


class StorePart(Config):
    """The shards from one corpus, in order; `tokens` is the limit on what was read of it."""

    tokens: PositiveInt | None
    shards: list[StoreShard]

    @property
    def documents(self) -> int:
        """Number of documents read."""
        return self.shards[-1].documents if self.shards else 0


class StoreManifest(Config):
    """The record of a store: settings, and one part for the first corpus and for each that was appended.

    Example:
        >>> from interp.activations import harvest
        >>> store = harvest(model, ["the baker ."] * 4, "resid_post.1", tmp / "store")
        >>> store.manifest.documents, [shard.name for shard in store.manifest.shards]
        (4, ['shard-00000.safetensors'])
    """

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
    def load(cls, file: Path | RemoteFile) -> "StoreManifest":
        """Read and validate a manifest. Raises with the name of the file and the key."""
        if isinstance(file, Path):
            return cls.parse(read_json(file), source=str(file))
        if file.size() > bound("file"):
            raise over_bound(file, "longer", "file")
        return cls.parse(parse_json(file.read_all(), file), source=str(file))

    def nbytes(self, shard: StoreShard) -> int:
        """Bytes of a shard's tensors."""
        harvest, widths = self.settings.harvest, self.settings.sites.values()
        scale = 4 if harvest.dtype == "int8" else 0
        return shard.tokens * (_COLUMN_BYTES + sum(width * _ITEM_BYTES[harvest.dtype] + scale for width in widths))

    def check_files(self, folder: Path | ObjectFolder) -> None:
        """Raise unless the file of every shard is the one that was written.

        In an object store, they have to be there and long enough (a web server lists none); their digests are compared
        when they are fetched, and those of shards that were fetched are compared again.
        """
        if isinstance(folder, ObjectFolder):
            listed = not is_http((folder / "").fs)
            sizes = folder.listing() if listed else {}
            for shard in self.shards:
                if listed and sizes.get(shard.name, -1) < self.nbytes(shard):
                    state = "cut short" if shard.name in sizes else "missing, but the manifest names it"
                    raise InterpError(f"{folder}/{shard.name}: {state}; {REMEDY}")
                place = cached(shard.sha256)
                if place.exists() and sha256_file(place) != shard.sha256:
                    place.unlink()
            return
        for shard in self.shards:
            file = folder / shard.name
            if not file.is_file():
                raise InterpError(f"{file}: missing, but the manifest names it; {REMEDY}")
            if sha256_file(file) != shard.sha256:
                raise InterpError(f"{file}: damaged (its SHA-256 is not the manifest's); {REMEDY}")
