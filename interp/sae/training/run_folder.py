"""A run folder: the settings of a training, its metrics as they come, its checkpoints, and its results.

    run.json                       settings, source and versions; a run is continued only with the same settings
    metrics.jsonl                  one line per point of progress
    checkpoints/step-N.safetensors everything needed to continue; the two newest are kept. step-N/ if several processes
                                   train, with a file of each; any number of processes continues either
    sae/                           the autoencoder; sae-0/, sae-1/ … where several were trained

Every file is complete or not there: a checkpoint is flushed to disk and renamed into place. A process that is killed
loses the steps after the newest checkpoint, and repeats them, to the same bits.

Of several processes, the first writes the folder, and each writes the tensors of its latents, by torch's distributed
checkpoint into safetensors files, with their place among all latents in the header. A reader takes what its own latents
need from any of the files.
"""

import json
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.core.config import differences
from interp.core.digests import versions
from interp.core.errors import InterpError, first_line
from interp.core.files import (
    fsync,
    lock_folder,
    read_json,
    remove_strays,
    require_unlinked,
    write_json,
    write_tensors,
    write_text,
)
from interp.core.inputs import bounded_text, parse_json, parse_object, require_regular
from interp.sae.coder import SparseAutoencoder
from interp.sae.file_formats import CARD
from interp.sae.training.latent_shard import LatentShard, LostProcess, together
from interp.sae.training.state import ProgressPoint

RECORD, METRICS, CHECKPOINTS, STATE = "run.json", "metrics.jsonl", "checkpoints", "state.json"
_KEPT = 2


@dataclass(frozen=True)
class TrainingReport:
    """What a callback receives at each point of progress.

    Attributes:
        number: Which of the plans it is about, from 0.
        point: Losses, dead latents and learning rate.
        step: Steps done.
        steps: Steps in all.
        tokens_per_second: Mean speed since the start or the restart.
        last: True once, in the last report of the last plan.
    """

    number: int
    point: ProgressPoint
    step: int
    steps: int
    tokens_per_second: float
    last: bool


@dataclass(frozen=True)
class TrainingRun:
    """A run in its folder. A checkpoint is written every `every` steps."""

    folder: Path
    every: int
    shard: LatentShard = field(default_factory=LatentShard)

    @classmethod
    @contextmanager
    def opened(
        cls,
        folder: str | Path,
        settings: Mapping[str, Any],
        every: int,
        overwrite: bool = False,
        shard: LatentShard | None = None,
    ) -> Iterator["TrainingRun"]:
        """Start a run, or continue one of the same settings; the folder is locked for as long as the block lasts.

        Raises for a folder of anything else, and for one in use. `overwrite` removes an earlier run first.
        """
        path, shard = Path(folder), shard or LatentShard()
        if shard.rank:
            shard.sum(torch.zeros(1))  # until the first process has opened it
            yield cls(path, every, shard)
            return
        if every < 1:
            raise InterpError(f"checkpoint_every is {every}; expected at least 1 step")
        require_unlinked(path)
        if _settings(path) is None and path.exists() and (not path.is_dir() or any(map(_is_other, path.iterdir()))):
            raise InterpError(
                f"{path} exists and is not a run folder; choose a new folder (overwrite=True removes runs only)"
            )
        try:
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InterpError(f"{path}: cannot be written ({problem.strerror}); choose another place") from None
        with lock_folder(path, f"{path}: another process is training into it; wait for it, or choose another"):
            remove_strays(path)
            saved = _settings(path)
            run = cls(path, every, shard)
            if overwrite:
                run._remove_results()
            elif saved is not None and (changed := differences(saved, json.loads(json.dumps(settings)))):
                raise InterpError(
                    f"{path / RECORD}: {changed[0]}; a run keeps its settings: choose a new folder, or start anew with "
                    "overwrite=True"
                )
            if overwrite or saved is None:
                write_json(path / RECORD, {"format": 1, "settings": settings, "versions": versions()})
            shard.sum(torch.zeros(1))
            yield run

    def _remove_results(self) -> None:
        """Remove what the run has made, but not its record: if killed meanwhile, it is a run that has not begun."""
        for card in self.folder.glob(f"sae*/{CARD}"):
            shutil.rmtree(card.parent)
        for file in [*(self.folder / CHECKPOINTS).glob("*step-*"), self.folder / METRICS]:
            _remove(file)

    def note(self, report: TrainingReport) -> None:
        """Add a line to the metrics."""
        if self.shard.rank:
            return
        line = {"plan": report.number, "step": report.step, "tokens_per_second": round(report.tokens_per_second)}
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | asdict(report.point)) + "\n")

    def checkpoint(self, step: int, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove those that are no longer needed."""
        file = self.folder / CHECKPOINTS / f"step-{step:08}.safetensors"
        values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        state = {"step": step, **plain}
        if self.shard.size == 1:
            write_tensors(file, values, {"state": json.dumps(state)}, hint="the checkpoint before it is kept")
        else:
            staging = file.with_name(f".{file.stem}")
            if not self.shard.rank:
                _remove(staging)
                staging.mkdir()
            write_shards(staging, values, state, self.shard)
            if self.shard.rank:
                return
            os.replace(staging, file.with_suffix(""))
            fsync(file.parent)
        for old in self._checkpoints()[:-_KEPT]:
            os.replace(old, old.with_name(f".{old.name}"))  # at no moment is there half of one
        for old in file.parent.glob(".step-*"):
            _remove(old)

    def last_checkpoint(self) -> Path | None:
        """The newest checkpoint's file, None if there is none."""
        files = self._checkpoints()
        return files[-1] if files else None

    def latest(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """The newest checkpoint's state, None if there is none. Metrics after it are removed."""
        file = self.last_checkpoint()
        step = 0
        for part in (self.folder / METRICS, *self._checkpoints()):
            require_regular(part)
        if file is not None:
            try:
                plain = _state(file)
                alone = self.shard.size == 1 and file.is_file()
                tensors = safetensors.torch.load_file(file) if alone else read_shards(file, self.shard)
            except LostProcess:
                raise
            except (OSError, SafetensorError, TypeError, KeyError, ValueError) as problem:
                raise InterpError(f"{file}: damaged ({problem}); delete it to continue from the one before") from None
            step = plain.pop("step")
        if (self.folder / METRICS).is_file() and not self.shard.rank:
            lines = (self.folder / METRICS).read_text(encoding="utf-8").splitlines(keepends=True)
            # A line that was cut short is newer than any checkpoint.
            kept = [line for line in lines if line.endswith("\n") and self._step(line) <= step]
            write_text(self.folder / METRICS, "".join(kept))
        return None if file is None else (tensors, plain)

    def _step(self, line: str) -> int:
        step = parse_object(line, str(self.folder / METRICS), constants=True).get("step")
        if not isinstance(step, int):
            raise InterpError(f"{self.folder / METRICS}: a line without a step; remove the line")
        return step

    def finish(self, saes: Sequence[SparseAutoencoder]) -> None:
        """Write the autoencoders, where they are not written yet."""
        for number, sae in enumerate(saes):
            folder = self.folder / ("sae" if len(saes) == 1 else f"sae-{number}")
            if not folder.exists():
                sae.save(folder)

    def _checkpoints(self) -> list[Path]:
        return sorted((self.folder / CHECKPOINTS).glob("step-*"))


def last_point(folder: str | Path) -> ProgressPoint:
    """The newest point of progress of a run of one plan."""
    file = Path(folder) / METRICS
    values = parse_object(bounded_text(file, "metrics").splitlines()[-1], str(file), constants=True)
    return ProgressPoint(**{field.name: values[field.name] for field in fields(ProgressPoint)})


def _state(place: Path) -> Any:
    """What a checkpoint holds beside tensors."""
    if place.is_dir():
        return parse_json(bounded_text(place / STATE, "JSON"), "its state", constants=True)
    with safe_open(place, framework="pt") as opened:
        return parse_json(opened.metadata()["state"], "its state", constants=True)


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_other(path: Path) -> bool:
    """Whether something in a folder is not what a run that was stopped at its very start leaves."""
    begun = path.name == CHECKPOINTS and path.is_dir() and not any(path.iterdir())
    return not begun and not path.name.startswith(f".{RECORD}.")


def _settings(folder: Path) -> Any:
    """The settings of the run in a folder; None if there is none."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else None
    return record.get("settings") if isinstance(record, dict) else None


def write_shards(folder: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any], shard: LatentShard) -> None:
    """Write a checkpoint into a folder that is empty. All processes call it; in the first, the folder is complete then.

    Raises in all processes if one of them cannot write.
    """
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    writer = HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        with together():
            dist.barrier()  # until the first has made the folder
            save(_distributed(tensors, shard), storage_writer=writer)
    except CheckpointException as problem:
        raise InterpError(f"{folder}: writing failed ({_cause(problem)}); the checkpoint before it is kept") from None
    if not shard.rank:
        write_text(folder / STATE, json.dumps(state))
        for part in (folder / STATE, folder):
            fsync(part)


def read_shards(place: Path, shard: LatentShard) -> dict[str, Tensor]:
    """The tensors of this process's latents, from a folder of shards or from one file that has all latents."""
    from torch.distributed.checkpoint.api import CheckpointException
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader
    from torch.distributed.checkpoint.state_dict_loader import load

    reader = HuggingFaceStorageReader(str(place))
    if place.is_file():
        reader.fs.ls = lambda path: [str(path)]  # type: ignore[method-assign]
    tensors: dict[str, Tensor] = {}
    stored: Any
    for name, stored in reader.read_metadata().state_dict_metadata.items():
        shape = list(stored.size)
        if shape and shard.holds(name, torch.empty(shape, device="meta")):
            shape[0] = shard.rows(shape[0])
        tensors[name] = torch.zeros(shape, dtype=stored.properties.dtype)
    try:
        with together(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that there is only one process
            load(_distributed(tensors, shard), storage_reader=reader, no_dist=shard.size == 1)
    except CheckpointException as problem:
        raise InterpError(_cause(problem)) from None
    return tensors


def _cause(problem: Any) -> str:
    """The failure of the first process that had one."""
    return first_line(next(iter(problem.failures.values()))[0])


def _distributed(tensors: Mapping[str, Tensor], shard: LatentShard) -> dict[str, Tensor]:
    """The tensors as parts of those of all latents."""
    if shard.size == 1:
        return dict(tensors)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    mesh = init_device_mesh("cpu", (shard.size,))
    return {
        name: DTensor.from_local(x, mesh, [Shard(0)], run_check=False) if shard.holds(name, x) else x
        for name, x in tensors.items()
    }
