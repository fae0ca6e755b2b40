"""A checkpoint folder, here or at a URL, read tensor by tensor and never trusted.

Only safetensors are read. Pickled weights and configs that load code (`auto_map`) are refused, and so is an index that
names a file outside the folder (transformers itself would follow it).
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.models.checkpoints.remote_files import RemoteFile, RemoteFolder, is_remote
from interp.models.checkpoints.safetensors_file import Entry, TensorFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder with safetensors weights: one file, or shards with an index.

    Of one at a URL (`remote`), `folder` is a temporary copy of all but the weights, which are read where they are.
    """

    folder: Path
    remote: RemoteFolder | None = None

    def __str__(self) -> str:
        return self.remote.url if self.remote else str(self.folder)

    @classmethod
    def open(cls, folder: str | Path, trust_remote_code: bool = False, allow_pickle: bool = False) -> "Checkpoint":
        """Check a folder before anything of it is loaded. Raises with the reason where it can't be trusted."""
        remote = RemoteFolder.open(str(folder)) if is_remote(folder) else None
        checkpoint = cls(remote.place if remote else Path(folder), remote)
        if (checkpoint.folder / ADAPTER).is_file():
            raise _unmerged(checkpoint)
        if not (checkpoint.folder / "config.json").is_file():
            raise InterpError(f"{folder}: no config.json in it; expected a Hugging Face model folder")
        for name in ("config.json", INDEX) if remote is None else ():
            inside(checkpoint.folder, name)
        if "auto_map" in checkpoint.config and not trust_remote_code:
            raise InterpError(
                f"{folder}: its config.json has auto_map, which runs code that comes with the checkpoint; "
                "interp.load(..., trust_remote_code=True) only if you have read that code"
            )
        if not (allow_pickle and checkpoint.pickled):
            checkpoint.require_whole()
        return checkpoint

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        found = read_json(self.folder / "config.json")
        if not isinstance(found, dict):
            raise InterpError(f"{self}: its config.json holds {str(found)[:40]}; expected an object")
        return found

    @cached_property
    def files(self) -> list[Path | RemoteFile]:
        """The weight files, in name order."""
        # transformers looks for the single file first, and so must we: a folder may hold both.
        if self.remote.file(SINGLE).is_there() if self.remote else (self.folder / SINGLE).is_file():
            return [self._file(SINGLE)]
        if (self.folder / INDEX).is_file():
            return [self._file(name) for name in sorted(set(_weight_map(self.folder).values()))]
        if self.pickled:
            raise InterpError(
                f"{self.folder}: its weights are pickled ({self.pickled[0]}), and a pickle can run code; "
                "interp.load(..., allow_pickle=True) only if you trust their origin, and save them as safetensors"
            )
        raise InterpError(f"{self}: no weights in it; expected {SINGLE}, or shards with {INDEX}")

    def _file(self, name: str) -> Path | RemoteFile:
        plain = _plain(str(self), name)
        return self.remote.file(plain) if self.remote else inside(self.folder, plain)

    @cached_property
    def opened(self) -> list[TensorFile]:
        """The weight files with their headers, each checked."""
        return [TensorFile.open(_present(file)) for file in self.files]

    def require_whole(self) -> None:
        """Raise where a file can't be trusted, a tensor is in two, or the index says otherwise than the files."""
        home: dict[str, str] = {}
        for file in self.opened:
            for name in file.entries:
                if name in home:
                    raise InterpError(f"{self}: {name!r} is in {home[name]} and {file.path.name}; keep one")
                home[name] = file.path.name
        if self.files[0].name == SINGLE:
            return
        weight_map = _weight_map(self.folder)
        for name, file_name in weight_map.items():
            if home.get(name) != file_name:
                raise InterpError(f"{self}: its index has {name!r} in {file_name}, where it is not; download it again")
        for name in sorted(set(home) - set(weight_map)):
            raise InterpError(f"{self}: {home[name]} has {name!r}, which its index does not; download it again")

    @property
    def sources(self) -> list[dict[str, tuple[TensorFile, Entry]]]:
        """Where each tensor is, by name, file by file."""
        return [{name: (file, entry) for name, entry in file.entries.items()} for file in self.opened]

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, one at a time, file by file."""
        for file in self.opened:
            yield from ((name, file.read(name)) for name in file.entries)

    @property
    def pickled(self) -> list[str]:
        """Names of pickled weight files, where there are no others."""
        if any(self.folder.glob("*.safetensors*")):
            return []
        return sorted(file.name for pattern in _PICKLED for file in self.folder.glob(pattern))

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """Type of every tensor by name, as safetensors writes it (F32, BF16, …), read from the headers alone."""
        return {name: entry.dtype for file in self.opened for name, entry in file.entries.items()}


def _weight_map(folder: Path) -> dict[str, str]:
    index = read_json(folder / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(x, str) for x in weight_map.values()):
        raise InterpError(
            f"{folder / INDEX}: has no weight_map; expected names of tensors with the files that hold them"
        )
    return weight_map


def _unmerged(adapter: Checkpoint) -> InterpError:
    """An adapter's folder, which transformers would load on whatever base it names, is no model yet."""
    settings = read_json(adapter.folder / ADAPTER)
    base = settings.get("base_model_name_or_path") or "the model that it was trained on"
    return InterpError(
        f"{adapter}: an adapter ({settings.get('peft_type', 'unknown')}) to {base}, not a model; merge it first, with "
        "peft: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER).merge_and_unload()"
        ".save_pretrained(NEW), and give NEW; or give the base"
    )


def _plain(folder: str, name: str) -> str:
    if not re.fullmatch(r"[\w.-]+\.safetensors", name):
        raise InterpError(f"{folder}: its weights are said to be in {name!r}, not a safetensors file in the folder")
    return name


def inside(folder: Path, name: str) -> Path:
    """A file of a checkpoint's folder. Raises where it is a link that leads out of it."""
    file = folder / name
    if file.resolve().parent not in (folder.resolve() / Path(name).parent, _blobs(folder)):
        raise InterpError(f"{file} is a link out of the folder, to {file.resolve()}; put the file itself there")
    return file


def _blobs(folder: Path) -> Path:
    """The Hugging Face cache keeps files in a sibling folder and links to them from snapshots."""
    return folder.resolve().parent.parent / "blobs"


def _present(file: Path | RemoteFile) -> Path | RemoteFile:
    if not (file.is_there() if isinstance(file, RemoteFile) else file.is_file()):
        raise InterpError(f"{file}: missing, though the index names it; download the checkpoint again")
    return file
