"""TensorFile: a safetensors file with a checked header, read tensor by tensor.

The format (https://huggingface.co/docs/safetensors): eight bytes with the length of the header, little-endian; the
header, JSON that maps names to {dtype, shape, data_offsets} and may hold `__metadata__`; then the bytes of the tensors.
The reference reader accepts repeated names and bytes that belong to no tensor. This one refuses them, because two
programs could read different weights from such a file.

Tensors are read into new memory, not mapped: pages of a mapped file count towards the memory of the process, and an
export has to handle checkpoints larger than memory.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.inputs import parse_json, require_regular
from interp.models.checkpoints.remote_files import RemoteFile

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8,
    "C64": torch.complex64, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_HEADER_LIMIT = 100_000_000  # bytes, as in the reference reader


@dataclass(frozen=True)
class Entry:
    """A tensor in a file: its dtype as the format writes it, its shape, and the offsets of its first and last byte."""

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
    """A safetensors file.

    Args:
        path: The file.
        entries: The tensors by name, in the order of their bytes; offsets count from the beginning of the file.
        metadata: The `__metadata__` of the header.
        data: Offset of the first byte after the header.
    """

    path: Path | RemoteFile
    entries: Mapping[str, Entry]
    metadata: Mapping[str, str]
    data: int

    @classmethod
    def open(cls, path: str | Path | RemoteFile) -> "TensorFile":
        """Read and check the header; raises with the file and the fault if it is invalid."""
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
            raise _invalid(file, "its metadata is not a map of names to texts")
        entries = {name: _entry(file, name, value, 8 + length) for name, value in header.items()}
        ordered = dict(sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)))
        _require_gapless(file, ordered, 8 + length, size)
        return cls(file, ordered, metadata, 8 + length)

    def read(self, name: str) -> Shaped[Tensor, "..."]:
        """One tensor."""
        return self.read_entry(self.entries[name])

    def read_entry(self, entry: Entry, memory: Shaped[Tensor, "bytes"] | None = None) -> Shaped[Tensor, "..."]:
        """The tensor of an entry, in `memory` if it is passed."""
        buffer = torch.empty(entry.nbytes, dtype=torch.uint8) if memory is None else memory
        self.read_into(buffer, entry.start)
        return buffer.view(DTYPES[entry.dtype]).view(entry.shape)

    def read_into(self, buffer: Shaped[Tensor, "bytes"], start: int) -> None:
        """Fill a buffer with the file's bytes from `start`; raises if the file ends before the buffer is full."""
        _read_into(self.path, as_bytes(buffer), start)


def header_bytes(tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]) -> bytes:
    """The header of a file, preceded by its length.

    Args:
        tensors: dtype and shape by name, in the order of the file.
        metadata: Texts by name.
    """
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
    """The format's name of a dtype."""
    return _NAMES[dtype]


def as_bytes(tensor: Shaped[Tensor, "..."]) -> memoryview:
    """The bytes of a contiguous CPU tensor, without a copy."""
    return tensor.view(-1).view(torch.uint8).numpy().data


def _read(file: Path | RemoteFile, start: int, stop: int) -> bytearray:
    data = bytearray(stop - start)
    _read_into(file, memoryview(data), start)
    return data


def _read_into(file: Path | RemoteFile, buffer: memoryview, start: int) -> None:
    if isinstance(file, RemoteFile):
        file.read_into(buffer, start)
        return
    require_regular(file)
    with file.open("rb") as opened:
        opened.seek(start)
        count = opened.readinto(buffer)
    if count < len(buffer):
        raise InterpError(f"{file}: ended {len(buffer) - count} bytes early; it was changed, so try again")


def _parsed(file: Path | RemoteFile, text: bytearray) -> dict[str, Any]:
    try:
        header = parse_json(text, "its header")
    except InterpError as problem:
        raise _invalid(file, str(problem)) from None
    if not isinstance(header, dict):
        raise _invalid(file, "its header is not an object")
    return header


def _entry(file: Path | RemoteFile, name: str, value: Any, data: int) -> Entry:
    try:
        dtype, shape, (start, stop) = value["dtype"], tuple(value["shape"]), value["data_offsets"]
        plain = all(type(number) is int and number >= 0 for number in (*shape, start, stop))
        expected = prod(shape) * DTYPES[dtype].itemsize
    except (KeyError, TypeError, ValueError):
        raise _invalid(file, f"its header's entry of {name!r} can't be read: {str(value)[:80]}") from None
    if not plain or stop - start != expected:
        raise _invalid(file, f"{name!r} has {dtype} {shape}, which is {expected} bytes, at {start} to {stop}")
    return Entry(dtype, shape, data + start, data + stop)


def _require_gapless(file: Path | RemoteFile, entries: Mapping[str, Entry], data: int, size: int) -> None:
    end = data
    for name, entry in entries.items():
        if entry.start != end:
            fault = "overlaps the tensor before it" if entry.start < end else "leaves bytes of no tensor before it"
            raise _invalid(file, f"{name!r} {fault}")
        end = entry.stop
    if end != size:
        fault = "it was cut short" if end > size else "bytes of no tensor follow"
        raise _invalid(file, f"its tensors end at {end}, the file at {size}: {fault}")


def _invalid(file: Path | RemoteFile, reason: str) -> InterpError:
    return InterpError(f"{file}: not a valid safetensors file ({reason}); download it again")
