"""A run folder: the settings of a training, its metrics as they come, its checkpoints, and its results.

    run.json                       settings, source and versions; a run is continued only with the same settings
    metrics.jsonl                  one line per point of progress
    checkpoints/step-N.safetensors everything needed to continue; the two newest are kept
    sae/                           the autoencoder; sae-0/, sae-1/ … where several were trained

Every file is complete or not there: a checkpoint is flushed to disk and renamed into place. A process that is killed
loses the steps after the newest checkpoint, and repeats them, to the same bits.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from interp.core.config import differences
from interp.core.digests import versions
from interp.core.errors import InterpError
from interp.core.files import lock_folder, read_json, require_unlinked, write_json, write_tensors, write_text
from interp.core.inputs import parse_json, parse_object, require_regular
from interp.sae.coder import SparseAutoencoder
from interp.sae.file_formats import CARD
from interp.sae.training.state import ProgressPoint

RECORD, METRICS, CHECKPOINTS = "run.json", "metrics.jsonl", "checkpoints"
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

    @classmethod
    @contextmanager
    def opened(
        cls, folder: str | Path, settings: Mapping[str, Any], every: int, overwrite: bool = False
    ) -> Iterator["TrainingRun"]:
        """Start a run, or continue one of the same settings; the folder is locked for as long as the block lasts.

        Raises for a folder of anything else, and for one in use. `overwrite` removes an earlier run first.
        """
        path = Path(folder)
        if every < 1:
            raise InterpError(f"checkpoint_every is {every}; expected at least 1 step")
        require_unlinked(path)
        if _settings(path) is None and path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise InterpError(
                f"{path} exists and is not a run folder; choose a new folder (overwrite=True removes runs only)"
            )
        try:
            (path / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
        except OSError as problem:
            raise InterpError(f"{path}: cannot be written ({problem.strerror}); choose another place") from None
        with lock_folder(path, f"{path}: another process is training into it; wait for it, or choose another"):
            saved = _settings(path)
            run = cls(path, every)
            if overwrite:
                run._remove_results()
            elif saved is not None and (changed := differences(saved, json.loads(json.dumps(settings)))):
                raise InterpError(
                    f"{path / RECORD}: {changed[0]}; a run keeps its settings: choose a new folder, or start anew with "
                    "overwrite=True"
                )
            if overwrite or saved is None:
                write_json(path / RECORD, {"format": 1, "settings": settings, "versions": versions()})
            yield run

    def _remove_results(self) -> None:
        """Remove what the run has made, but not its record: if killed meanwhile, it is a run that has not begun."""
        for card in self.folder.glob(f"sae*/{CARD}"):
            shutil.rmtree(card.parent)
        for file in [*(self.folder / CHECKPOINTS).glob("*step-*"), self.folder / METRICS]:
            file.unlink(missing_ok=True)

    def note(self, report: TrainingReport) -> None:
        """Add a line to the metrics."""
        line = {"plan": report.number, "step": report.step, "tokens_per_second": round(report.tokens_per_second)}
        with open(self.folder / METRICS, "a", encoding="utf-8") as file:
            file.write(json.dumps(line | asdict(report.point)) + "\n")

    def checkpoint(self, step: int, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Write a checkpoint, and remove those that are no longer needed."""
        file = self.folder / CHECKPOINTS / f"step-{step:08}.safetensors"
        values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        state = json.dumps({"step": step, **plain})
        write_tensors(file, values, {"state": state}, hint="the checkpoint before it is kept")
        for old in [*self._checkpoints()[:-_KEPT], *file.parent.glob(".step-*")]:
            old.unlink()

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
                tensors = safetensors.torch.load_file(file)
                with safe_open(file, framework="pt") as opened:
                    plain = parse_json(opened.metadata()["state"], "its state", constants=True)
            except (OSError, SafetensorError, TypeError, KeyError, ValueError) as problem:
                raise InterpError(f"{file}: damaged ({problem}); delete it to continue from the one before") from None
            step = plain.pop("step")
        if (self.folder / METRICS).is_file():
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
        return sorted((self.folder / CHECKPOINTS).glob("step-*.safetensors"))


def _settings(folder: Path) -> Any:
    """The settings of the run in a folder; None if there is none."""
    record = read_json(folder / RECORD) if (folder / RECORD).is_file() else None
    return record.get("settings") if isinstance(record, dict) else None
