"""The verbs of upkeep: the folders and files that they write, what they print, and lines that are wrong."""

import json

import pytest
import torch
from judged_replies import rows, write

import interp


@pytest.fixture
def inputs(tmp_path):
    write(tmp_path / "data.jsonl", ({"text": text} for text in interp.organism.everyday(12, seed=1)))
    interp.Direction.of(torch.eye(192)[0], "resid_post.1").save(tmp_path / "direction")
    return tmp_path


def test_a_curation_is_written_and_printed(run, inputs):
    words = "curate", inputs / "data.jsonl", "--model", "organism", "--direction", inputs / "direction"
    code, out, complaint = run(*words, "--threshold", "0.0", "--out", inputs / "out", "--json")
    assert code == 0, complaint
    record = json.loads(out)
    assert (code, sum(record["counts"].values())) == (0, 12)
    assert "worst" not in record, "passages may be offensive"
    names = {path.name for path in (inputs / "out").iterdir()}
    assert names == {"kept.jsonl", "flagged.jsonl", "unsure.jsonl", "scores.parquet", "curation.json", "curation.html"}
    code, out, _ = run(*words, "--threshold", "0.0", "--out", inputs / "again")
    assert (code, "flagged" in out, "curation.html" in out) == (0, True, True)
    assert (inputs / "again" / "kept.jsonl").read_bytes() == (inputs / "out" / "kept.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--threshold": None}, "give --labels FILE, or --threshold"),
        ({"--direction": None}, "by a direction, or by an autoencoder"),
        ({"--direction": "no/such"}, "no saved direction in it"),
        ({"--sae": "no/such", "--latents": "5,x"}, "latents"),
        ({"--score": "men"}, "did you mean mean"),
        ({"--suite": "organsm"}, "did you mean organism"),
        ({"--labels": "no/such.jsonl"}, "no/such.jsonl: cannot be read"),
    ],
)
def test_what_is_wrong_gets_one_line_and_nothing_is_left(run, inputs, change, words):
    options = {"--direction": inputs / "direction", "--threshold": "0.0", "--out": inputs / "out"} | change
    given = [word for pair in options.items() if pair[1] is not None for word in pair]
    code, _, complaint = run("curate", inputs / "data.jsonl", "--model", "organism", *given)
    assert (code, words in complaint, complaint.count("\n")) == (2, True, 1)
    assert {path.name for path in inputs.iterdir()} == {"data.jsonl", "direction"}


def test_feedback_is_fitted_and_printed(run, tmp_path):
    pairs = write(tmp_path / "pairs.jsonl", rows(16, split=True, noise={("a", 3)}))
    words = "feedback", pairs, "--model", "organism", "--sites", "resid_post.3", "--method", "diff_means"
    code, out, complaint = run(*words, "--out", tmp_path / "out")
    assert (code, complaint.count("interp:")) == (0, 0), complaint
    assert "north and south have opposite verdicts on 15 of 15 comparisons" in out
    write(pairs, rows(16))
    code, out, _ = run(*words, "--out", tmp_path / "again", "--json")
    assert [x["group"] for x in json.loads(out)["directions"]] == ["everyone"]
    code, _, complaint = run(*words, "--out", tmp_path / "out")
    assert (code, "exists already" in complaint) == (2, True)


def test_a_drift_is_written_decided_and_printed(run, inputs):
    (inputs / "policy.yaml").write_text("name: drift\ntiers: [{name: unchanged}]\nitems_at_least: 2\n")
    words = "drift", "organism", "organism", "--suite", "organism", "--items", 2, "--text", inputs / "data.jsonl"
    more = "--crosscoder", 0, "--direction", inputs / "direction"
    code, out, complaint = run(*words, *more, "--out", inputs / "out")
    assert code == 0, complaint
    assert "0 findings" in out
    assert {path.name for path in (inputs / "out").iterdir()} == {"drift.json", "drift.html", "audit-1.json"}
    code, out, complaint = run(*words, *more, "--out", inputs / "again", "--against", inputs / "policy.yaml", "--json")
    record = json.loads(out)
    assert (code, record["models"][0]["outcome"], record["findings"]) == (1, "deny", {"organism": []}), complaint
    assert record["models"][0]["projections"][0]["direction"] == "direction"
    code, _, _ = run("gate", inputs / "out" / "audit-1.json", "--policy", inputs / "policy.yaml")
    assert code == 1, "two items are too few for any limit, here as there"


@pytest.mark.parametrize(
    ("models", "change", "words"),
    [
        (["organism"], {}, "expected the first model and one or more later ones"),
        (["organism", "organism"], {"--suite": "organsm"}, "did you mean organism"),
        (["organism", "no/such"], {}, "no/such"),
        (["organism", "organism"], {"--text": "no/such.jsonl"}, "no/such.jsonl"),
        (["organism", "organism"], {"--against": "no.yaml"}, "no.yaml"),
        (["organism", "organism"], {"--direction": "no/such"}, "no saved direction in it"),
    ],
)
def test_a_wrong_drift_gets_one_line_and_nothing_is_left(run, inputs, models, change, words):
    options = {"--suite": "organism", "--items": 2, "--text": inputs / "data.jsonl", "--out": inputs / "out"} | change
    given = [word for pair in options.items() for word in pair]
    code, _, complaint = run("drift", *models, *given, "--crosscoder", 0)
    assert (code, words in complaint, complaint.count("\n")) == (2, True, 1), complaint
    assert {path.name for path in inputs.iterdir()} <= {"data.jsonl", "direction", ".interp-audit"}


def test_a_ledger_grows_and_another_suite_is_refused(run, tmp_path):
    words = "watch", tmp_path / "ledger.jsonl", "organism", "--suite", "organism", "--items"
    code, out, complaint = run(*words, 2)
    assert (code, "no alarm" in out) == (0, True), complaint
    before = (tmp_path / "ledger.jsonl").read_bytes()
    code, out, complaint = run(*words, 2, "--json")
    assert (code, json.loads(out)["number"], "nothing is added" in complaint) == (0, 0, True)
    code, _, complaint = run(*words, 3)
    assert (code, "its suite is" in complaint, complaint.count("\n")) == (2, True, 1)
    (tmp_path / "ledger.jsonl").write_bytes(before.replace(b"hostility", b"hostilitY"))
    code, _, complaint = run(*words, 2)
    assert (code, "line 1" in complaint, complaint.count("\n")) == (2, True, 1)
