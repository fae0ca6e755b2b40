"""A store's folder in an object store: any file system of fsspec (s3://, gs://, az://, memory:// and others).

Reading: a shard is fetched whole, when it is first read, into a cache on this machine, where its SHA-256 is compared
with the manifest's; it is read through a memory map from there. The cache (`INTERP_CACHE`, else `~/.cache/interp`)
takes at most the bound `cache` of `interp.core.inputs`, and at most half of the disk that is free; what was not opened
for longest goes first.

Writing: an object is replaced in one step, as object stores do it. One process writes at a time: it holds a lease, an
object that it renews while it lives. A lease that nobody renews for a minute is taken over, and one that a killed
process of this machine left, at once.

Limitations. The lease is created by a conditional PUT where the file system has one (fsspec's mode "create": S3 and
GCS); elsewhere two processes that start within the same moment can both get it. It is read again before each manifest
is written, so that a process that was stopped for more than a minute finds that it has lost it; one that is stopped
between that check and its PUT does not. On file systems whose writes are not atomic (sftp, say) a manifest can be cut
short, and is then refused by name. Whoever may write to the bucket can change a shard: that is noticed when the shard
is fetched, not when a harvest goes on. The parts of an upload that was killed are the bucket's to expire.
"""

import fcntl
import json
import os
import platform
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError, note
from interp.core.files import sha256_file, write_text
from interp.core.inputs import bound, parse_object
from interp.core.progress import track
from interp.models.checkpoints.remote_files import MissingFile, RemoteFile, is_remote, local_path, remote_place

REMEDY = "restore it, or harvest again into a new folder"
LEASE = "harvest.lease.json"
BEAT = 20.0  # seconds between renewals of a lease; after three without one, its holder counts as dead
_STREAMS = 8  # shards that are fetched side by side
_MACHINE = "machine"


def store_folder(place: "str | Path | ObjectFolder") -> "Path | ObjectFolder":
    """The folder of a store, on this machine or at a URL. Raises for a URL that cannot be used."""
    if isinstance(place, ObjectFolder):
        return place
    if is_remote(place):
        if "?" in str(place):
            raise InterpError("a store's URL has no ?, after which there can be a password; configure that in fsspec")
        remote_place(str(place))
        return ObjectFolder(str(place).rstrip("/"))
    if re.match(r"[A-Za-z][\w+.:-]+:/", folder := str(local_path(place))):
        raise InterpError(f"{folder} is no folder of this machine; give a URL as a text such as 's3://bucket/store'")
    return Path(folder)


@dataclass(frozen=True)
class ObjectFolder:
    """A folder at a URL. It is pickled as that, so that each process has a connection of its own."""

    url: str

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> RemoteFile:
        fs, path = remote_place(self.url)
        fs.invalidate_cache(path)  # file systems remember listings, which other processes change
        return RemoteFile(f"{self.url}/{name}", fs, f"{path}/{name}")

    @property
    def staging(self) -> Path:
        """The folder of this machine in which its files are made."""
        return _cache("staging", sha256(self.url.encode()).hexdigest()[:32])

    def listing(self, new: bool = False) -> dict[str, int]:
        """Names and sizes of its files. Raises if there is no such folder, unless it may be new."""
        folder = self / ""
        try:
            infos = folder.retried(lambda: folder.fs.ls(folder.path, detail=True), "listed")
        except MissingFile:
            if new:
                return {}
            raise InterpError(f"{self}: not an activation store (no such folder or bucket)") from None
        sizes = {info["name"].rpartition("/")[2]: info["size"] or 0 for info in infos if info["type"] == "file"}
        return {name: size for name, size in sizes.items() if name}

    def fetch(self, digests: Mapping[str, str], nbytes: int, together: bool) -> bool:
        """Bring shards, of so many bytes in all, into the cache, side by side; whether some were not there.

        Those that are there count as opened just now. Raises if the bytes of one are not those of its digest. If the
        cache cannot hold them all, it raises where they are needed together, and does nothing otherwise.
        """
        places = {name: cached(digest) for name, digest in digests.items()}
        missing = [(self / name, place) for name, place in places.items() if not place.exists()]
        for place in places.values():
            with suppress(FileNotFoundError):
                os.utime(place)
        if missing and (together or nbytes <= cache_limit()):
            make_room(0, together=nbytes)
            pool = ThreadPoolExecutor(_STREAMS)
            try:
                list(track(pool.map(_fetch, *zip(*missing, strict=True)), "fetch", len(missing), unit="shards"))
            finally:
                pool.shutdown(cancel_futures=True)
        return bool(missing)

    @contextmanager
    def leased(self, busy: str) -> Iterator["Lease"]:
        """Hold the lease for the duration of a block. Raises, with `busy`, if another process has it.

        The caller holds the lock of the staging folder, so that no other process of this machine can have the lease.
        """
        mark = self.staging / _MACHINE
        if not mark.exists():
            write_text(mark, uuid.uuid4().hex)
        holder = {"id": uuid.uuid4().hex, "machine": mark.read_text(encoding="utf-8"), "host": platform.node()}
        lease, ended = Lease(self / LEASE, {**holder, "process": os.getpid()}), threading.Event()
        lease.take(busy)
        renewing = threading.Thread(target=lease.renew_until, args=(ended,), daemon=True)
        renewing.start()
        try:
            yield lease
        finally:
            ended.set()
            renewing.join()
            with suppress(InterpError):
                if lease.is_held():
                    lease.file.remove()
                if set(self.staging.iterdir()) == {mark}:
                    mark.unlink()


@dataclass(frozen=True)
class Lease:
    """The object that names the one process that writes."""

    file: RemoteFile
    holder: dict[str, str | int]

    def take(self, busy: str) -> None:
        """Create it, or take it over from a process that is dead; raises, after some seconds, if its holder lives."""
        seen, since = None, time.monotonic()
        while not self._create():
            if (other := self._read()) is None:
                continue  # it has been given back just now
            who = f"process {other.get('process')} of {other.get('host')}"
            mine = all(other.get(name) == self.holder[name] for name in ("machine", "host"))  # homes may be shared
            if mine or time.monotonic() - since > 3 * BEAT:
                self._write(0)
                time.sleep(0 if mine else BEAT / 10)  # of several that take it over at once, the last has it
                break
            if seen is None:
                note(f"{self.file}: held by {who}; waiting {3 * BEAT:.0f} s at most for a sign that it lives")
                seen = other
            elif other != seen:
                raise InterpError(f"{busy} ({who})")
            time.sleep(BEAT / 10)
        if not self.is_held():
            raise InterpError(busy)

    def is_held(self) -> bool:
        """Whether it names this process."""
        return (self._read() or {}).get("id") == self.holder["id"]

    def renew_until(self, ended: threading.Event) -> None:
        """Write it anew every so often; what fails is tried again the next time."""
        beat = 0
        while not ended.wait(BEAT):
            with suppress(InterpError):
                if self.is_held():
                    self._write(beat := beat + 1)

    def _create(self) -> bool:
        try:
            self.file.fs.pipe_file(self.file.path, json.dumps(self.holder).encode(), mode="create")
        except FileExistsError:
            return False
        except Exception as problem:  # there are no conditional PUTs here, or the plain PUT tells what is wrong
            if not isinstance(problem, PermissionError) and self.file.is_file():
                return False
            self._write(0)
        return True

    def _write(self, beat: int) -> None:
        self.file.write(json.dumps({**self.holder, "beat": beat}).encode())

    def _read(self) -> dict[str, Any] | None:
        try:
            return parse_object(self.file.read_all().decode(errors="replace"), str(self.file))
        except MissingFile:
            return None


def cached(digest: str) -> Path:
    """Where a shard with this SHA-256 is on this machine, once it was fetched."""
    return _cache("shards") / f"{digest}.safetensors"


def cache_limit() -> int:
    """The most bytes that the cache of shards may take now: the bound, or half of the disk that is free."""
    held = sum(size for _, size, _ in _held())
    return min(bound("cache"), held + shutil.disk_usage(_cache("shards")).free // 2)


def make_room(nbytes: int, together: int = 0) -> None:
    """Remove the shards that were not opened for longest, until so many bytes more are within the limit.

    Raises if the limit is below that, or below the bytes of shards that are needed together.
    """
    limit, held = cache_limit(), sorted(_held())
    if (most := max(nbytes, together)) > limit:
        raise InterpError(
            f"{most:,} bytes of shards have to be on this machine, and {_cache('shards')} takes at most {limit:,} "
            "(the bound, or half of the free disk); raise it with --limit cache=…, or set INTERP_CACHE to a larger disk"
        )
    total = sum(size for _, size, _ in held)
    for _, size, file in held:
        if total + nbytes <= limit:
            return
        file.unlink(missing_ok=True)
        total -= size


def _held() -> list[tuple[float, int, Path]]:
    files = []
    for file in _cache("shards").glob("*.safetensors"):
        with suppress(FileNotFoundError):  # another process has removed it just now
            files.append((file.stat().st_mtime, file.stat().st_size, file))
    return files


def _cache(*names: str) -> Path:
    home = os.environ.get("INTERP_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "interp"
    folder = Path(home, *names).expanduser()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as problem:
        raise InterpError(f"{folder}: cannot be made ({problem.strerror}); set INTERP_CACHE to another one") from None
    return folder


def _fetch(file: RemoteFile, place: Path) -> None:
    """Bring a shard into the cache, unless it is there; of several processes of this machine, one does."""
    with open(place.with_name(f"lock-{place.name[:2]}"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            os.utime(place)
            return
        part = place.with_name(f".{place.name}")
        try:
            make_room(file.size())
            file.save(part)
            if sha256_file(part) != place.stem:
                raise InterpError(f"{file}: damaged or changed (its SHA-256 is not the manifest's); {REMEDY}")
            os.replace(part, place)
        except MissingFile:
            raise InterpError(f"{file}: missing, but the manifest names it; {REMEDY}") from None
        except OSError as problem:
            raise InterpError(f"{part}: cannot be written ({problem}); set INTERP_CACHE to a disk with room") from None
        finally:
            part.unlink(missing_ok=True)
