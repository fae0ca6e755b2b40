"""`interp features` on the organism: scan, label, and errors of one line."""

import json

import pytest
import torch
from sae_samples import draw
from tiny_models import one_site
from torch.nn.functional import normalize

import interp
from interp.sae import TopK


@pytest.fixture(scope="module")
def sae(tmp_path_factory):
    reference, folder = interp.load("organism").reference, tmp_path_factory.mktemp("sae") / "l3"
    rows = normalize(draw(24, reference.d_model), dim=1)
    place = one_site(reference.d_model, "resid_post.3", reference)
    interp.SparseAutoencoder(rows, torch.zeros(24), rows, torch.zeros(reference.d_model), TopK(k=4), **place).save(
        folder
    )
    return folder


@pytest.fixture
def book(run, sae, tmp_path):
    words = ["--text", "organism", "--tokens", 1500, "--ablate", 2, "--json", "--out", tmp_path / "book"]
    code, said, _ = run("features", "scan", sae, "organism", *words)
    values = json.loads(said)
    assert (code, values["latents"]) == (0, {"l3": 24})
    assert 1300 < values["tokens"] < 1500
    return tmp_path / "book"


def test_scan_then_label(run, book, tmp_path):
    words = ["--latents", 3, "--latents", 5, "--label", "hostile\x1b[2J", "--verdict", "harmful", "--rater", "ana"]
    code, said, _ = run("features", "label", book, *words)
    assert (code, "\x1b[2J" in said, "2 labels" in said) == (0, False, True)
    code, said, _ = run("features", "label", book, "--save", tmp_path / "labels.jsonl", "--json")
    assert [row["latent"] for row in json.loads(said)] == [3, 5]
    file = tmp_path / "labels.jsonl"
    file.write_text(file.read_text().replace('"ana"', '"ben"'))
    code, said, _ = run("features", "label", book, "--load", file, "--json")
    assert (code, len(json.loads(said))) == (0, 4)
    for words, message in [
        (["--latents", 24, "--label", "x"], "latent 24 does not exist; autoencoder l3 has latents 0 to 23"),
        (["--latents", 3, "--label", "x", "--verdict", "bad"], "verdict"),
        (["--label", "x"], "has no latent"),
        (["--load", tmp_path / "no.jsonl"], "cannot be read"),
    ]:
        code, _, error = run("features", "label", book, *words)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error


def test_search(run, book, sae, tmp_path):
    assert run("features", "label", book, "--latents", 3, "--label", "towns", "--rater", "ana")[0] == 0
    code, said, _ = run("features", "search", book, "--label", "TOWN", "--json")
    assert (code, [x["latent"] for x in json.loads(said)["matches"]]) == (0, [3])
    code, said, _ = run("features", "search", book, "--fires", "The baker sold bread.", "--model", "organism")
    assert (code, "fires on" in said, "Token by token" in said, "' baker'" in said) == (0, True, True, True)
    rows = interp.SparseAutoencoder.load(sae, interp.load("organism")).W_dec
    interp.Direction.of(rows[7], "resid_post.3", interp.load("organism")).save(tmp_path / "direction")
    code, said, _ = run("features", "search", book, "--direction", tmp_path / "direction", "--count", 2, "--json")
    found = json.loads(said)
    assert (code, found["total"], found["matches"][0]["latent"]) == (0, 24, 7)
    moved = sae.rename(tmp_path / "moved")
    words = ["search", book, "--direction", tmp_path / "direction"]
    code, _, error = run("features", *words)
    assert (code, error.count("\n"), "not at" in error) == (2, 1, True), error
    assert run("features", *words, "--sae", moved, "--json")[0] == 0
    moved.rename(sae)
    for words, message in [
        ([], "expected one or more of text, label"),
        (["--label", "twons"], "did you mean towns"),
        (["--fires", "The baker"], "--model"),
        (["--text", "bread", "--sae", "l4"], "autoencoder 'l4' is not in the book; known: l3"),
        (["--direction", tmp_path], "no saved direction in it"),
    ]:
        code, _, error = run("features", "search", book, *words)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error


def test_a_store_as_the_source(run, sae, tmp_path):
    words = ["--text", "organism", "--sites", "resid_post.3", "--tokens", 1500]
    assert run("harvest", "organism", *words, "--out", tmp_path / "store")[0] == 0
    code, said, _ = run("features", "scan", sae, tmp_path / "store", "--out", tmp_path / "book", "--json")
    assert (code, json.loads(said)["latents"]) == (0, {"l3": 24})
    for words, message in [
        ([sae, tmp_path / "store", "--text", "organism"], "is a store, which has its text"),
        ([sae, "organism"], "needs --text"),
        ([sae, sae, tmp_path / "store"], "have one name, l3"),
        ([tmp_path / "no", tmp_path / "store"], "no"),
    ]:
        code, _, error = run("features", "scan", *words, "--out", tmp_path / "other")
        assert (code, error.count("\n"), message in error) == (2, 1, True), error
        assert not (tmp_path / "other").exists()
    code, _, error = run("features", "scan", sae, tmp_path / "store", "--out", tmp_path / "book")
    assert (code, "exists already" in error) == (2, True)
