"""The experiment of erasure depth runs at its smallest."""

import json
from pathlib import Path

import processes

SCRIPT = Path(__file__).parents[2] / "experiments" / "depth.py"


def test_the_experiment_runs_and_has_every_figure(tmp_path):
    processes.run(SCRIPT, "--smoke", "--json", tmp_path / "figures.json", "--out", tmp_path / "out")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["depth"]) == {"ablation", "leace"}
    assert {row["model"] for row in figures["depth"]["ablation"]["recoveries"]} == {"edited", "control", "fine-tuned"}
    assert {path.name for path in (tmp_path / "out" / "leace").iterdir()} == {"depth.json", "depth.html"}
    at_site = [row for row in figures["depth"]["leace"]["probes"] if row["site"] == "resid_post.2"]
    assert [row["linear"]["estimate"] <= 0.55 for row in at_site] == [False, True]
