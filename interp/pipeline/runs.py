"""Runs: the folders that experiments leave, and how to list, compare and clear them.

A finished run is a folder with `summary.json`, `experiment.json` and `environment.json`. While it is under way, what
takes long (activations, the autoencoder's training) is in NAME.unfinished beside it, from which it is resumed, and
which goes when it is done.
"""

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from interp.core.config import differences, flatten
from interp.core.digests import versions
from interp.core.errors import InterpError, nearest
from interp.core.files import read_json, write_json

UNFINISHED = ".unfinished"
_SETTINGS, _SUMMARY, _ENVIRONMENT = "experiment.json", "summary.json", "environment.json"


@dataclass(frozen=True)
class Environment:
    """Where and when a run was made: enough to tell why another one differs."""

    command: str
    began: str
    versions: Mapping[str, str]
    platform: str
    threads: int
    device: str
    revision: str | None

    @classmethod
    def now(cls, command: str, device: str, folder: Path) -> "Environment":
        """This process's. `revision` is the git commit of the folder with the experiment, marked if it was changed."""
        began = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command, began, versions(), platform.platform(), torch.get_num_threads(), device, _revision(folder))

    def write(self, folder: Path) -> None:
        """Beside the run's results."""
        write_json(folder / _ENVIRONMENT, asdict(self))


@dataclass(frozen=True)
class RunRecord:
    """A run of a folder. `summary` and `environment` are None where it is not finished."""

    path: Path
    settings: dict[str, Any]
    summary: dict[str, Any] | None
    environment: dict[str, Any] | None

    @property
    def row(self) -> dict[str, object]:
        """A row of a table of runs."""
        if self.summary is None or self.environment is None:
            return {"run": self.path.name, "decision": "unfinished", "target": "", "seconds": "", "began": ""}
        target = self.settings["policy"]["target"]
        change = self.summary["behaviours"][target]
        shown = f"{target} {change['before']['estimate']:.3f} -> {change['after']['estimate']:.3f}"
        outcome = self.summary["decision"]["outcome"]
        return {
            "run": self.path.name,
            "decision": "inconclusive" if outcome == "can't tell" else outcome,  # as earlier versions wrote it
            "target": shown,
            "seconds": self.summary["seconds"],
            "began": self.environment["began"],
        }


def list_runs(folder: str | Path = "runs") -> list[RunRecord]:
    """All runs in a folder, the newest last. Raises where the folder is not there."""
    root = Path(folder)
    if not root.is_dir():
        raise InterpError(f"{root} is no folder; expected one with runs, as interp run writes them")
    found = [_record(path) for path in sorted(root.iterdir()) if (path / _SETTINGS).is_file()]
    return sorted(found, key=lambda one: str((one.environment or {}).get("began", "~")))


def show_run(path: str | Path) -> RunRecord:
    """One run. Raises, with the nearest that is there, where it is none."""
    folder = Path(path)
    if not (folder / _SETTINGS).is_file():
        beside = [one.path.name for one in list_runs(folder.parent)] if folder.parent.is_dir() else []
        raise InterpError(f"{folder} is no run; {nearest(folder.name, beside)}")
    return _record(folder)


def compare_runs(paths: Sequence[str | Path]) -> list[dict[str, object]]:
    """What differs between finished runs: settings, environment, and each behaviour after the edit."""
    found = [show_run(path) for path in paths]
    for one in found:
        if one.summary is None:
            raise InterpError(f"{one.path} is not finished; finish it (interp run … --resume), or leave it out")
    columns = [flatten({"settings": one.settings, "environment": one.environment, **_measured(one)}) for one in found]
    names = list(dict.fromkeys(name for column in columns for name in column))
    rows = [{"what": name, **_cells(name, found, columns)} for name in names]
    return [row for row in rows if len({str(value) for name, value in row.items() if name != "what"}) > 1]


def unfinished_runs(folder: str | Path = "runs") -> list[tuple[Path, int]]:
    """What runs that did not finish have left, and how many bytes."""
    left = [one.path for one in list_runs(folder) if one.summary is None]
    return [(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())) for path in left]


def clear_runs(folder: str | Path = "runs") -> list[tuple[Path, int]]:
    """Remove it."""
    left = unfinished_runs(folder)
    for path, _ in left:
        shutil.rmtree(path)
    return left


@contextmanager
def work(out: str | Path, settings: dict[str, Any], resume: bool) -> Iterator[Path]:
    """The folder of what takes long, gone when the block ends well, or with an error of the input.

    Raises for one that another run left unless it is to be resumed, and where that run had other settings.
    """
    folder = Path(out).with_name(Path(out).name + UNFINISHED)
    if folder.exists() and not resume:
        raise InterpError(
            f"{folder} was left by a run that did not finish; go on with it (--resume), or remove it (interp runs gc)"
        )
    if folder.exists():
        if changed := differences(read_json(folder / _SETTINGS), settings):
            raise InterpError(f"{folder}: {changed[0]}; a run keeps its settings: give the same, or another folder")
    else:
        folder.mkdir(parents=True)
        write_json(folder / _SETTINGS, settings)
    try:
        yield folder
    except InterpError:
        if not resume:
            shutil.rmtree(folder)
        raise
    shutil.rmtree(folder)


def _record(path: Path) -> RunRecord:
    own = {name: read_json(path / name) if (path / name).is_file() else None for name in (_SUMMARY, _ENVIRONMENT)}
    return RunRecord(path, read_json(path / _SETTINGS), own[_SUMMARY], own[_ENVIRONMENT])


def _measured(one: RunRecord) -> dict[str, Any]:
    summary = one.summary or {}
    after = {name: round(row["after"]["estimate"], 4) for name, row in summary["behaviours"].items()}
    return {"after": after, "decision": summary["decision"]["allow"], "hashes": summary["hashes"]}


def _cells(name: str, found: list[RunRecord], columns: list[dict[str, object]]) -> dict[str, object]:
    return {str(one.path): column.get(name) for one, column in zip(found, columns, strict=True)}


def _revision(folder: Path) -> str | None:
    def git(*words: str) -> str | None:
        try:
            asked = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return asked.stdout.strip() if asked.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + (" and changes" if git("status", "--porcelain", "--untracked-files=no") else "")
