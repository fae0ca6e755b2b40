"""The experiment of tuning runs at its smallest and has every figure."""

import json
from pathlib import Path

import processes

ROOT = Path(__file__).parents[2]


def test_the_experiment_runs_and_has_every_figure(tmp_path):
    processes.run(ROOT / "experiments" / "tuning.py", "--smoke", "--json", tmp_path / "figures.json")
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert list(figures["removal"]["matrix"]) == ["nothing", "edit", "SFT", "DPO", "KTO", "SFT, steered", "prompt"]
    assert list(figures["prevention"]["matrix"]) == [
        "nothing",
        "insults",
        "insults, steered",
        "insults, capped",
        "prompt",
    ]
    assert figures["removal"]["rows"][0]["edit"].startswith("-1.000"), "hostility is gone"
    assert figures["log-ratios"]["DPO"] == [0.0, 0.0]
    assert all(cost is not None for cost in figures["removal"]["seconds"].values())
