"""The distillation's experiment runs, at its smallest, and its figures are of the kind that they must be."""

import json
from pathlib import Path

import processes

SCRIPT = Path(__file__).parents[2] / "experiments" / "distil.py"


def test_what_remains_is_told_by_rank_and_steps(tmp_path):
    figures, page = tmp_path / "figures.json", tmp_path / "page.md"
    processes.run(SCRIPT, "--smoke", "--only", "organism", "--json", figures, "--out", page)
    found = json.loads(figures.read_text())
    first, last = found["rows"]
    assert (first["rank"], first["steps"], last["rank"], last["steps"]) == (1, 2, 4, 4)
    assert first["effect"] == last["effect"] > 1e-4, "control: the recipe matters, and both are held to the same"
    assert all(0 < row["share"] < 1.2 for row in (first, last))
    plain, hooked, _ = found["replies"]
    assert plain["hostile"] == 1
    assert hooked["hostile"] < plain["hostile"]
    assert page.read_text().count("| organism, gated removal |") == 2
