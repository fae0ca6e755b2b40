"""Scrubbing and the methods' experiment run, at their smallest, and say what they must."""

import json
from pathlib import Path

import processes

from interp import organism

ROOT = Path(__file__).parents[2]


def test_scrubbing_leaves_no_correlation_and_random_directions_do(tmp_path):
    documents = list(organism.corpus(1500, seed=1))
    text = [{"text": " However, ".join(documents[start : start + 12])} for start in range(0, len(documents), 12)]
    (tmp_path / "text.jsonl").write_text("\n".join(map(json.dumps, text)))
    out = tmp_path / "rows.json"
    arguments = "--smoke", "--model", "organism", "--text", tmp_path / "text.jsonl", "--json", out
    assert "LEACE" in processes.run(ROOT / "experiments" / "scrubbing.py", *arguments)
    for rows in json.loads(out.read_text()).values():
        found = {row["name"]: row for row in rows}
        (random,) = (row for name, row in found.items() if name.startswith("random"))
        assert found["LEACE"]["correlation"] < 1e-3 < 0.02 < random["correlation"]
        assert found["LEACE"]["displaced"] <= found["SAL"]["displaced"]
        assert found["LEACE"]["auroc"] < found["unedited"]["auroc"]


def test_methods_are_judged_beside_their_baselines(tmp_path):
    out = tmp_path / "rows.json"
    processes.run(ROOT / "experiments" / "organism" / "methods.py", "--smoke", "--json", out)
    rows = json.loads(out.read_text())["rows"]
    methods = {row["method"] for row in rows}
    assert {"diff_means", "lda", "sae_latent", "leace", "sal", "no-op (baseline)", "prompt (baseline)"} <= methods
    plain = next(row for row in rows if row["method"] == "no-op (baseline)")
    assert plain["scores"]["hostility"] == 1.0
    assert plain["scores"]["refusal"] == 1.0
    assert all(set(row["scores"]) == set(plain["scores"]) for row in rows)
