"""The simulation of audits at its smallest, and the committed table."""

import json
import re
from pathlib import Path

import processes

ROOT = Path(__file__).parents[2]


def test_the_simulation_runs_and_writes_its_figures(tmp_path):
    out = tmp_path / "figures.json"
    printed = processes.run(ROOT / "experiments" / "audit_simulation.py", "--smoke", "--json", out)
    found = json.loads(out.read_text())
    assert len(found["settings"]) == found["claims"]["settings"] == 8
    assert 0.9 <= found["claims"]["coverage"] <= 0.99
    powerful = [one["significant"] for one in found["settings"] if one["change"] and one["cluster"] == 1]
    assert min(powerful) > 0.6, "control: a real change is found"
    assert "| losses | 5 |" in printed


def test_the_committed_table_covers_within_the_range_or_says_that_it_is_wider():
    text = (ROOT / "docs" / "results" / "statistics.md").read_text()
    cells = re.findall(r"([01]\.\d{3})(\*?) / ([01]\.\d{3}) / ([01]\.\d{3})", text)
    assert len(cells) == 84
    for difference, star, _, _ in cells:
        assert 0.93 <= float(difference) <= 0.97 or (star and float(difference) > 0.97)
