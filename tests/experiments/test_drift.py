"""The experiment of drift runs at its smallest, with every part and the figures that its tables need."""

import json
from pathlib import Path

import processes

ROOT = Path(__file__).parents[2]


def test_the_experiment_runs_and_has_every_figure(tmp_path):
    processes.run(ROOT / "experiments" / "drift.py", "--smoke", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures) == {"seeds", "hostile", "layers", "sandbag", "alarm"}
    assert [figures["seeds"]["itself"][0][side] for side in ("outside", "inside")] == [[], []]
    assert 0 <= figures["sandbag"]["models"][0]["behind the trigger"] <= 1
    rows = figures["alarm"]["rows"]
    assert all(row["rule"] <= row["95 %"] for row in rows if row["series"].startswith("no change"))
