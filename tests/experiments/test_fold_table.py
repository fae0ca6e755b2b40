"""The table of what folds, at its smallest, and the committed one."""

import json
from pathlib import Path

import processes
import tiny_models

ROOT = Path(__file__).parents[2]


def test_the_table_says_what_folds_and_how_exactly(tmp_path):
    out = tmp_path / "cells.json"
    processes.run(ROOT / "experiments" / "fold_table.py", "--smoke", "--json", out)
    cells = {(cell["architecture"], cell["op"]): cell for cell in json.loads(out.read_text())["cells"]}
    for cell in cells.values():
        if cell["status"] == "exact":
            assert cell["gap"] < 2e-6 < 1e-3 < cell["effect"]
        assert bool(cell["reason"]) == (cell["status"] == "refused")
    assert cells["llama", "vector"]["how"] == "flag"
    assert cells["qwen3_moe", "vector"]["status"] == "refused"
    assert cells["gemma2", "projection"]["status"] == "exact"
    assert cells["gemma2", "eraser"]["status"] == "refused"
    assert cells["gpt2", "norms kept"]["status"] == "approximate"


def test_the_committed_table_has_every_architecture():
    text = (ROOT / "docs" / "results" / "editing.md").read_text()
    assert all(f"\n| {name} | " in text for name in tiny_models.CONFIGS)
