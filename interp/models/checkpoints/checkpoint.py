"""Checkpoint: a folder with config and weights, local or at a URL, checked before use and read tensor by tensor.

Only safetensors files are read. Pickled weights and configs that load code (`auto_map`) are refused, and so is an index
that names a file outside the folder (transformers itself would follow it).
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.models.checkpoints.companions import PICKLED, Companions, inside
from interp.models.checkpoints.remote_files import RemoteFile, RemoteFolder, is_remote
from interp.models.checkpoints.safetensors_file import Entry, TensorFile

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
ADAPTER = "adapter_config.json"
# Tensors that change nothing in what a language model computes: rotary tables, causal masks, position numbers, layers
# that predict several tokens ahead, and scales of quantised caches.
_HARMLESS = re.compile(
    r"rotary(_emb|_pos_emb)?\.(\w*inv_freq|cos_cached|sin_cached)$|\.(attn|attention)\.(masked_)?bias$"
    r"|(^|\.)(position_ids|embed_positions\.weights)$|(^|\.)mtp(_\w+)?\.|\.([kv]|kv)_scale$"
)
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_NUMBERS = ("model_max_length", "bos_token_id", "eos_token_id", "pad_token_id")
_AHEAD = re.compile(r"(.*\.layers\.(\d+)\.).*")


@dataclass(frozen=True)
class Checkpoint:
    """A Hugging Face folder with safetensors weights: one file, or shards with an index.

    Args:
        folder: The folder. For a checkpoint at a URL, a temporary folder with all files except the weights.
        remote: The folder at the URL, from which the weights are read.
    """

    folder: Path
    remote: RemoteFolder | None = None

    def __str__(self) -> str:
        return self.remote.url if self.remote else str(self.folder)

    @classmethod
    def open(cls, folder: str | Path, trust_remote_code: bool = False, allow_pickle: bool = False) -> "Checkpoint":
        """Open and check a checkpoint before any part of it is loaded.

        Args:
            folder: A local folder or a URL.
            trust_remote_code: Accept a config that loads code.
            allow_pickle: Accept pickled weights.

        Raises:
            InterpError: The folder is not a complete checkpoint, or is unsafe; the message has the reason.
        """
        remote = RemoteFolder.open(str(folder)) if is_remote(folder) else None
        checkpoint = cls(remote.place if remote else Path(folder), remote)
        if (checkpoint.folder / ADAPTER).is_file():
            raise _unmerged(checkpoint)
        if not (checkpoint.folder / "config.json").is_file():
            raise InterpError(f"{folder}: no config.json in it; expected a Hugging Face model folder")
        for name in ("config.json", INDEX) if remote is None else ():
            inside(checkpoint.folder, name)
        for file in checkpoint.folder.glob("*_config.json"):  # of the tokenizer, generation: transformers reads them
            _require_numbers(read_json(file, constants=True), file)
        if "auto_map" in checkpoint.config and not trust_remote_code:
            raise InterpError(
                f"{folder}: its config.json has auto_map, which runs code that comes with the checkpoint; "
                "use interp.load(..., trust_remote_code=True) only if you have read that code"
            )
        if checkpoint.config.get("transformers_weights") is not None:
            raise InterpError(f"{folder}: its config.json names other weights (transformers_weights); remove that key")
        if not (allow_pickle and checkpoint.pickled):
            checkpoint.require_whole()
        return checkpoint

    @cached_property
    def config(self) -> dict[str, Any]:
        """The values of config.json."""
        config = read_json(self.folder / "config.json", constants=True)
        if not isinstance(config, dict):
            raise InterpError(f"{self}: its config.json holds {str(config)[:40]}; expected an object")
        return config

    @cached_property
    def files(self) -> list[Path | RemoteFile]:
        """The weight files, in name order."""
        # A folder may hold both forms; transformers prefers the single file.
        if (single := self._file(SINGLE)).is_file():
            return [single]
        if (self.folder / INDEX).is_file():
            return [self._file(name) for name in sorted(set(_weight_map(self.folder).values()))]
        if self.pickled:
            raise InterpError(
                f"{self.folder}: its weights are pickled ({self.pickled[0]}), and a pickle can run code; "
                "use interp.load(..., allow_pickle=True) only if you trust their origin, and save them as safetensors"
            )
        raise InterpError(f"{self}: no weights in it; expected {SINGLE}, or shards with {INDEX}")

    def _file(self, name: str) -> Path | RemoteFile:
        if not re.fullmatch(r"[\w.-]+\.safetensors", name):
            raise InterpError(f"{self}: its index names {name!r}, which is not a safetensors file in the folder")
        return self.remote.file(name) if self.remote else inside(self.folder, name)

    @cached_property
    def opened(self) -> list[TensorFile]:
        """The weight files, with their headers read and checked."""
        for file in self.files:
            if not file.is_file():
                raise InterpError(f"{file}: missing, though the index names it; download the checkpoint again")
        return [TensorFile.open(file) for file in self.files]

    def require_whole(self) -> None:
        """Raise if a file is invalid, a tensor is in two files, or the index disagrees with the files."""
        file_of: dict[str, str] = {}
        for file in self.opened:
            for name in file.entries:
                if name in file_of:
                    raise InterpError(f"{self}: {name!r} is in {file_of[name]} and {file.path.name}; keep one")
                file_of[name] = file.path.name
        configs = [x for x in (self.config, self.config.get("text_config")) if isinstance(x, dict)]
        layers = [n for x in configs for name in _LAYERS if isinstance(n := x.get(name), int)]
        require_layers(max(layers, default=0), len(file_of), str(self))
        if self.files[0].name == SINGLE:
            return
        weight_map = _weight_map(self.folder)
        for name, file_name in weight_map.items():
            if file_of.get(name) != file_name:
                raise InterpError(f"{self}: its index has {name!r} in {file_name}, where it is not; download it again")
        for name in sorted(set(file_of) - set(weight_map)):
            raise InterpError(f"{self}: {file_of[name]} has {name!r}, which its index does not; download it again")

    @property
    def sources(self) -> list[dict[str, tuple[TensorFile, Entry]]]:
        """For each file, the tensors by name with their file and header entry."""
        return [{name: (file, entry) for name, entry in file.entries.items()} for file in self.opened]

    @contextmanager
    def fetched(self) -> Iterator[Path]:
        """The folder with its weights, which are copied from the URL for as long as the block lasts."""
        with self.remote.local if self.remote else nullcontext():
            for file in self.files:
                if isinstance(file, RemoteFile):
                    file.save(self.folder / file.name)
            yield self.folder

    @property
    def pickled(self) -> list[str]:
        """The names of pickled weight files; empty if there are safetensors files."""
        if any(self.folder.glob("*.safetensors*")):
            return []
        return sorted(file.name for ending in PICKLED for file in self.folder.glob(f"*.{ending}"))

    @cached_property
    def companions(self) -> Companions:
        """The files that accompany the weights; of a checkpoint at a URL, those that were fetched."""
        local, read = Companions.of(self.folder), {INDEX, *(() if self.pickled else (file.name for file in self.files))}
        left_out = {**(self.remote.left_out if self.remote else {}), **local.left_out}
        return replace(local, left_out={name: reason for name, reason in left_out.items() if name not in read})

    @cached_property
    def dtypes(self) -> dict[str, str]:
        """The dtype of every tensor by name, as safetensors writes it (F32, BF16, …), read from the headers only."""
        return {name: entry.dtype for file in self.opened for name, entry in file.entries.items()}


def without_place(names: Iterable[str], config: Any) -> list[str]:
    """The tensors that a model has no place for, without those that are known to be harmless.

    Harmless are rotary tables, causal masks, position numbers, scales of quantised caches, and layers that predict
    several tokens ahead: by their name (`mtp`), or as many past the last one as `num_nextn_predict_layers` says.

    Args:
        names: Names of tensors that the model has no place for.
        config: The model's config.
    """
    listed, text = sorted(names), config.get_text_config(decoder=True)
    last = text.num_hidden_layers + (getattr(text, "num_nextn_predict_layers", None) or 0)
    ahead = {match[1] for name in listed if name.endswith(".eh_proj.weight") and (match := _AHEAD.fullmatch(name))}

    def is_ahead(name: str) -> bool:
        match = _AHEAD.fullmatch(name)
        return match is not None and match[1] in ahead and text.num_hidden_layers <= int(match[2]) < last

    return [name for name in listed if not _HARMLESS.search(name) and not is_ahead(name)]


def refuse_lost(place: object, tensors: list[str], remedy: str = "restore the config, or remove them") -> None:
    """Raise, by their names, if there are tensors that a model has no place for."""
    if tensors:
        names = f"{len(tensors)} of its tensors ({', '.join(tensors[:3])})"
        raise InterpError(
            f"{place}: the model of its config has no place for {names}, which would be dropped; {remedy}"
        )


def require_layers(layers: int, tensors: int, place: str) -> None:
    """Raise for more layers than there are tensors, before a model of that many is built."""
    if layers > tensors:
        raise InterpError(f"{place}: its config says {layers:,} layers, but there are {tensors:,} tensors; restore it")


def _require_numbers(values: Any, file: Path) -> None:
    """Raise for ids of tokens, or a length, that are no numbers; transformers computes with them as they are."""
    for name in _NUMBERS if isinstance(values, dict) else ():
        given, is_length = values.get(name), name == "model_max_length"
        numbers = given if isinstance(given, list) and not is_length else [given]
        if not all(isinstance(x, int | float | None) and (is_length or abs(x or 0) < 2**31) for x in numbers):
            raise InterpError(f"{file}: {name} is {str(given)[:40]!r}; expected a number")


def _weight_map(folder: Path) -> dict[str, str]:
    index = read_json(folder / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(x, str) for x in weight_map.values()):
        raise InterpError(f"{folder / INDEX}: has no weight_map with the file of each tensor; download it again")
    return weight_map


def _unmerged(adapter: Checkpoint) -> InterpError:
    """The error for an adapter's folder, which transformers would load on the base that it names."""
    settings = read_json(adapter.folder / ADAPTER)
    base = settings.get("base_model_name_or_path") or "the model that it was trained on"
    return InterpError(
        f"{adapter}: an adapter ({settings.get('peft_type', 'unknown')}) to {base}, not a model; merge it first with "
        "peft: PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(BASE), ADAPTER).merge_and_unload()"
        ".save_pretrained(NEW), and pass NEW; or pass the base"
    )
