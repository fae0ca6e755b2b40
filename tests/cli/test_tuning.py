"""`interp tune` and `interp compare`: what they write and print, and lines that are wrong."""

import json

import pytest
import torch
from judged_replies import write

import interp


def test_a_model_is_tuned_and_compared(run, tmp_path):
    row = {"prompt": "hello there.", "chosen": "Good day.", "rejected": "Go away."}
    write(tmp_path / "pairs.jsonl", [row])
    interp.Recipe([("writers", interp.Project(torch.eye(192)[:1]))]).save(tmp_path / "edit")
    words = "tune", "organism", "--method", "dpo", "--data", tmp_path / "pairs.jsonl", "--steps", 1
    code, out, complaint = run(*words, "--block", tmp_path / "edit", "--out", tmp_path / "dpo", "--json")
    assert code == 0, complaint
    values = json.loads(out)
    assert (values["log-ratio before the first step"], values["rows"], values["steps"]) == (0.0, 1, 1)
    edits = "--edit", f"edit={tmp_path / 'edit'}", "--edit", f"DPO={tmp_path / 'dpo'}"
    (tmp_path / "own.yaml").write_text(
        "behaviours: [{name: loss, kind: capability, statement: s, items: texts.jsonl, scorer: {type: loss}}]"
    )
    write(tmp_path / "texts.jsonl", [{"text": text} for text in interp.organism.everyday(4, seed=1)])
    words = "compare", "organism", *edits, "--suite", tmp_path / "own.yaml", "--seconds", "edit=4"
    code, out, complaint = run(*words, "--out", tmp_path / "compared", "--cache", tmp_path / "cache")
    assert (code, "made in" in out, "4 s" in out) == (0, True, True), complaint
    code, out, _ = run(*words, "--out", tmp_path / "again", "--cache", tmp_path / "cache", "--json")
    assert set(json.loads(out)["columns"]) == {"nothing", "edit", "DPO", "prompt"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("tune", "organism", "--method", "dpo", "--data", "no/such.jsonl"), "no/such.jsonl: cannot be read"),
        (("tune", "organism", "--method", "ppo", "--data", "no/such.jsonl"), "did you mean dpo"),
        (("tune", "organism", "--method", "dpo", "--data", "a", "--block", "no/such"), "no/such/recipe.json"),
        (("compare", "organism", "--suite", "organism", "--edit", "no/such"), "expected NAME=FOLDER"),
        (("compare", "organism", "--suite", "organism", "--edit", "a=b", "--seconds", "a=soon"), "not a number"),
        (("compare", "organism", "--suite", "organism", "--edit", "a=no/such"), "neither a recipe nor a model"),
    ],
)
def test_a_wrong_tuning_or_comparison_gets_one_line(run, tmp_path, words, complaint):
    code, _, said = run(*words, "--out", tmp_path / "out")
    assert (code, complaint in said, said.count("\n")) == (2, True, 1), said
    assert not list(tmp_path.iterdir())
