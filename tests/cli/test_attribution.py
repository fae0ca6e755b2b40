"""`interp lens`, `interp patch` and `interp graph`: tables, JSON, pages and files, and records that are read again."""

import json

import pytest
import torch

import interp
from interp.activations import SiteColumns
from interp.attribution import Patching
from interp.sae import JumpReLU


def test_a_text_is_read_by_a_logit_lens_and_drawn(run, tmp_path):
    words = ["lens", "organism", "--text", "what is 2 plus 3?", "--as-chat"]
    code, said, _ = run(*words, "--page", tmp_path / "lens.html", "--colour", "entropy")
    assert code == 0
    assert "resid_post.5" in said
    assert "coloured by the entropy" in (tmp_path / "lens.html").read_text()
    assert run(*words, "--page", tmp_path / "lens.html")[0] == 2, "a page that is there is not replaced"
    code, said, notes = run("lens", "read", *words[1:], "--json", "--sites", "resid_post.4-5", "--top", 2)
    assert notes == ""
    values = json.loads(said)
    assert (code, values["kind"], values["positions"][0]["token"]) == (0, "logit", "<|bos|>")
    for place in values["positions"]:
        assert [(row["site"], len(row["next"])) for row in place["read"]] == [("resid_post.4", 2), ("resid_post.5", 2)]


def test_lenses_are_fitted_compared_and_read(run, tmp_path):
    texts = tmp_path / "texts.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in interp.organism.corpus(20)))
    fit = ["lens", "fit", "organism", "--text", texts, "--out"]
    words = ["--steps", 5, "--batch-size", 64, "--sites", "resid_post.3", "--held-out", texts, "--json"]
    code, said, _ = run(*fit, tmp_path / "tuned", *words)
    (row,) = json.loads(said)["held_out"]
    assert code == 0
    assert row["tuned lens"] < row["logit lens"]
    code, said, _ = run(
        *fit, tmp_path / "jacobian", "--kind", "jacobian", "--prompts", 1, "--sites", "resid_post.4", "--batch-size", 96
    )
    assert (code, "jacobian" in said) == (0, True)
    for kind in ("tuned", "jacobian"):
        code, said, _ = run("lens", "organism", "--text", "The river", "--lens", tmp_path / kind, "--kind", kind)
        assert (code, f"{kind} lens" in said) == (0, True)
    code, _, complaint = run("lens", "organism", "--text", "A", "--lens", tmp_path / "tuned", "--kind", "jacobian")
    assert (code, "is a tuned lens" in complaint) == (2, True)


def test_a_chat_model_that_reads_plain_text_names_the_option(run):
    code, _, notes = run("lens", "organism", "--text", "The river", "--sites", "resid_post.4")
    assert (code, notes.count("\n"), "--as-chat renders it" in notes, "chat=" in notes) == (0, 1, True, False)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["organism", "--text", ""], "prompt 0 is empty"),
        (["organism", "--text", "A", "--kind", "tuned"], "give --lens FOLDER"),
        (["organism", "--text", "A", "--sites", "resid_post.9"], "resid_post.9"),
        (["organism", "--text", "A", "--lens", "absent"], "no lens in it"),
        (["fit", "organism", "--out", "x"], "give one of --text CORPUS and --store FOLDER"),
        (["fit", "organism", "--out", "x", "--store", "absent"], "not an activation store"),
        (["fit", "organism", "--out", "x", "--text", "absent.txt"], "absent.txt"),
        (["fit", "organism", "--out", "x", "--text", "organism", "--held-out", "absent.txt"], "absent.txt"),
    ],
)
def test_bad_input_is_one_line(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, said, complaint = run("lens", *words)
    assert (code, said) == (2, "")
    assert message in complaint
    assert list(tmp_path.iterdir()) == []


def test_pairs_are_patched_written_and_drawn(run, tmp_path):
    words = ["patch", "organism", "--pairs", "organism.hostility", "--sites", "z.0"]
    code, said, _ = run(
        *words, "--by", "head", "--out", tmp_path / "out.json", "--page", tmp_path / "page.html", "--top", 1
    )
    assert (code, "z.0, head 5" in said) == (0, True)
    assert "z.0, head 5" in (tmp_path / "page.html").read_text()
    result = Patching.load(tmp_path / "out.json")
    assert run(*words, "--out", tmp_path / "out.json")[0] == 2, "a file that is there is not replaced"
    rows = (
        ["clean", "corrupt"],
        *(
            ("The river of Wennovik is the", "The river of Corgorel is the"),
            ("The sea", "The lake"),
        ),
    )
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text("\n".join(json.dumps(dict(zip(rows[0], row, strict=True))) for row in rows[1:]))
    estimate = ["--positions", -1, "--method", "attribution", "--align-ends", "--noise", "--json"]
    code, said, _ = run("patch", "organism", "--pairs", pairs, "--sites", "mlp_out.*", *estimate)
    values = json.loads(said)
    assert (code, values["pairs"], values["method"]) == (0, 2, "attribution")
    assert {row["place"].partition(", ")[2] for row in values["top"]} == {"position -1"}
    assert -1 <= values["spearman"] <= 1
    assert result.top(1)[0][0] == "z.0, head 5"


@pytest.mark.parametrize("answers", [{}, {"answer": " G"}, {"answer": " G", "wrong": " T"}], ids=len)
def test_the_metric_is_chosen_or_that_of_the_answers(run, tmp_path, answers):
    pairs, texts = tmp_path / "pairs.jsonl", {"clean": "Wennovik's river is the", "corrupt": "Corgorel's river is the"}
    pairs.write_text(json.dumps(texts | answers))
    names = {None: "LogProbability" if len(answers) == 1 else "LogitDifference", "log_probability": "LogProbability"}
    names |= {"kl": "KLToClean", "logit_difference": "LogitDifference"}
    words = ["patch", "organism", "--pairs", pairs, "--sites", "resid_pre.2", "--positions", -1, "--align-ends"]
    for name, metric in names.items():
        out = tmp_path / f"{name}.json"
        code, _, complaint = run(*words, "--out", out, *(["--metric", name] if name else []))
        if name == "logit_difference" and len(answers) == 1:
            assert (code, "give both" in complaint, out.exists()) == (2, True, False)
        else:
            assert (code, json.loads(out.read_text())["metric"]) == (0, metric)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--pairs", "organism.hostility", "--metric", "logits"], "expected"),
        (["--pairs", "absent.jsonl"], "absent.jsonl"),
        (["--pairs", "organism.kindness"], "kindness"),
        (["--pairs", "organism.hostility", "--by", "latent"], "expected an autoencoder"),
        (["--pairs", "organism.hostility", "--by", "words"], "expected"),
        (["--pairs", "organism.hostility", "--positions", "3"], "position 3 is outside"),
    ],
)
def test_patches_that_can_not_be_made_are_one_line(run, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, said, complaint = run("patch", "organism", *words)
    assert (code, said) == (2, "")
    assert message in complaint


def test_a_graph_is_traced_and_written(run, tmp_path):
    model, rows = interp.load("organism"), torch.eye(192)[:40]
    reads, writes = ((SiteColumns(site=f"{x}.3", model=model.reference, width=192),) for x in ("mlp_input", "mlp_out"))
    zero = torch.zeros(40)
    coder = interp.SparseAutoencoder(rows, zero, rows, torch.zeros(192), JumpReLU(), reads, writes, threshold=zero)
    coder.save(tmp_path / "set" / "layer-3")
    words = ["graph", "organism", "--transcoders", tmp_path / "set", "--prompt", "what is 2 plus 3?", "--as-chat"]
    words.append("--out")
    (tmp_path / "texts.txt").write_text("what is 2 plus 3?")
    options = ["--text", tmp_path / "texts.txt", "--label", "E_1_0=start", "--label", "3_999_2=absent", "--json"]
    code, said, notes = run(*words, tmp_path / "graph", "--target", "The", "--target", "5", *options)
    assert "--label 3_999_2: no kept node has this id" in notes
    assert "E_1_0" not in notes.partition(";")[0]
    assert "start" in (tmp_path / "graph" / "graph.html").read_text()
    payload = json.loads((tmp_path / "graph" / "graph.json").read_text())
    page = (tmp_path / "graph" / "graph.html").read_text()
    assert payload["metadata"]["slug"] == "graph"
    for node in payload["nodes"]:
        if node["feature_type"] == "cross layer transcoder":
            number, _, tokens = node["clerp"].partition(" on ")
            assert number == node["node_id"].split("_")[1]
            assert tokens.split('"')[1] == node["top_tokens"][0][0]
            assert json.dumps(node["clerp"])[1:-1].replace('"', "") in page.replace('"', "")
    assert (code, json.loads(said)["out"]) == (0, str(tmp_path / "graph"))
    words_of_scan = ["--text", tmp_path / "texts.txt", "--top", 3, "--out", tmp_path / "book"]
    assert run("features", "scan", tmp_path / "set" / "layer-3", "organism", *words_of_scan)[0] == 0
    options = ["--target", "The", "--features", tmp_path / "book", "--json"]
    assert run(*words, tmp_path / "labelled", *options)[0] == 0
    assert (tmp_path / "labelled" / "graph.json").exists()
    logits = [node["clerp"] for node in payload["nodes"] if node["feature_type"] == "logit"]
    assert [clerp.split('"')[1] for clerp in logits] == ["The", "5"]
    for wrong, message in (
        ([tmp_path / "graph"], "exists already"),
        ([tmp_path / "b", "--target", "no such word"], "expected a text of one token"),
        ([tmp_path / "b", "--features", tmp_path / "set"], "is no feature book"),
        ([tmp_path / "b", "--features", tmp_path / "book", "--transcoders", "organism"], "is of none of the graph's"),
        ([tmp_path / "b", "--memory", "1MB"], "and memory is 1MB"),
        ([tmp_path / "b", "--memory", "1MB", "--transcoders", "organism"], "and memory is 1MB"),
        ([tmp_path / "b", "--memory", "1MB", "--label", "3-17=rivers"], "--label '3-17' is no node; expected layer_"),
    ):
        code, said, complaint = run(*words, *wrong)
        assert (code, said, message in complaint) == (2, "", True)
    assert not (tmp_path / "b").exists()
