"""Companions: the files of a checkpoint's folder that are not its weights, and accompany them wherever they go.

Tokenizers, processors, templates, licences and code have files of any name, in sub-folders too. So a file comes along
unless there is a reason to leave it out; each file that is left out is reported with the reason:

- weights and training states in any format, told by their endings or, for pickles, by how they begin;
- hidden files and caches;
- files above 200 MB;
- links out of the folder, since what comes along is published with the weights. Only the Hugging Face cache keeps files
  elsewhere ("blobs") and links to them. Where such a link stands for a file of the tokenizer or the generation
  settings, it is an error;
- anything that is not a regular file (a pipe, a device), and links to a folder.

Code (`*.py`) comes along as a file. Nothing is run or unpickled.
"""

import os
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from interp.core.errors import InterpError

LARGEST = 200_000_000
PICKLED = ("bin", "pt", "pth", "ckpt", "pkl")
ENDINGS = (
    *PICKLED, "safetensors", "pickle", "joblib", "h5", "keras", "msgpack", "gguf", "ggml", "onnx", "onnx_data", "ot",
    "npz", "npy", "tflite", "mlmodel", "distcp", "tensors", "nemo", "pb", "pte", "engine",
)  # fmt: skip
_WEIGHTS = re.compile(rf".*\.({'|'.join(ENDINGS)})(\.index(\.\w+)?\.json)?", re.IGNORECASE | re.DOTALL)
_OF_TOKENIZER = re.compile(
    r"(tokenizer|vocab|merges|special_tokens|added_tokens|chat_template|additional_chat_templates/|tekken|spiece).*"
    r"|.*\.(tiktoken|model|bpe)"
)
# What is not fetched from the hub: all but companions and the files that `Checkpoint` reads.
NOT_FETCHED = [
    *(f"*.{ending}" for ending in ENDINGS if ending != "safetensors"),
    *("*/*.safetensors", "consolidated*.safetensors", ".*", "*/.*", "*.pyc"),
]


@dataclass(frozen=True)
class Companions:
    """The files of a folder that come along, by their paths in it, and why others do not."""

    folder: Path
    files: tuple[str, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> "Companions":
        """Those of a local folder. Raises for a link out of it in place of a file that the model needs."""
        files, left_out = list[str](), dict[str, str]()
        for place, folders, names in os.walk(folder):
            inner = Path(place).relative_to(folder)
            for name in list(folders):
                if reason := "a link to a folder" if (folder / inner / name).is_symlink() else _cache(name):
                    left_out[f"{inner / name}/"] = reason
                    folders.remove(name)
            for path in (str(inner / name) for name in names):
                if (reason := _reason(folder, path)) is None:
                    files.append(path)
                else:
                    left_out[path] = reason
        return cls(folder, tuple(sorted(files)), dict(sorted(left_out.items())))

    def copy(self, out: Path, names: Iterable[str]) -> None:
        """Copy those of these files into a folder that it does not have yet."""
        for name in names:
            if not (out / name).exists():
                (out / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.folder / name, out / name)


def reason_to_leave(name: str, size: int) -> str | None:
    """Why a file of this path and size does not accompany a checkpoint; None if it does."""
    if reason := next(filter(None, map(_cache, Path(name).parts)), None):
        return reason
    if _WEIGHTS.fullmatch(name):
        return "weights"
    return f"above {LARGEST // 10**6} MB" if size > LARGEST else None


def is_weights(file: Path) -> bool:
    """Whether a file holds weights or a training state: by its ending, or for a pickle by how it begins."""
    return _WEIGHTS.fullmatch(file.name) is not None or _is_pickle(file)


def of_tokenizer(name: str) -> bool:
    """Whether a file of this path belongs to a tokenizer."""
    return _OF_TOKENIZER.fullmatch(name) is not None


def _cache(name: str) -> str | None:
    return "hidden, or a cache" if name.startswith(".") or name == "__pycache__" or name.endswith(".pyc") else None


def inside(folder: Path, name: str) -> Path:
    """The path of a file in a checkpoint's folder; raises if it is a link to a place outside the folder."""
    file, root = folder / name, folder.resolve()
    target = Path(os.path.realpath(file))  # which does not raise where links go in circles
    if not (target.is_relative_to(root) or target.parent == root.parent.parent / "blobs"):
        raise InterpError(f"{file} is a link out of the folder, to {target}; replace it with the file itself")
    return file


def _reason(folder: Path, name: str) -> str | None:
    try:
        target = Path(os.path.realpath(inside(folder, name)))
    except InterpError:
        if of_tokenizer(name) or name == "generation_config.json":
            raise
        return "a link out of the folder"
    if not target.is_file():
        return "not a file"
    root = folder.resolve()
    inner = str(target.relative_to(root)) if target.is_relative_to(root) else name
    if reason := reason_to_leave(name, target.stat().st_size) or reason_to_leave(inner, 0):
        return reason
    return "a pickle" if _is_pickle(target) else None


def _is_pickle(file: Path) -> bool:
    with file.open("rb") as opened:
        head = opened.read(256)
    return re.match(b"\x80[\2-\5]|PK(?s:.)*data\\.pkl", head) is not None
