"""The activation store: shards of rows on disk, one row per token, read through a memory map.

A shard holds, for each of its tokens, the activations at each site, the token id, the document's number in the corpus,
the position in the document, and the characters of the document that the token stands for. Activations stored as int8
are whole numbers with one scale per token and site, a quarter of float32's size.

`batches` shuffles rows across shards in bounded memory: chunks of neighbouring rows are drawn at random from all shards
into a pool, and the pool's rows are permuted. In a store that fits into one pool all orders are equally likely; in a
larger one, the rows of a chunk stay in one pool.
"""

import mmap
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.activations._batching import epoch_batches
from interp.activations.columns import SiteColumns, Sites, select_sites
from interp.activations.manifest import FINISHED, PARTIAL, StoreManifest, StoreShard
from interp.core.calls import checked_class
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.inputs import require_regular
from interp.models.checkpoints.object_folder import REMEDY, ObjectFolder, cached, store_folder
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import DTYPES
from interp.models.sites import Site

_CHUNK_ROWS = 256
_POOL_BYTES = 1 << 28


def quantise(x: Float[Tensor, "token d_in"], name: str) -> dict[str, Tensor]:
    """The tensors to store for a site: whole numbers from -127 to 127 under its name, scales under NAME.scale."""
    scale = x.float().abs().amax(1).clamp(min=1e-30) / 127
    whole = (x.float() / scale[:, None]).round().clamp(-127, 127)
    # The scale carries a NaN, so that it is noticed: whole numbers have none.
    return {name: whole.nan_to_num().to(torch.int8), f"{name}.scale": scale}


def dequantise_rows(stored: dict[str, Tensor], name: str) -> Float[Tensor, "token d_in"]:
    """A site's activations from the stored tensors: float32 if they were quantised, else in the stored type."""
    x = stored[name]
    return x.float() * stored[f"{name}.scale"][:, None] if x.dtype == torch.int8 else x


@checked_class("interp.harvest(model, texts, sites, folder) makes one, and interp.Store.open(folder) reads one")
@dataclass(frozen=True, eq=False)
class Store(Displayed):
    """Activations on disk, as `harvest` writes them. Its length is the number of tokens.

    Attributes:
        folder: The store's folder, or where it is in an object store.
        manifest: Its settings and shards.

    Example:
        >>> from interp.activations import Store, harvest
        >>> _ = harvest(model, ["the baker ."] * 4, "resid_post.1", tmp / "store")
        >>> store = Store.open(tmp / "store")
        >>> len(store), store.read("resid_post.1").shape, store.document.max().item()
        (24, torch.Size([24, 192]), 3)
    """

    folder: Path | ObjectFolder
    manifest: StoreManifest

    @classmethod
    def open(cls, path: str | Path, verify: bool = True) -> "Store":
        """Open a finished store.

        Args:
            path: The store's folder, or a URL of any fsspec file system ("s3://bucket/store"). From there, a shard is
                fetched into a cache on this machine when it is first read.
            verify: Read every byte and compare checksums. A shard at a URL is compared whenever it is fetched, and
                this compares those that were fetched before.

        Raises:
            InterpError: The folder is not a store, its harvest did not finish, or a shard is missing or damaged; or the
                URL's file system refuses.
        """
        folder = store_folder(path)
        if not (folder / FINISHED).is_file():
            if (folder / PARTIAL).is_file():
                remedy = "run it again with the same settings, which continues it"
                raise InterpError(f"{folder}: its harvest did not finish; {remedy}")
            exists = folder.exists() if isinstance(folder, Path) else folder.listing()
            state = f"no {FINISHED}" if exists else "no such folder"
            raise InterpError(
                f"{folder}: not an activation store ({state}); the call of harvest makes or continues one"
            )
        manifest = StoreManifest.load(folder / FINISHED)
        if not sum(shard.tokens for shard in manifest.shards):
            raise InterpError(f"{folder / FINISHED}: no tokens in it; harvest again into a new folder")
        store = cls(folder, manifest)
        if verify:
            store._verify()
        return store

    @staticmethod
    def is_at(place: str) -> bool:
        """Whether a store is in a folder or at a URL, be it finished or not."""
        folder = store_folder(place)
        return any((folder / name).is_file() for name in (FINISHED, PARTIAL))

    def _verify(self) -> None:
        self.manifest.check_files(self.folder)
        for number, shard in enumerate(self._shards if isinstance(self.folder, Path) else ()):
            opened = self._file(number)
            for name, width in self.manifest.settings.sites.items():
                shape, expected = list(opened.get_slice(name).get_shape()), [shard.tokens, width]
                if shape != expected:
                    raise InterpError(
                        f"{self.folder / shard.name}: {name} has shape {shape}, but the manifest says {expected}; "
                        "restore the manifest"
                    )

    @property
    def sites(self) -> list[Site]:
        """The stored sites, in the order of the forward pass."""
        return sorted(map(Site.parse, self.manifest.settings.sites), key=lambda site: site.order)

    @property
    def model(self) -> ModelReference:
        """The model whose activations these are."""
        return self.manifest.settings.model

    def require(self, model: HookedModel) -> None:
        """Raise if these are the activations of another model."""
        self.model.check(model.reference, f"store {self.folder}")

    def __len__(self) -> int:
        return sum(shard.tokens for shard in self._shards)

    def __str__(self) -> str:
        return str(self.folder)

    def trainable(self) -> int:
        """Number of tokens that are not the first of their document or piece."""
        return int((self.position > 0).sum())

    def width(self, site: str | Site) -> int:
        """Width of a site. Raises for a site that is not stored."""
        return self.manifest.settings.sites[self._name(site)]

    def places(self, sites: Sites) -> tuple[SiteColumns, ...]:
        """The columns of `batches` for these sites. Raises for sites that are not stored."""
        return tuple(SiteColumns(site=name, model=self.model, width=self.width(name)) for name in self._names(sites))

    @property
    def digest(self) -> str:
        """Hex SHA-256 of the manifest, and so of the shards' checksums."""
        return sha256_json(self.manifest.model_dump())

    def read(self, site: str | Site, start: int = 0, stop: int | None = None) -> Float[Tensor, "token d_in"]:
        """Activations of the tokens from `start` up to `stop`, in the stored type (float32 if that is int8)."""
        return self._rows(self._name(site), *slice(start, stop).indices(len(self))[:2])

    def __getitem__(self, site: str | Site) -> Float[Tensor, "token d_in"]:
        return self.read(site)

    def _ipython_key_completions_(self) -> list[str]:
        return list(map(str, self.sites))

    def column(self, name: Literal["ids", "document", "position"], start: int, stop: int) -> Int[Tensor, "token"]:
        """Token ids, documents or positions of the tokens from `start` up to `stop`, without reading the others."""
        return self._rows(name, *slice(start, stop).indices(len(self))[:2])

    @property
    def ids(self) -> Int[Tensor, "token"]:
        """Token ids."""
        return self._rows("ids", 0, len(self))

    @property
    def document(self) -> Int[Tensor, "token"]:
        """Number of each token's document in the corpus."""
        return self._rows("document", 0, len(self))

    @property
    def position(self) -> Int[Tensor, "token"]:
        """Position of each token in its document, or in its piece of one that was split."""
        return self._rows("position", 0, len(self))

    @property
    def characters(self) -> Int[Tensor, "token 2"]:
        """The characters [begin, end) of each token in its document; see `interp.data.packing.Encoded`."""
        return torch.stack([self._rows(name, 0, len(self)) for name in ("begin", "end")], dim=1)

    def batches(
        self, sites: Sites, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Shuffled rows in batches.

        Args:
            sites: One site or several, which come side by side in this order.
            batch_size: Rows per batch. Batches continue across epochs, so that only the last can be shorter.
            seed: Seed of the order; the same seed gives the same rows.
            epochs: How often each row comes; None for an endless iterator.
            first_tokens: Include the first token of each document or piece.

        Raises:
            InterpError: A site is not stored, or without first tokens none are left.
        """
        names, generator = self._names(sites), torch.Generator().manual_seed(seed)
        self._fetch(range(len(self._shards)), together=True)
        if not (first_tokens or (self.position > 0).any()):
            raise InterpError(f"{self.folder} holds only first tokens; harvest longer documents")
        # Those stored as int8 are read as float32.
        itemsize = DTYPES.get(self.manifest.settings.harvest.dtype, torch.float32).itemsize
        rows = max(batch_size, _POOL_BYTES // (sum(map(self.width, names)) * itemsize))
        return epoch_batches(partial(self._pools, names, rows, generator, first_tokens), batch_size, epochs)

    def mean_norm(self, site: str | Site) -> float:
        """Mean Euclidean norm of a site's activations."""
        name = self._name(site)
        return sum(shard.statistics[name].mean_norm * shard.tokens for shard in self._shards) / len(self)

    def first_not_finite(self, sites: Sites) -> str | None:
        """The first shard and row with a NaN or an infinity at one of the sites, None if there is none."""
        for name in self._names(sites):
            for number, shard in enumerate(self._shards):
                finite = torch.isfinite(self._part(number, name, 0, shard.tokens)).all(1)
                if not finite.all():
                    return f"{shard.name}, row {int(finite.int().argmin())} ({name})"
        return None

    def _pools(self, names: list[str], rows: int, generator: torch.Generator, first_tokens: bool) -> Iterator[Tensor]:
        """One epoch: chunks of all shards in random order, gathered into pools of permuted rows."""
        starts = [
            (number, start)
            for number, shard in enumerate(self._shards)
            for start in range(0, shard.tokens, _CHUNK_ROWS)
        ]
        order = torch.randperm(len(starts), generator=generator)
        for drawn in order.split(max(1, rows // _CHUNK_ROWS)):
            places = (starts[index] for index in drawn.tolist())
            chunks = [self._chunk(names, number, start, first_tokens) for number, start in places]
            order_in_pool = torch.randperm(sum(map(len, chunks)), generator=generator)
            pool = _large_pages((len(order_in_pool), chunks[0].shape[1]), chunks[0].dtype)
            # Each chunk is copied once, from the memory map to its rows' places; gathering and then permuting would
            # copy twice.
            for chunk, rows_of_chunk in zip(chunks, order_in_pool.split([len(chunk) for chunk in chunks]), strict=True):
                pool[rows_of_chunk] = chunk
            yield pool

    def _chunk(self, names: list[str], number: int, start: int, first_tokens: bool) -> Tensor:
        parts = [self._part(number, name, start, start + _CHUNK_ROWS) for name in names]
        rows = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return rows if first_tokens else rows[self._part(number, "position", start, start + _CHUNK_ROWS) > 0]

    def _rows(self, name: str, start: int, stop: int) -> Tensor:
        places, begin = [], 0
        for number, shard in enumerate(self._shards):
            low, high = max(start - begin, 0), min(stop - begin, shard.tokens)
            if low < high:
                places.append((number, low, high))
            begin += shard.tokens
        self._fetch([number for number, *_ in places], together=False)
        parts = [self._part(number, name, low, high) for number, low, high in places]
        return torch.cat(parts) if parts else self._part(0, name, 0, 0)

    def _part(self, number: int, name: str, start: int, stop: int) -> Tensor:
        stop, file = min(stop, self._shards[number].tokens), self._file(number)
        part = file.get_slice(name)[start:stop]
        if part.dtype != torch.int8:
            return part
        return dequantise_rows({name: part, f"{name}.scale": file.get_slice(f"{name}.scale")[start:stop]}, name)

    @cached_property
    def _shards(self) -> list[StoreShard]:
        return self.manifest.shards

    @cached_property
    def _opened(self) -> dict[int, Any]:
        return {}

    def _file(self, number: int) -> Any:
        """A shard, opened."""
        if number not in self._opened:
            shard = self._shards[number]
            if isinstance(self.folder, Path):
                self._opened[number] = _open(self.folder / shard.name)
            else:
                self._fetch([number], together=True)
                self._opened[number] = _open(cached(shard.sha256))
        return self._opened[number]

    def _fetch(self, numbers: Sequence[int], together: bool) -> None:
        """Bring shards at a URL to this machine, several at a time.

        Where the cache cannot hold them all, this raises if they are needed together; else each is fetched when it is
        read. Shards that left the cache are closed, which gives the disk their room back.
        """
        if isinstance(self.folder, ObjectFolder) and not self._opened.keys() >= set(numbers):
            shards = [self._shards[number] for number in numbers]
            nbytes = sum(map(self.manifest.nbytes, shards))
            if self.folder.fetch({shard.name: shard.sha256 for shard in shards}, nbytes, together):
                for number in [x for x in self._opened if not cached(self._shards[x].sha256).exists()]:
                    del self._opened[number]

    def __getstate__(self) -> dict[str, Any]:
        # Open files are left out: a process that unpickles a store opens its own.
        return {"folder": self.folder, "manifest": self.manifest}

    def _name(self, site: str | Site) -> str:
        return self._names(site)[0]

    def _names(self, sites: Sites) -> list[str]:
        return [str(site) for site in select_sites(sites, self.manifest.settings.sites, f"store {self.folder}")]

    def _card(self) -> Card:
        settings = self.manifest.settings
        size = [("tokens", len(self)), ("documents", self.manifest.documents), ("shards", len(self._shards))]
        sites = ("sites and widths", settings.sites)
        return str(self.folder), [("model", self.model.name), sites, *size, ("dtype", settings.harvest.dtype)]


def _large_pages(shape: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """An uninitialised tensor; to get its memory page by page takes longer than to copy rows there."""
    size = torch.Size(shape).numel() * dtype.itemsize
    if not size or not hasattr(mmap, "MADV_HUGEPAGE"):
        return torch.empty(shape, dtype=dtype)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with suppress(OSError):  # a kernel without large pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(shape)


def _open(file: Path) -> Any:
    require_regular(file)
    try:
        return safe_open(file, framework="pt")
    except (OSError, SafetensorError) as problem:
        raise InterpError(f"{file}: cannot be read ({problem}); {REMEDY}") from None
