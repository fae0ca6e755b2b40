"""A checkpoint folder, read tensor by tensor and never trusted.

Only safetensors are read. Pickled weights and configs that load code (`auto_map`) are refused, and so is an index that
names a file outside the folder (transformers itself would follow it).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import read_json

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder with safetensors weights: one file, or shards with an index."""

    folder: Path

    @classmethod
    def open(cls, folder: str | Path, trust_remote_code: bool = False, allow_pickle: bool = False) -> "Checkpoint":
        """Check a folder before anything of it is loaded. Raises with the reason where it can't be trusted."""
        checkpoint = cls(Path(folder))
        if not (checkpoint.folder / "config.json").is_file():
            raise InterpError(f"{folder}: no config.json in it; expected a Hugging Face model folder")
        if "auto_map" in checkpoint.config and not trust_remote_code:
            raise InterpError(
                f"{folder}: its config.json has auto_map, which runs code that comes with the checkpoint; "
                "interp.load(..., trust_remote_code=True) only if you have read that code"
            )
        for file in checkpoint.files if not (allow_pickle and checkpoint.pickled) else ():
            _readable(file)
        return checkpoint

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return read_json(self.folder / "config.json")

    @cached_property
    def files(self) -> list[Path]:
        """The weight files, in name order."""
        # transformers looks for the single file first, and so must we: a folder may hold both.
        if (self.folder / SINGLE).is_file():
            return [_inside(self.folder, SINGLE)]
        if (self.folder / INDEX).is_file():
            return [_inside(self.folder, name) for name in _index_names(self.folder / INDEX)]
        if self.pickled:
            raise InterpError(
                f"{self.folder}: its weights are pickled ({self.pickled[0]}), and a pickle can run code; "
                "interp.load(..., allow_pickle=True) only if you trust their origin, and save them as safetensors"
            )
        raise InterpError(f"{self.folder}: no weights in it; expected {SINGLE}, or shards with {INDEX}")

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, one at a time, file by file."""
        for file in self.files:
            yield from file_tensors(file)

    @property
    def pickled(self) -> list[str]:
        """Names of pickled weight files, where there are no others."""
        if any(self.folder.glob("*.safetensors*")):
            return []
        return sorted(file.name for pattern in _PICKLED for file in self.folder.glob(pattern))

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Type of every tensor by name, as safetensors writes it (F32, BF16, …), read from the headers alone."""
        return {name: kind for file in self.files for name, kind in _header(file)}


def file_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of one safetensors file, one at a time."""
    with safe_open(file, framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 (safe_open is not iterable)
            yield name, opened.get_tensor(name)


def _header(file: Path) -> list[tuple[str, str]]:
    with safe_open(file, framework="pt") as opened:
        return [(name, opened.get_slice(name).get_dtype()) for name in opened.keys()]  # noqa: SIM118


def _index_names(index: Path) -> list[str]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise InterpError(f"{index}: has no weight_map; expected names of tensors with the files that hold them")
    return sorted(set(weight_map.values()))


def _inside(folder: Path, name: str) -> Path:
    plain = re.fullmatch(r"[\w.-]+\.safetensors", name)
    file = folder / name
    if not plain or file.resolve().parent not in (folder.resolve(), _blobs(folder)):
        raise InterpError(f"{folder}: its weights are said to be in {name!r}, not a safetensors file in the folder")
    return file


def _blobs(folder: Path) -> Path:
    """The Hugging Face cache keeps files in a sibling folder and links to them from snapshots."""
    return folder.resolve().parent.parent / "blobs"


def _readable(file: Path) -> None:
    if not file.is_file():
        raise InterpError(f"{file}: missing, though the index names it; download the checkpoint again")
    try:
        with safe_open(file, framework="pt"):
            pass
    except SafetensorError as problem:
        raise InterpError(f"{file}: not a valid safetensors file ({problem}); download it again") from None
