"""The table of SAE features in weights, at its smallest, and the committed one."""

import json
from pathlib import Path

import processes

ROOT = Path(__file__).parents[2]


def test_neurons_are_the_ablation_and_fits_come_nearer_than_projections(tmp_path):
    out, document = tmp_path / "rows.json", tmp_path / "features.md"
    script = ROOT / "experiments" / "feature_folds.py"
    processes.run(script, "--smoke", "--only", "organism", "--json", out, "--out", document)
    found = {(row["coder"], row["form"]): row for row in json.loads(out.read_text())}
    neurons = [row for (_, form), row in found.items() if "neuron" in form]
    assert len(neurons) == 2
    assert all(row["explained"] > 0.999 and row["off"] < 1e-3 for row in neurons)
    for coder in {coder for coder, form in found if form == "projection"}:
        fit, projection = found[coder, "affine fit"], found[coder, "projection"]
        assert projection["explained"] < fit["explained"] < 1
        assert fit["off"] < projection["off"]
        assert fit["folds"] == ("exactly" if "mlp_out" in coder else "no")
    assert [row["folds"] for (_, form), row in found.items() if form.endswith("at_writer")] == ["exactly"]
    assert document.read_text().count("| organism, ") == len(found)


def test_the_committed_table_has_every_form():
    text = (ROOT / "docs" / "results" / "features.md").read_text()
    for form in ("projection", "affine fit", "affine fit, at_writer", "1 neuron", "2 neurons"):
        assert f"| {form} |" in text
