"""Where a harvest writes: a folder of this machine, or a folder in an object store.

Files are made in a local folder, which is the store itself or the staging folder of an object store. There, a file
counts once it is uploaded: a shard, then the manifest that names it. Of an object store's shards, none stay in the
staging folder; they move into the cache from which they are read, where they fit into it.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

from interp.activations.manifest import FINISHED, PARTIAL, StoreManifest, StoreShard
from interp.core.errors import InterpError
from interp.core.files import lock_folder, require_unlinked, write_json
from interp.models.checkpoints.object_folder import (
    LEASE,
    Lease,
    ObjectFolder,
    cache_limit,
    cached,
    make_room,
    store_folder,
)

_STRAYS = ("shard-*.safetensors", ".*shard-*", ".manifest*", ".tmp*")


@dataclass
class StoreFolder:
    """The folder of a store while it is written."""

    place: Path | ObjectFolder
    _lease: Lease | None = field(default=None, init=False)

    @classmethod
    def at(cls, out: str | Path) -> "StoreFolder":
        """The folder at a path or URL."""
        return cls(store_folder(out))

    def __str__(self) -> str:
        return str(self.place)

    @property
    def path(self) -> Path:
        """The local folder in which files are made."""
        return self.place.staging if isinstance(self.place, ObjectFolder) else self.place

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it against other processes for the duration of a block. Raises if it is not a store's."""
        busy = f"{self}: another process is harvesting into it; wait for it, or choose another"
        self._make()
        lease = self.place.leased(busy) if isinstance(self.place, ObjectFolder) else nullcontext()
        with lock_folder(self.path, busy):
            try:
                with lease as self._lease:
                    yield
            finally:
                with suppress(OSError):
                    self.path.rmdir()  # only if it is still empty

    def _make(self) -> None:
        if isinstance(self.place, ObjectFolder):
            names = self.place.listing(new=True).keys() - {LEASE}
            strange = bool(names) and not names & {FINISHED, PARTIAL}
        else:
            require_unlinked(self.place)
            stored = any((self.place / name).exists() for name in (FINISHED, PARTIAL))
            begun = f".{PARTIAL}."  # the temporary name of a manifest
            others = not self.place.is_dir() or any(not x.name.startswith(begun) for x in self.place.iterdir())
            strange = self.place.exists() and not stored and others
        if strange:
            remedy = "choose a new folder (overwrite=True removes stores only)"
            raise InterpError(f"{self} exists and is not an activation store; {remedy}")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InterpError(f"{self}: cannot be written ({problem.strerror}); choose another folder") from None

    def manifest(self, name: str) -> StoreManifest | None:
        """A manifest of the store, if it has one of this name. Raises for a file of something else."""
        file = self.place / name
        return StoreManifest.load(file) if file.is_file() else None

    def write_manifest(self, name: str, manifest: StoreManifest) -> None:
        """Replace a manifest in one step."""
        write_json(self.path / name, manifest.model_dump())
        if self._lease is not None:
            if not self._lease.is_held():
                remedy = "wait for that one, and call again"
                raise InterpError(f"{self}: another process took the harvest over while this one was stopped; {remedy}")
            self._upload(name)

    def add(self, shard: StoreShard) -> None:
        """Take a shard that was made in the local folder, before the manifest that names it."""
        if isinstance(self.place, ObjectFolder):
            self._upload(shard.name)
            file = self.path / shard.name
            if (size := file.stat().st_size) <= cache_limit():
                make_room(size)
                os.replace(file, cached(shard.sha256))
            else:
                file.unlink()

    def finish(self, manifest: StoreManifest) -> None:
        """Give the manifest its final name."""
        if isinstance(self.place, ObjectFolder):
            self.write_manifest(FINISHED, manifest)
            self.remove(PARTIAL)
            (self.path / FINISHED).unlink()
        else:
            os.replace(self.path / PARTIAL, self.path / FINISHED)

    def remove(self, *names: str) -> None:
        """Remove files, if they are there."""
        for name in names:
            (self.path / name).unlink(missing_ok=True)
            if isinstance(self.place, ObjectFolder):
                (self.place / name).remove()

    def remove_strays(self, named: set[str]) -> None:
        """Remove shards that are not among those named, and temporary files that killed processes left."""
        local = {file.name for pattern in _STRAYS for file in self.path.glob(pattern)}
        for name in local - named:
            (self.path / name).unlink()
        if isinstance(self.place, ObjectFolder):
            shards = (name for name in self.place.listing(new=True) if name.startswith("shard-"))
            self.remove(*sorted(set(shards) - named))

    def _upload(self, name: str) -> None:
        assert isinstance(self.place, ObjectFolder)
        (self.place / name).write(self.path / name)
