"""The experiment of languages runs at its smallest."""

import json
from pathlib import Path

import processes

ROOT = Path(__file__).parents[2]


def test_the_experiment_runs_and_has_every_figure(tmp_path):
    processes.run(ROOT / "experiments" / "languages.py", "--smoke", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert [row["fitted in"] for row in figures["audits"]] == ["English", "Spanish", "both"]
    assert all(row["with the slice"] != "allow" for row in figures["audits"]), "too few items to allow"
    assert {(row["prompts"], row["threshold"]) for row in figures["gates"]} >= {("en", "English"), ("es", "its own")}
