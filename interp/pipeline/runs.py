"""Runs: the folders that experiments write, and how to list, read, compare and clear them.

A finished run is a folder with `summary.json`, `experiment.json` and `environment.json`. While a run is in progress,
its slow results (activations, the training of the autoencoder) are in the sibling folder NAME.unfinished. An
interrupted run resumes from that folder; it is removed when the run is finished.
"""

import platform
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from interp.core.config import differences, flatten
from interp.core.digests import versions
from interp.core.display import Card, Displayed, displayed
from interp.core.errors import InterpError, nearest
from interp.core.files import read_json, require_unlinked, write_json

UNFINISHED = ".unfinished"
_SETTINGS, _SUMMARY, _ENVIRONMENT = "experiment.json", "summary.json", "environment.json"


@dataclass(frozen=True)
class Environment(Displayed):
    """Where and when a run took place: enough to explain why another run differs."""

    command: str
    began: str
    versions: Mapping[str, str]
    platform: str
    threads: int
    device: str
    revision: str | None

    @classmethod
    def now(cls, command: str, device: str, folder: Path) -> "Environment":
        """The environment of this process.

        `revision` is the git commit of the folder that holds the experiment, marked if that folder has changes.
        """
        began = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command, began, versions(), platform.platform(), torch.get_num_threads(), device, _revision(folder))


@dataclass(frozen=True)
class RunRecord(Displayed):
    """A run in a folder. `summary` and `environment` are None if it is not finished."""

    path: Path
    settings: dict[str, Any]
    summary: dict[str, Any] | None
    environment: dict[str, Any] | None

    def _card(self) -> Card:
        return self.path.name, [*self.row.items()][1:]

    @property
    def row(self) -> dict[str, object]:
        """A row of the table of runs."""
        if self.summary is None or self.environment is None:
            return {"run": self.path.name, "decision": "unfinished", "target": "", "seconds": "", "began": ""}
        target = self.settings["policy"]["target"]
        change = self.summary["behaviours"][target]
        outcome = self.summary["decision"]["outcome"]
        return {
            "run": self.path.name,
            "decision": "inconclusive" if outcome == "can't tell" else outcome,  # as earlier versions wrote it
            "target": f"{target} {change['before']['estimate']:.3f} -> {change['after']['estimate']:.3f}",
            "seconds": self.summary["seconds"],
            "began": self.environment["began"],
        }


def list_runs(folder: str | Path = "runs") -> list[RunRecord]:
    """List the runs in a folder.

    Args:
        folder: Folder whose subfolders are runs.

    Returns:
        The runs, the newest last; unfinished ones come after all others.

    Raises:
        InterpError: The folder does not exist.

    Example:
        >>> interp.pipeline.list_runs(tmp)
        []
    """
    root = Path(folder)
    if not root.is_dir():
        raise InterpError(f"{root} is not a folder; expected one with runs, as interp run writes them")
    runs = [_record(path) for path in sorted(root.iterdir()) if (path / _SETTINGS).is_file()]
    return displayed(sorted(runs, key=lambda run: str((run.environment or {}).get("began", "~"))))


def read_run(path: str | Path) -> RunRecord:
    """Read one run.

    Args:
        path: Folder of the run, finished or not.

    Returns:
        Its settings, and its summary and environment if it is finished.

    Raises:
        InterpError: The folder is not a run; the message names the nearest run next to it.

    Example:
        >>> interp.pipeline.read_run(tmp / "demo")
        Traceback (most recent call last):
        interp.core.errors.InterpError: ...demo is not a run; nothing is known here
    """
    folder = Path(path)
    if not (folder / _SETTINGS).is_file():
        siblings = [run.path.name for run in list_runs(folder.parent)] if folder.parent.is_dir() else []
        raise InterpError(f"{folder} is not a run; {nearest(folder.name, siblings)}")
    return _record(folder)


def compare_runs(paths: Sequence[str | Path]) -> list[dict[str, object]]:
    """Compare finished runs.

    Args:
        paths: Folders of the runs.

    Returns:
        One row per value that differs, of the settings, the environment, the behaviours after the edit, the decision
        and the digests: its key under "what", and its value in each run under the run's path.

    Raises:
        InterpError: A folder is not a run, or a run is not finished.

    Example:
        >>> interp.pipeline.compare_runs([])
        []
    """
    runs = [read_run(path) for path in paths]
    for run in runs:
        if run.summary is None:
            raise InterpError(f"{run.path} is not finished; finish it (interp run … --resume), or leave it out")
    columns = [flatten({"settings": run.settings, "environment": run.environment, **_results(run)}) for run in runs]
    rows = []
    for name in dict.fromkeys(name for column in columns for name in column):
        values = {str(run.path): column.get(name) for run, column in zip(runs, columns, strict=True)}
        if len(set(map(str, values.values()))) > 1:
            rows.append({"what": name, **values})
    return displayed(rows)


def unfinished_runs(folder: str | Path = "runs") -> list[tuple[Path, int]]:
    """The folders of unfinished runs, and the size of each in bytes.

    Args:
        folder: Folder whose subfolders are runs.

    Raises:
        InterpError: The folder does not exist.

    Example:
        >>> from interp.pipeline.runs import unfinished_runs
        >>> unfinished_runs(tmp)
        []
    """
    leftovers = [run.path for run in list_runs(folder) if run.summary is None]
    return [(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())) for path in leftovers]


def clear_runs(folder: str | Path = "runs") -> list[tuple[Path, int]]:
    """Remove the folders of unfinished runs.

    Args:
        folder: Folder whose subfolders are runs.

    Returns:
        The folders that were removed, and the size of each in bytes.

    Raises:
        InterpError: The folder does not exist.

    Limitations:
        A run that is still in progress in another process counts as unfinished.

    Example:
        >>> interp.pipeline.clear_runs(tmp)
        []
    """
    leftovers = unfinished_runs(folder)
    for path, _ in leftovers:
        shutil.rmtree(path)
    return leftovers


@contextmanager
def unfinished_folder(out: str | Path, settings: dict[str, Any], resume: bool) -> Iterator[Path]:
    """The folder of a run's slow results while the run is in progress.

    It is removed when the block ends, and when an `InterpError` ends a run that was not resumed. It is kept after any
    other error, so that the run can be resumed.

    Raises:
        InterpError: Another run left the folder and `resume` is False, or that run had other settings.
    """
    folder = Path(out).with_name(Path(out).name + UNFINISHED)
    require_unlinked(folder)
    if folder.exists() and not resume:
        raise InterpError(
            f"{folder} was left by a run that did not finish; continue it with --resume, or delete it with: "
            f"interp runs gc {folder.parent} --yes"
        )
    if folder.exists():
        if changed := differences(read_json(folder / _SETTINGS), settings):
            raise InterpError(
                f"{folder}: {'; '.join(changed)}; a run is resumed with the settings it began with: give the same, or "
                "another folder"
            )
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
    summary, environment = (
        read_json(path / name) if (path / name).is_file() else None for name in (_SUMMARY, _ENVIRONMENT)
    )
    return RunRecord(path, read_json(path / _SETTINGS), summary, environment)


def _results(run: RunRecord) -> dict[str, Any]:
    summary = run.summary or {}
    after = {name: round(row["after"]["estimate"], 4) for name, row in summary["behaviours"].items()}
    return {"after": after, "decision": summary["decision"]["allow"], "hashes": summary["hashes"]}


def _revision(folder: Path) -> str | None:
    def git(*words: str) -> str | None:
        try:
            process = subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return process.stdout.strip() if process.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    return commit and commit + (" and changes" if git("status", "--porcelain", "--untracked-files=no") else "")
