"""Runs: folders are listed, read, compared and cleared; an unfinished one is resumed with its own settings only."""

import json

import pytest

from interp import InterpError
from interp.pipeline import runs


def write_run(folder, seed=0, outcome="allow", began="2026-01-01"):
    """A finished run, with the keys that these functions read."""
    folder.mkdir(parents=True)
    estimates = {"before": {"estimate": 1.0}, "after": {"estimate": 0.05 * (seed + 1)}}
    summary = {
        "behaviours": {"hostility": estimates}, "decision": {"outcome": outcome, "allow": outcome == "allow"},
        "seconds": 60.0, "hashes": {"recipe": f"{seed}f"},
    }  # fmt: skip
    settings = {"policy": {"target": "hostility"}, "seed": seed}
    for name, values in (("experiment", settings), ("summary", summary), ("environment", {"began": began})):
        (folder / f"{name}.json").write_text(json.dumps(values))
    return folder


def test_runs_are_listed_read_and_compared(tmp_path):
    first = write_run(tmp_path / "a", began="2026-01-02")
    second = write_run(tmp_path / "b", seed=1, outcome="can't tell")
    listed = runs.list_runs(tmp_path)
    assert [run.row["run"] for run in listed] == ["b", "a"], "the newest last"
    assert [run.row["decision"] for run in listed] == ["inconclusive", "allow"], "an earlier version's word, too"
    assert listed[1].row["target"] == "hostility 1.000 -> 0.050"
    assert runs.read_run(first).settings["seed"] == 0
    rows = {row["what"]: (row[str(first)], row[str(second)]) for row in runs.compare_runs([first, second])}
    assert rows == {
        "settings.seed": (0, 1),
        "environment.began": ("2026-01-02", "2026-01-01"),
        "after.hostility": (0.05, 0.1),
        "decision": (True, False),
        "hashes.recipe": ("0f", "1f"),
    }
    assert runs.compare_runs([first, first]) == [], "control"


def test_what_is_not_a_run_is_refused(tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name)
    with pytest.raises(InterpError, match="c is not a run; known: a, b"):
        runs.read_run(tmp_path / "c")
    with pytest.raises(InterpError, match="is not a folder"):
        runs.list_runs(tmp_path / "none")
    (tmp_path / "a" / "summary.json").unlink()
    with pytest.raises(InterpError, match="a is not finished"):
        runs.compare_runs([tmp_path / "a", tmp_path / "b"])


def test_unfinished_runs_are_cleared_on_request(tmp_path):
    (tmp_path / "x.unfinished" / "store").mkdir(parents=True)
    (tmp_path / "x.unfinished" / "experiment.json").write_text("{}")
    assert [path.name for path, _ in runs.unfinished_runs(tmp_path)] == ["x.unfinished"]
    assert (tmp_path / "x.unfinished").exists(), "listing removes nothing"
    runs.clear_runs(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_unfinished_folder_is_kept_to_resume_from(tmp_path):
    with pytest.raises(KeyboardInterrupt), runs.unfinished_folder(tmp_path / "a", {"seed": 0}, resume=False) as folder:
        (folder / "store").mkdir()
        raise KeyboardInterrupt
    assert (tmp_path / "a.unfinished" / "store").is_dir()
    with (
        pytest.raises(InterpError, match=f"with --resume, or delete it with: interp runs gc {tmp_path} --yes"),
        runs.unfinished_folder(tmp_path / "a", {"seed": 0}, resume=False),
    ):
        pass
    with (
        pytest.raises(InterpError, match="seed was 0 and is now 1"),
        runs.unfinished_folder(tmp_path / "a", {"seed": 1}, resume=True),
    ):
        pass
    with runs.unfinished_folder(tmp_path / "a", {"seed": 0}, resume=True) as folder:
        assert (folder / "store").is_dir()
    assert list(tmp_path.iterdir()) == []
