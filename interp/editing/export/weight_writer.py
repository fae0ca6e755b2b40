"""Stream: a checkpoint's weight files written anew, tensor by tensor, with a fold plan applied on the way.

Files stay as they are cut unless another size is asked for. A tensor that the plan leaves alone keeps its bytes: they
are passed on in chunks and never become a tensor. One that it changes is read, changed and written; large ones one at a
time, whatever number of files is being written. So memory does not grow with the model.

Every file is hashed while it is written, flushed, and given its name only then, with its SHA-256 kept beside it. A run
that was killed finds the files it has finished, and goes on behind them.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from threading import Lock

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import KEY, read_json, write_json
from interp.core.progress import track
from interp.models.checkpoints.checkpoint import INDEX, SINGLE
from interp.models.checkpoints.dequantising import QuantisedTensor
from interp.models.checkpoints.safetensors_file import DTYPES, Entry, TensorFile, as_bytes, header_bytes

TensorChange = Callable[[Tensor], Tensor]

FINISHED = "finished.json"
_CHUNK = 8 << 20
_PART = 512 << 10  # bytes hashed and then written: what stays in the cache between the two
_HEAD, _LINE = 64, 100  # bytes of a header, and of a tensor's line in it, but for its name and shape
_LARGE = 32 << 20  # bytes of a tensor of which only one is held at a time


@dataclass(frozen=True, eq=False)
class TensorPiece:
    """A tensor to write: its name and type, where it comes from, and what is done to it (None: its bytes are kept).

    `source` is an entry of a file, or a tensor in memory. `change` may work in place on what it is given; where it
    returns another shape, `changed_shape` says which.
    """

    name: str
    dtype: str
    source: tuple[TensorFile | QuantisedTensor, Entry] | Tensor
    change: TensorChange | None = None
    changed_shape: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file to be written."""
        return self.changed_shape or self.source_shape

    @property
    def source_shape(self) -> tuple[int, ...]:
        """The shape of what `change` is given."""
        return tuple(self.source.shape) if isinstance(self.source, Tensor) else self.source[1].shape

    @property
    def nbytes(self) -> int:
        """Its size in the file to be written."""
        return prod(self.shape) * DTYPES[self.dtype].itemsize

    @property
    def is_kept(self) -> bool:
        """Whether its bytes are passed on as they are."""
        return self.change is None and not isinstance(self.source, Tensor) and self.source[1].dtype == self.dtype


@dataclass(frozen=True)
class WeightShard:
    """A file to write."""

    name: str
    pieces: Sequence[TensorPiece]
    metadata: Mapping[str, str] = field(default_factory=lambda: {"format": "pt"})

    @property
    def nbytes(self) -> int:
        """The size of its tensors."""
        return sum(piece.nbytes for piece in self.pieces)


def cut_shards(pieces: Iterable[Sequence[TensorPiece]], limit: int | None) -> list[WeightShard]:
    """Files for the pieces of each file of the source: as they are, or anew where the next would pass the limit."""
    groups = [list(group) for group in pieces] if limit is None else list(_cut_anew(pieces, limit))
    if len(groups) == 1:
        return [WeightShard(SINGLE, groups[0])]
    total = len(groups)
    return [WeightShard(f"model-{n:05d}-of-{total:05d}.safetensors", group) for n, group in enumerate(groups, 1)]


def _cut_anew(pieces: Iterable[Sequence[TensorPiece]], limit: int) -> Iterator[list[TensorPiece]]:
    held, size = list[TensorPiece](), _HEAD
    for piece in (piece for group in pieces for piece in group):
        # At most what its line of the header takes: names are written as JSON, numbers in full.
        more = piece.nbytes + len(json.dumps(piece.name).encode()) + 24 * len(piece.shape) + _LINE
        if held and size + more > limit:
            yield held
            held, size = [], _HEAD
        held.append(piece)
        size += more
    yield held


def write_weights(shards: Sequence[WeightShard], folder: Path) -> dict[str, str]:
    """Write the files, and their index if they are several; returns the SHA-256 of each."""
    digests, keep, large = _finished(folder, shards), Lock(), _Memory()

    def make(shard: WeightShard) -> None:
        digest = _write_shard(shard, folder, large)
        with keep:
            digests[shard.name] = digest
            write_json(folder / FINISHED, digests)

    # Hashing and copying leave the interpreter free, so two files at once keep two cores busy, and a third the disk.
    with one_thread(), ThreadPoolExecutor(min(4, os.cpu_count() or 1) + 1) as pool:
        left = [shard for shard in shards if shard.name not in digests]
        list(track(pool.map(make, left), "write", total=len(left)))
    (folder / FINISHED).unlink(missing_ok=True)
    if len(shards) > 1:
        weight_map = {piece.name: shard.name for shard in shards for piece in shard.pieces}
        total = sum(shard.nbytes for shard in shards)
        write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})
    return digests


def _finished(folder: Path, shards: Sequence[WeightShard]) -> dict[str, str]:
    """Files of an earlier run that was killed, whole and on disk, with their SHA-256; all else of it is removed."""
    record, names = folder / FINISHED, {shard.name for shard in shards}
    found = read_json(record) if record.is_file() else {}
    digests = {name: digest for name, digest in found.items() if name in names and (folder / name).is_file()}
    for path in folder.iterdir():
        if path.name not in {*digests, KEY}:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    return digests


@contextmanager
def one_thread() -> Iterator[None]:
    """Products on one thread: several files are edited side by side, and no bit depends on how many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


class _Memory:
    """Memory for one tensor at a time: to be given new memory for each takes as long as to edit it."""

    def __init__(self) -> None:
        self._lock, self._buffer = Lock(), torch.empty(0, dtype=torch.uint8)

    @contextmanager
    def of(self, nbytes: int) -> Iterator[Tensor]:
        """So many bytes, until the block ends."""
        with self._lock:
            if len(self._buffer) < nbytes:
                self._buffer = torch.empty(0, dtype=torch.uint8)  # gone before a larger one is there
                self._buffer = torch.empty(nbytes, dtype=torch.uint8)
            yield self._buffer[:nbytes]


def _write_shard(shard: WeightShard, folder: Path, large: _Memory) -> str:
    partial, digest, small = folder / f"{shard.name}.part", hashlib.sha256(), _Memory()
    with partial.open("wb", buffering=0) as out:

        def put(data: memoryview | bytes) -> None:
            whole = memoryview(data)
            for start in range(0, len(whole), _PART):
                part = whole[start : start + _PART]
                digest.update(part)
                while len(part):
                    part = part[out.write(part) :]

        put(header_bytes({piece.name: (piece.dtype, piece.shape) for piece in shard.pieces}, shard.metadata))
        for piece in shard.pieces:
            if piece.is_kept:
                for chunk in _chunks(*piece.source):
                    put(chunk)
                continue
            size = 0 if isinstance(piece.source, Tensor) else piece.source[1].nbytes
            with (large if max(size, piece.nbytes) >= _LARGE else small).of(size) as memory:
                put(as_bytes(compute_shard(piece, memory)))
        os.fsync(out.fileno())
    partial.rename(folder / shard.name)
    return digest.hexdigest()


def _chunks(file: TensorFile | QuantisedTensor, entry: Entry) -> Iterator[memoryview]:
    """A tensor's bytes, a part at a time in one buffer."""
    buffer = torch.empty(min(_CHUNK, entry.nbytes), dtype=torch.uint8)
    for start in range(entry.start, entry.stop, _CHUNK):
        part = buffer[: min(_CHUNK, entry.stop - start)]
        file.read_into(part, start)
        yield as_bytes(part)


def compute_shard(piece: TensorPiece, memory: Shaped[Tensor, "bytes"] | None = None) -> Shaped[Tensor, "..."]:
    """The tensor that a piece stands for: read, cast and changed; in `memory` of its size in the source, if given."""
    if isinstance(piece.source, Tensor):
        tensor = piece.source.detach().cpu().clone(memory_format=torch.contiguous_format)
    else:
        file, entry = piece.source
        tensor = file.read_entry(entry, memory)
    wanted = DTYPES[piece.dtype]
    tensor = tensor.to(wanted)
    # Edited in the wider of the two types, so that widening a bfloat16 checkpoint makes the edit exact in float32.
    result = (piece.change(tensor) if piece.change else tensor).to(wanted).contiguous()
    _require_finite(piece, result)
    return result


def _require_finite(piece: TensorPiece, result: Tensor) -> None:
    if not result.is_floating_point() or result.element_size() < 2 or not result.numel():
        return
    if bool(torch.stack(torch.aminmax(result)).isfinite().all()):
        return
    source = piece.source if isinstance(piece.source, Tensor) else piece.source[0].read_entry(piece.source[1])
    if not bool(source.isfinite().all()):
        raise InterpError(f"{piece.name} holds NaN or infinite values before the edit; restore the checkpoint")
    raise InterpError(
        f"{piece.name} would hold infinite values in {str(result.dtype).removeprefix('torch.')}, whose largest is "
        f"{torch.finfo(result.dtype).max:.3g}; choose bfloat16 or float32 (dtype), or a weaker edit"
    )
