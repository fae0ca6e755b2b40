"""A safetensors file, its header read and checked here: what each tensor is and which bytes it has.

The format (https://huggingface.co/docs/safetensors): eight bytes with the header's length, little-endian; the header,
JSON that maps names to {dtype, shape, data_offsets} and may hold `__metadata__`; then the tensors' bytes. The usual
reader lets a name that occurs twice and bytes of no tensor pass; here they are refused, since what one program reads
from such a file another does not.

Tensors are read into memory of their own, not mapped: pages of a mapped file count as the process's, and a program that
promises to edit a checkpoint larger than memory must keep its word.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.models.checkpoints.remote_files import RemoteFile

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "F8_E8M0": torch.float8_e8m0fnu,
    "C64": torch.complex64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes, as the reference reader has it


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: its type as the format writes it, its shape, and its bytes from `start` to `stop`."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        """Its size in the file."""
        return self.stop - self.start


@dataclass(frozen=True)
class TensorFile:
    """See the module. `entries` by name, in the order of their bytes; offsets count from the file's beginning."""

    path: Path | RemoteFile
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data: int

    @classmethod
    def open(cls, path: str | Path | RemoteFile) -> "TensorFile":
        """Read and check the header. Raises, naming the file and the fault, where it can't be trusted."""
        file = path if isinstance(path, RemoteFile) else Path(path)
        try:
            size = file.size() if isinstance(file, RemoteFile) else file.stat().st_size
            length = int.from_bytes(_read(file, 0, min(8, size)), "little")
            if size < 8 or length > min(size - 8, _HEADER_LIMIT):
                raise _invalid(file, f"its header would have {length} of the {size} bytes there are")
            header = _parsed(file, _read(file, 8, 8 + length))
        except OSError as problem:
            raise InterpError(f"{file}: cannot be read ({problem.strerror})") from None
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise _invalid(file, "its metadata are not texts by name")
        entries = {name: _entry(file, name, value, 8 + length) for name, value in header.items()}
        ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
        _require_gapless(file, ordered, 8 + length, size)
        return cls(file, ordered, metadata, 8 + length)

    def read(self, name: str) -> Shaped[Tensor, "..."]:
        """One tensor."""
        return self.read_entry(self.entries[name])

    def read_entry(self, entry: Entry, memory: Shaped[Tensor, "bytes"] | None = None) -> Shaped[Tensor, "..."]:
        """The tensor that an entry of this file says; in `memory`, if it is given some of the right size."""
        buffer = torch.empty(entry.nbytes, dtype=torch.uint8) if memory is None else memory
        self.read_into(buffer, entry.start)
        return buffer.view(DTYPES[entry.dtype]).view(entry.shape)

    def read_into(self, buffer: Shaped[Tensor, "bytes"], start: int) -> None:
        """Fill a buffer of bytes from the file. Raises where the file ends first."""
        if isinstance(self.path, RemoteFile):
            self.path.read_into(as_bytes(buffer), start)
            return
        with self.path.open("rb") as opened:
            _read_into(opened.fileno(), buffer, start)


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The header, with its length before it, of a file with these types and shapes, in this order."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        stop = offset + prod(shape) * DTYPES[dtype].itemsize
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [offset, stop]}
        offset = stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors begin at a multiple of eight
    return len(text).to_bytes(8, "little") + text


def dtype_name(dtype: torch.dtype) -> str:
    """A type's name in the format."""
    return _NAMES[dtype]


def as_bytes(tensor: Shaped[Tensor, "..."]) -> memoryview:
    """The bytes of a contiguous tensor on the CPU, not copied."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _read(file: Path | RemoteFile, start: int, stop: int) -> bytes:
    if isinstance(file, RemoteFile):
        return file.read(start, stop)
    with file.open("rb") as opened:
        opened.seek(start)
        return opened.read(stop - start)


def _read_into(descriptor: int, buffer: Shaped[Tensor, "bytes"], start: int) -> None:
    view, done = as_bytes(buffer), 0
    while done < len(view):
        count = os.preadv(descriptor, [view[done:]], start + done)
        if count == 0:
            raise InterpError(f"a weight file ended {len(view) - done} bytes early; it was changed while it was read")
        done += count


def _parsed(file: Path | RemoteFile, text: bytes) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            seen = [name for name, _ in pairs]
            twice = next(name for name in seen if seen.count(name) > 1)
            raise _invalid(file, f"its header has {twice!r} twice")
        return found

    try:
        header = json.loads(text, object_pairs_hook=once)
    except InterpError:
        raise
    except (ValueError, RecursionError) as problem:
        raise _invalid(file, f"its header is not JSON: {problem}") from None
    if not isinstance(header, dict):
        raise _invalid(file, "its header is not an object")
    return header


def _entry(file: Path | RemoteFile, name: str, value: Any, data: int) -> Entry:
    try:
        dtype, shape, (start, stop) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        plain = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
        expected = prod(shape) * DTYPES[dtype].itemsize
    except (KeyError, TypeError, ValueError):
        raise _invalid(file, f"what its header says of {name!r} can't be understood: {str(value)[:80]}") from None
    if not plain or stop - start != expected:
        raise _invalid(file, f"{name!r} has {dtype} {shape}, which is {expected} bytes, at {start} to {stop}")
    return Entry(dtype, shape, data + start, data + stop)


def _require_gapless(file: Path | RemoteFile, entries: Mapping[str, Entry], data: int, size: int) -> None:
    reached = data
    for name, entry in entries.items():
        if entry.start != reached:
            what = "overlaps the tensor before it" if entry.start < reached else "leaves bytes of no tensor before it"
            raise _invalid(file, f"{name!r} {what}")
        reached = entry.stop
    if reached != size:
        what = "it was cut short" if reached > size else "bytes of no tensor follow"
        raise _invalid(file, f"its tensors end at {reached}, the file at {size}: {what}")


def _invalid(file: Path | RemoteFile, reason: str) -> InterpError:
    return InterpError(f"{file}: not a valid safetensors file ({reason}); download it again")
