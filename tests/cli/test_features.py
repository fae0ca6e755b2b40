"""`interp features` on the organism: scan, label, and errors of one line."""

import json

import pytest
import torch
from describers import KEY, constant
from sae_samples import draw
from tiny_models import one_site
from torch.nn.functional import normalize

import interp
from interp.features import Book
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
    words = ["--latents", "3, 5", "--label", "hostile\x1b[2J", "--verdict", "harmful", "--rater", "ana"]
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
        (["--latents", "3-5", "--label", "x"], "--latents is '3-5'; expected a whole number"),
        (["--latents", "3,five", "--label", "x"], "latents"),
        (["--latents", 3, "--rater", "ana", "--verdict", "harmful"], "--latents needs --label TEXT"),
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


def test_an_endpoint_describes_and_the_cost_is_told_first(run, book, chat_server, monkeypatch):
    chat_server.says = [constant]
    monkeypatch.setenv("DESCRIBE_KEY", KEY)
    words = ["features", "describe", book, "--endpoint", chat_server.url, "--model", "small", "--latents", 3]
    words += ["--latents", 8, "--shown", 3, "--tested", 4, "--key-variable", "DESCRIBE_KEY"]
    code, said, _ = run(*words, "--dry-run", "--price-in", 2, "--price-out", 10, "--json")
    cost = json.loads(said)
    assert (code, chat_server.seen) == (0, [])
    assert cost["price"] == pytest.approx((2 * cost["tokens_in"] + 10 * cost["tokens_out"]) / 1e6)
    code, said, error = run(*words, "--json")
    described = json.loads(said)
    assert (code, [x["text"] for x in described["descriptions"]]) == (0, ["a word"] * 2), error
    assert len(chat_server.seen) <= cost["requests"]
    assert {row["test"] for row in described["tests"]} == {"detection", "fuzzing"}
    code, said, _ = run(*words)
    assert (code, "2 latents described by small" in said, "shuffled d" in said) == (0, True, True)
    code, said, _ = run("features", "label", book)
    assert (code, "a word" in said, "small" in said) == (0, True, True)
    code, said, _ = run("features", "search", book, "--label", "a word", "--json")
    assert [x["latent"] for x in json.loads(said)["matches"]] == [3, 8]
    assert not any(KEY.encode() in file.read_bytes() for file in book.iterdir())
    monkeypatch.delenv("DESCRIBE_KEY")
    for more, message in [
        ([], "environment variable DESCRIBE_KEY is not set"),
        (["--endpoint", "x.org", "--key-variable", ""], "expected a URL such as"),
        (["--key-variable", "", "--latents", 24], "latent 24 does not exist"),
        (["--key-variable", "", "--sae", "l4"], "is not in the book"),
    ]:
        code, _, error = run(*words, *more)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error
    chat_server.says = [503]
    code, _, error = run(*words, "--key-variable", "", "--latents", 9, "--retries", 0)
    assert (code, error.count("\n"), "the same command continues" in error) == (2, 1, True), error


def test_export_then_labels_of_other_tools(run, book, tmp_path):
    assert run("features", "label", book, "--latents", 3, "--label", "towns", "--rater", "ana")[0] == 0
    raters = set()
    for form, inside in [("neuronpedia", "explanations"), ("delphi", "explanations"), ("saedashboard", None)]:
        words = ["features", "export", book, "--form", form, "--latents", "3,8", "--json"]
        code, said, _ = run(*words, "--out", tmp_path / form)
        assert (code, json.loads(said)["latents"]) == (0, 2)
        if inside:
            code, said, _ = run("features", "label", book, "--load", tmp_path / form / inside, "--json")
            assert (code, {row["text"] for row in json.loads(said)}) == (0, {"towns"})
            raters |= {row["rater"] for row in json.loads(said)}
    assert raters == {"ana", "delphi"}
    vectors = json.loads((tmp_path / "saedashboard" / "batch-0.json").read_text())["features"][0]["vector"]
    assert len(vectors) == interp.load("organism").d_model
    for words, message in [
        (["--form", "html5", "--out", tmp_path / "o"], "form"),
        (["--form", "delphi", "--out", tmp_path / "delphi"], "exists already"),
        (["--form", "delphi", "--out", tmp_path / "o", "--latents", 24], "latent 24 does not exist"),
        (["--form", "delphi", "--out", tmp_path / "o", "--sae", "l4"], "'l4' is not in the book"),
        (["--form", "delphi", "--out", tmp_path / "o", "--sae", "l3", "--sae", "l4"], "takes one --sae NAME"),
        (["--out", tmp_path / "o", "--latents", 3], "--latents goes with another --form"),
    ]:
        code, _, error = run("features", "export", book, *words)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error
    assert not (tmp_path / "o").exists()


def test_a_local_model_describes(run, book):
    words = ["--latents", "3,8", "--shown", 2, "--tested", 2, "--per-request", 1, "--max-tokens", 4]
    code, said, error = run("features", "describe", book, "--model", "organism", *words, "--no-control", "--json")
    assert code == 0, error
    described = json.loads(said)
    assert len(described["descriptions"]) + len(described["undescribed"]) == 2
    assert all(test["missing"] == 0 for test in described["tests"]), "a local model can say nothing but 0 and 1"
    replies = [json.loads(line) for line in (book / "replies.jsonl").read_text().splitlines()]
    model = interp.load("organism")
    assert {row["machine"] for row in replies} == {model.name}
    code, _, error = run("features", "describe", book, "--model", "organism", "--key-variable", "HOME")
    assert (code, error.count("\n"), "goes with --endpoint" in error) == (2, 1, True)


def test_labels_name_latents_in_recipes_and_curations(run, book, sae, tmp_path):
    assert (
        run("features", "label", book, "--latents", 3, "--latents", 7, "--label", "old towns", "--rater", "ana")[0] == 0
    )
    file = tmp_path / "towns.yaml"
    file.write_text(
        f"model: organism\nedits:\n  - {{op: Clamp, sae: {sae}, book: book, latents: [book:old towns, 5], value: 0}}\n"
    )
    code, said, _ = run("recipe", "build", file, "--out", tmp_path / "named", "--json")
    by_hand = file.read_text().replace("book:old towns, 5", "3, 7, 5").replace("book: book, ", "")
    (tmp_path / "by_hand.yaml").write_text(by_hand)
    digest = json.loads(run("recipe", "build", tmp_path / "by_hand.yaml", "--out", tmp_path / "by_hand", "--json")[1])
    assert (code, json.loads(said)) == (0, digest | {"folder": str(tmp_path / "named")})
    assert "book:old towns: 3, 7" in " ".join(run("recipe", "show", tmp_path / "named")[1].split())
    shown = json.loads(run("recipe", "show", tmp_path / "named", "--json")[1])
    kept = {"label": "old towns", "latents": [3, 7], "book": Book.open(book).digest}
    assert shown["edits"][0]["named"] == [kept]
    words = ["--model", "organism", "--sae", sae, "--book", book, "--latents", "book:old towns,5", "--threshold", 0.1]
    (tmp_path / "text.jsonl").write_text('{"text": "The baker sold bread."}\n{"text": "Rain fell all day."}\n')
    code, _, error = run("curate", tmp_path / "text.jsonl", *words, "--out", tmp_path / "curated")
    assert code == 0, error
    record = json.loads((tmp_path / "curated" / "curation.json").read_text())
    assert (record["settings"]["latents"], record["settings"]["named"]) == ([3, 7, 5], [kept])
    words[words.index("book:old towns,5")] = "book:towns"
    code, _, error = run("curate", tmp_path / "text.jsonl", *words, "--out", tmp_path / "other")
    assert (code, error.count("\n"), "did you mean old towns" in error) == (2, 1, True), error
    assert not (tmp_path / "other").exists()


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


def test_what_is_cheap_to_check_is_checked_before_a_model_is_loaded(run, book, sae, tmp_path, monkeypatch):
    words = ["--text", "organism", "--sites", "resid_post.3", "--tokens", 1500]
    assert run("harvest", "organism", *words, "--out", tmp_path / "store")[0] == 0
    assert run("features", "label", book, "--latents", 3, "--label", "towns")[0] == 0
    monkeypatch.setattr("interp.models.loading.load", lambda *_, **__: pytest.fail("the model was loaded"))
    scan, out = ["features", "scan"], ["--out", tmp_path / "other"]
    stored = [tmp_path / "store", "--model", "organism", *out]
    for line, message in [
        ([*scan, sae, "organism", "--text", tmp_path / "no.jsonl", *out], "no.jsonl"),
        ([*scan, tmp_path / "no", "organism", "--text", "organism", *out], "no autoencoder is there"),
        ([*scan, tmp_path / "no", *stored], "no autoencoder is there"),
        ([*scan, tmp_path, *stored], "no autoencoder"),
        (["features", "search", book, "--fires", "The baker", "--model", "organism", "--label", "twons"], "towns"),
        (["features", "search", book, "--fires", "The baker", "--model", "organism", "--sae", "l4"], "'l4' is not in"),
        (["features", "describe", book, "--model", "organism", "--latents", "3,24"], "latent 24 does not exist"),
        (["features", "describe", book, "--model", "organism", "--latents", 3, "--sae", "l4"], "'l4' is not in"),
    ]:
        code, _, error = run(*line)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error


def test_pages_as_files_and_what_browse_refuses(run, book, sae, tmp_path):
    (tmp_path / "report.html").write_text("<p>a report</p>")
    code, said, _ = run(
        "features", "export", book, "--out", tmp_path / "pages", "--link", tmp_path / "report.html", "--json"
    )
    values = json.loads(said)
    assert (code, values["open"]) == (0, str(tmp_path / "pages" / "index.html"))
    assert values["pages"] == len(list((tmp_path / "pages").glob("*.html"))) > 24
    for words, message in [
        ([tmp_path], "is no feature book"),
        ([book, "--sae", "l3"], "NAME=FOLDER"),
        ([book, "--sae", "l4=x"], "autoencoder 'l4' is not in the book"),
        ([book, "--link", sae / "no.html"], "is no HTML file"),
        ([book, "--beside", tmp_path], "is no feature book"),
        ([book, "--model", "organism-bilingual"], "this book"),
    ]:
        code, _, error = run("browse", *words)
        assert (code, error.count("\n"), message in error) == (2, 1, True), error
