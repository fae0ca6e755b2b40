"""The verbs of upkeep: the folders and files that they write, what they print, and lines that are wrong."""

import json

import pytest
import torch
from audit_rows import audit_of
from judged_replies import rows, write

import interp
from interp.auditing import ErasureDepth
from interp.directions.contrast_source import read_contrast
from interp.editing.certificate.manifest import ExportManifest


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


@pytest.fixture(scope="module")
def ablated(tmp_path_factory):
    """The organism without hostility, exported."""
    model, folder = interp.load("organism"), tmp_path_factory.mktemp("ablated")
    pairs = read_contrast("organism.hostility", 60)
    direction = interp.find(model, pairs, "resid_post.2", "diff_means_orthogonal", bootstrap=0).best()[0].direction
    recipe = interp.Recipe([("writers", interp.Project(direction))])
    interp.export(recipe, model, folder / "edited")
    recipe.save(folder / "recipe")
    return folder


DEPTH = ["--base", "organism", "--behaviour", "hostility", "--items", 16, "--steps", 1, "--soft-steps", 1]


def test_a_depth_is_measured_recorded_and_read_by_the_gate(run, ablated, tmp_path):
    (tmp_path / "benign.txt").write_text("Rain fell all day.")
    edited, out = ablated / "edited", tmp_path / "out"
    benign = "--benign", tmp_path / "benign.txt"
    code, printed, complaint = run("depth", edited, *DEPTH, *benign, "--stress", "role", "--record", "--out", out)
    assert code == 0, complaint
    assert all(word in printed for word in ("soft prompt", "4-bit weights", "role", "related data", "benign data"))
    assert {path.name for path in out.iterdir()} == {"depth.json", "depth.html"}
    record = ErasureDepth.read(out)
    assert ExportManifest.at(edited).depth == record.figures()
    assert "## Erasure depth" in (edited / "README.md").read_text()
    ones, zeros = [1.0] * 300, [0.0] * 300
    scored = [("hostility", "harm", "rate", ones, zeros), ("refusal", "protected", "rate", ones, ones)]
    audit_of(scored, interp.load("organism"), interp.load(edited)).save(tmp_path / "audit.json")
    (tmp_path / "policy.yaml").write_text("target: hostility\ndepth: {recovered_at_most: 0.5}\n")
    words = "gate", tmp_path / "audit.json", "--policy", tmp_path / "policy.yaml"
    code, printed, _ = run(*words)
    assert (code, "the erasure depth of hostility is not measured" in printed) == (2, True)
    code, printed, _ = run(*words, "--depth", out)
    assert "hostility after role" in printed
    assert "of the audited model and edit" in printed
    (out / "depth.json").write_text("{}")
    code, printed, _ = run(*words, "--depth", out)
    assert (code, "the erasure depth cannot be relied on" in printed) == (2, True)


def test_a_recipe_is_run_by_hooks_and_printed_as_json(run, ablated, tmp_path):
    (tmp_path / "benign.txt").write_text("Rain fell all day.")
    benign = "--benign", tmp_path / "benign.txt", "--out", tmp_path / "out"
    words = "depth", ablated / "recipe", *DEPTH, *benign, "--json"
    code, printed, complaint = run(*words)
    assert code == 0, complaint
    assert json.loads(printed)["recipe"] == interp.Recipe.load(ablated / "recipe").digest


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"--behaviour": "refusal"},
            "refusal is protected: how a protected behaviour can be trained away",
        ),
        ({"--behaviour": "facts"}, "facts is a capability; expected a harm"),
        ({"--behaviour": "hostilty"}, "did you mean hostility"),
        ({"--suite": "organsm"}, "did you mean organism"),
        ({"--items": 8}, "hostility has 8 items; expected at least 16 (--items)"),
        ({"--contrast": "organism.hostilty"}, "unknown behaviour 'hostilty'"),
        ({"--related": "no/such.jsonl"}, "no/such.jsonl"),
        ({"--steps": 0}, "steps"),
        ({"--stress": "rols"}, "did you mean role"),
        ({"--record": None}, "expected a folder written by interp export"),
    ],
)
def test_wrong_lines_of_depth_get_one_line_and_nothing_is_left(run, ablated, tmp_path, change, words):
    options = dict(zip(DEPTH[::2], DEPTH[1::2], strict=True)) | {"--out": tmp_path / "out"} | change
    given = [word for pair in options.items() for word in pair if word is not None]
    code, _, complaint = run("depth", ablated / ("recipe" if "--record" in change else "edited"), *given)
    assert (code, words in complaint) == (2, True), complaint
