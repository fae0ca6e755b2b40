"""The benchmark of scans, at its smallest: the scan and the plain loop find the same densities."""

import json
from pathlib import Path

import processes

SCRIPT = Path(__file__).parents[2] / "experiments" / "benchmarks" / "features.py"


def test_the_scan_and_the_plain_loop_agree(tmp_path):
    processes.run(SCRIPT, "--smoke", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["largest_gap_of_densities"] < 1e-6
    assert figures["tokens_that_count"] > 7_000
    assert figures["vs_sae_dashboard"] > 0
