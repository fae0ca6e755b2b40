"""Writes a checkpoint's weight files tensor by tensor, with a fold plan applied on the way.

Files keep their cuts unless a size is given. A tensor that the plan does not change keeps its bytes, which are copied
in chunks and never become a tensor. One that it changes is read, changed and written; of large ones only one is in
memory, however many files are written at once. So memory does not grow with the model.

Every file is hashed by a thread of its own while it is written, flushed, and only then gets its name; its SHA-256 is
recorded. A run that was killed finds the files that are finished and continues after them.

`estimate_export` says beforehand what that takes. The disk space is known. The memory is that of the largest tensor,
its edited copy and the buffers. The time follows from how fast this machine hashes and edits a few megabytes now.

Limitations: an estimate does not take the speed of the disk and other work on the machine into account.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import KEY, read_json, write_json
from interp.core.progress import track
from interp.models.checkpoints.checkpoint import INDEX, SINGLE
from interp.models.checkpoints.dequantising import QuantisedTensor
from interp.models.checkpoints.safetensors_file import DTYPES, Entry, TensorFile, as_bytes, header_bytes

FINISHED = "finished.json"
_CHUNK = 8 << 20
_PART = 512 << 10  # bytes of a write: those of several megabytes take twice the processor time on some kernels
_HEAD, _LINE = 64, 100  # bytes of a header, and of a tensor's line in it without its name and shape
_SAMPLE, _BUFFERS = 16 << 20, 150 << 20  # bytes that an estimate hashes, and that each worker's buffers take
_LARGE = 32 << 20  # bytes, from which on only one tensor is in memory at a time


@dataclass(frozen=True, eq=False)
class TensorPiece:
    """A tensor to write: its name and type, where it comes from, and how it changes (None: its bytes are copied).

    `source` is an entry of a file, or a tensor in memory. `change` may work in place; where it returns another shape,
    `changed_shape` gives it.
    """

    name: str
    dtype: str
    source: tuple[TensorFile | QuantisedTensor, Entry] | Tensor
    change: Callable[[Tensor], Tensor] | None = None
    changed_shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file to be written."""
        return self.changed_shape or self.source_shape

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape before `change`."""
        return tuple(self.source.shape) if isinstance(self.source, Tensor) else self.source[1].shape

    @property
    def nbytes(self) -> int:
        """Its size in the file to be written."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def is_kept(self) -> bool:
        """Whether its bytes are copied."""
        return self.change is None and not isinstance(self.source, Tensor) and self.source[1].dtype == self.dtype


@dataclass(frozen=True)
class WeightShard:
    """A file to write."""

    name: str
    pieces: Sequence[TensorPiece]

    @property
    def nbytes(self) -> int:
        """The size of its tensors."""
        return sum(piece.nbytes for piece in self.pieces)


def cut_shards(pieces: Iterable[Sequence[TensorPiece]], limit: int | None) -> list[WeightShard]:
    """Files for the pieces: cut as in the source, or, with a limit in bytes, before one would exceed it."""
    groups = [list(group) for group in pieces] if limit is None else list(_cut_at(pieces, limit))
    if len(groups) == 1:
        return [WeightShard(SINGLE, groups[0])]
    total = len(groups)
    return [WeightShard(f"model-{n:05d}-of-{total:05d}.safetensors", group) for n, group in enumerate(groups, 1)]


def _cut_at(pieces: Iterable[Sequence[TensorPiece]], limit: int) -> Iterator[list[TensorPiece]]:
    group, size = list[TensorPiece](), _HEAD
    for piece in (piece for file in pieces for piece in file):
        # An upper bound of its line in the header, where names are JSON and numbers are written in full.
        more = piece.nbytes + len(json.dumps(piece.name).encode()) + 24 * len(piece.shape) + _LINE
        if group and size + more > limit:
            yield group
            group, size = [], _HEAD
        group.append(piece)
        size += more
    yield group


def write_weights(shards: Sequence[WeightShard], folder: Path) -> dict[str, str]:
    """Write the files, and an index if there are several; returns the SHA-256 of each."""
    digests, keep, large = _finished(folder, shards), Lock(), _Memory()

    def write(shard: WeightShard) -> None:
        digest = _write_shard(shard, folder, large)
        with keep:
            digests[shard.name] = digest
            write_json(folder / FINISHED, digests)

    # Hashing and copying release the interpreter's lock: two files at once keep two cores busy, and a third the disk.
    with one_thread(), ThreadPoolExecutor(min(4, os.cpu_count() or 1) + 1) as pool:
        left = [shard for shard in shards if shard.name not in digests]
        list(track(pool.map(write, left), "write", total=len(left), unit="files"))
    (folder / FINISHED).unlink(missing_ok=True)
    if len(shards) > 1:
        weight_map = {piece.name: shard.name for shard in shards for piece in shard.pieces}
        total = sum(shard.nbytes for shard in shards)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return digests


def _finished(folder: Path, shards: Sequence[WeightShard]) -> dict[str, str]:
    """Finished files of an earlier run that was killed, with their SHA-256; the rest of it is removed."""
    record, names = folder / FINISHED, {shard.name for shard in shards}
    finished = read_json(record) if record.is_file() else {}
    digests = {name: digest for name, digest in finished.items() if name in names and (folder / name).is_file()}
    for path in folder.iterdir():
        if path.name not in {*digests, KEY}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return digests


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute products on one thread: several files are edited in parallel, and results do not depend on the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Memory:
    """Memory for one tensor at a time: allocating new memory for each takes as long as editing it."""

    def __init__(self) -> None:
        self._lock, self._buffer = Lock(), torch.empty(0, dtype=torch.uint8)

    @contextmanager
    def of(self, nbytes: int) -> Iterator[Tensor]:
        """A buffer of `nbytes` bytes, until the block ends."""
        with self._lock:
            if len(self._buffer) < nbytes:
                self._buffer = torch.empty(0, dtype=torch.uint8)  # freed before a larger one is allocated
                self._buffer = torch.empty(nbytes, dtype=torch.uint8)
            yield self._buffer[:nbytes]


def _write_shard(shard: WeightShard, folder: Path, large: _Memory) -> str:
    partial, digest, small = folder / f"{shard.name}.part", hashlib.sha256(), _Memory()
    with partial.open("wb", buffering=0) as out, ThreadPoolExecutor(1) as beside:

        def put(data: memoryview | bytes) -> None:
            whole = memoryview(data)
            hashed = beside.submit(digest.update, whole)
            for start in range(0, len(whole), _PART):
                part = whole[start : start + _PART]
                while len(part):
                    part = part[out.write(part) :]
            hashed.result()  # before its memory is used again

        put(header_bytes({piece.name: (piece.dtype, piece.shape) for piece in shard.pieces}, {"format": "pt"}))
        for piece in shard.pieces:
            if piece.is_kept:
                for part in read_parts(*piece.source):
                    put(as_bytes(part))
                continue
            size = 0 if isinstance(piece.source, Tensor) else piece.source[1].nbytes
            with (large if max(size, piece.nbytes) >= _LARGE else small).of(size) as memory:
                put(as_bytes(compute_shard(piece, memory)))
        os.fsync(out.fileno())
    partial.rename(folder / shard.name)
    return digest.hexdigest()


def read_parts(file: TensorFile | QuantisedTensor, entry: Entry, size: int = _CHUNK) -> Iterator[Tensor]:
    """A tensor's bytes in parts of at most `size`, all of which are in one buffer."""
    buffer = torch.empty(min(size, entry.nbytes), dtype=torch.uint8)
    for start in range(entry.start, entry.stop, size):
        part = buffer[: min(size, entry.stop - start)]
        file.read_into(part, start)
        yield part


def compute_shard(piece: TensorPiece, memory: Shaped[Tensor, "bytes"] | None = None) -> Shaped[Tensor, "..."]:
    """The tensor of a piece: read, cast and changed; in `memory` of its size in the source, if given."""
    if isinstance(piece.source, Tensor):
        tensor = piece.source.detach().cpu().clone(memory_format=torch.contiguous_format)
    else:
        file, entry = piece.source
        tensor = file.read_entry(entry, memory)
    dtype = DTYPES[piece.dtype]
    tensor = tensor.to(dtype)
    # The edit follows the cast, so that widening a bfloat16 checkpoint makes it exact in float32.
    result = (piece.change(tensor) if piece.change else tensor).to(dtype).contiguous()
    _require_finite(piece, result)
    return result


def _require_finite(piece: TensorPiece, result: Tensor) -> None:
    checked = result.is_floating_point() and result.element_size() > 1 and result.numel()
    if not checked or torch.stack(torch.aminmax(result)).isfinite().all():
        return
    source = piece.source if isinstance(piece.source, Tensor) else piece.source[0].read_entry(piece.source[1])
    if not bool(source.isfinite().all()):
        raise InterpError(f"{piece.name} holds NaN or infinite values before the edit; restore the checkpoint")
    limit = f"{str(result.dtype).removeprefix('torch.')}, whose largest is {torch.finfo(result.dtype).max:.3g}"
    raise InterpError(f"{piece.name} would hold infinite values in {limit}; choose bfloat16, float32 or a weaker edit")


@dataclass(frozen=True)
class ExportEstimate(Displayed):
    """What an export takes.

    Attributes:
        disk: Bytes to be written.
        edited: Bytes of these that change.
        memory: Bytes of memory in addition to the interpreter's.
        seconds: Time.

    Example:
        >>> from interp.editing import ExportEstimate
        >>> print(ExportEstimate(disk=2_000_000_000, edited=500_000_000, memory=300_000_000, seconds=8.0))
        2.00 GB to write, 0.50 GB of it edited; about 300 MB of memory and 8 s
    """

    disk: int
    edited: int
    memory: int
    seconds: float

    def __str__(self) -> str:
        written = f"{self.disk / 1e9:.2f} GB to write, {self.edited / 1e9:.2f} GB of it edited"
        return f"{written}; about {self.memory / 1e6:.0f} MB of memory and {self.seconds:.0f} s"

    def _card(self) -> Card:
        disk = [("to write", f"{self.disk / 1e9:.2f} GB"), ("of it edited", f"{self.edited / 1e9:.2f} GB")]
        return "", [*disk, ("memory", f"{self.memory / 1e9:.2f} GB"), ("time", f"{self.seconds:.0f} s")]


def estimate_export(files: Sequence[Sequence[TensorPiece]]) -> ExportEstimate:
    """The estimate for writing these pieces, file by file."""
    pieces = [piece for file in files for piece in file]
    changed = [piece for piece in pieces if not piece.is_kept]
    largest = max((piece.nbytes for piece in changed), default=0)
    disk, edited = sum(piece.nbytes for piece in pieces), sum(piece.nbytes for piece in changed)
    workers = max(1, min(len(files), os.cpu_count() or 1))
    hashing = _seconds(lambda sample: hashlib.sha256(as_bytes(sample)), torch.zeros(_SAMPLE, dtype=torch.uint8))
    seconds = disk * hashing / workers + edited * _editing(changed)
    return ExportEstimate(disk, edited, 2 * largest + workers * _BUFFERS, seconds)


def _seconds(work: Callable[[Tensor], object], sample: Tensor) -> float:
    """Seconds per byte of a sample."""
    began = time.perf_counter()
    work(sample)
    return (time.perf_counter() - began) / max(1, sample.nbytes)


def _editing(changed: Sequence[TensorPiece]) -> float:
    """Seconds per byte, measured on a tensor as large as the largest."""
    matrices = (piece for piece in changed if piece.change and len(piece.source_shape) == 2)
    largest = max(matrices, key=lambda piece: piece.nbytes, default=None)
    if largest is None or largest.change is None:
        return 0.0
    return _seconds(largest.change, torch.zeros(largest.source_shape, dtype=DTYPES[largest.dtype]))
