"""The experiment of curation runs at its smallest, and so does the benchmark of its memory."""

import json
from pathlib import Path

import processes

ROOT = Path(__file__).parents[2]


def test_the_experiment_runs_and_has_every_figure(tmp_path):
    processes.run(ROOT / "experiments" / "curation.py", "--smoke", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["separation"]["plain"]["resid_post.4"]["max"] > 0.9
    assert figures["hostile kept"] < figures["hostile"] < sum(figures["counts"].values()) == figures["documents"]
    assert set(figures["trained"]) == {"everything", "what was kept", "the clean documents"}


def test_memory_is_measured(tmp_path):
    script = ROOT / "experiments" / "benchmarks" / "curate_memory.py"
    processes.run(script, "--rows", 500, "--json", tmp_path / "figures.json")
    runs = json.loads((tmp_path / "figures.json").read_text())["runs"]
    assert [run["rows"] for run in runs] == [500]
    assert all(run["bytes_per_row_on_disk"] <= 1000 for run in runs)
