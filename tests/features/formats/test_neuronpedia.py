"""Neuronpedia's exports: its fields and types, the book's content, and labels that come back."""

import gzip
import json

import pytest

from interp import InterpError
from interp.features import export_book, read_tool_labels
from interp.features.formats.neuronpedia import read_records

NEURONPEDIA = "neuronpedia-utils: "


def rows(folder, name):
    return [json.loads(line) for line in gzip.decompress((folder / name).read_bytes()).decode().splitlines()]


def test_an_export_has_its_fields_and_the_books_content(described, check, tmp_path):
    out = tmp_path / "out"
    assert export_book(described, out, "neuronpedia", sae="top", latents=[3, 5]) == 2
    records = {"release": "SourceRelease", "model": "Model", "sourceset": "SourceSet", "source": "Source"}
    single = {name: json.loads((out / f"{name}.jsonl").read_text()) for name in records}
    for name, record in records.items():
        check(NEURONPEDIA + record, single[name])
    features, activations, explanations = (
        rows(out, f"{name}/batch-0.jsonl.gz") for name in ("features", "activations", "explanations")
    )
    for record, part in (("Feature", features), ("Activation", activations), ("Explanation", explanations)):
        assert part
        for row in part:
            check(NEURONPEDIA + record, row)
            assert (row["modelId"], row["layer"]) == (single["source"]["modelId"], single["source"]["id"])
    assert [(row["index"], row["hookName"]) for row in features] == [(n, "blocks.1.hook_resid_post") for n in "35"]
    held = {latent: described.latents("sae = 'top' AND latent = ?", [latent])[0] for latent in (3, 5)}
    for row in features:
        book = held[int(row["index"])]
        assert row["frac_nonzero"] == book["density"]
        assert row["topkCosSimIndices"] == [x["latent"] for x in book["nearest_decoder"]]
        mine = [x for x in activations if x["index"] == row["index"]]
        assert len(mine) == len(described.examples(int(row["index"]), "top"))
        assert row["maxActApprox"] == pytest.approx(max(x["maxValue"] for x in mine))
        assert all(x["values"][x["maxValueTokenIndex"]] == x["maxValue"] for x in mine)
    assert len({row["id"] for row in activations}) == len(activations)
    assert [(x["index"], x["description"], x["explanationModelName"]) for x in explanations] == [
        ("3", "towns", "ana"), ("5", "a\nb <c>", "small"),
    ]  # fmt: skip
    export_book(described, tmp_path / "again", "neuronpedia", sae="top", latents=[5, 3, 3])
    for file in out.rglob("*.*"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(out)).read_bytes()


def test_labels_come_back(described, book, tmp_path):
    export_book(described, tmp_path / "out", "neuronpedia", sae="top")
    labels = [(x.latent, x.text, x.rater, x.note) for x in described.labels.current()]
    explanations = tmp_path / "out" / "explanations" / "batch-0.jsonl.gz"
    plain = tmp_path / "batch.jsonl"
    plain.write_bytes(gzip.decompress(explanations.read_bytes()))
    for place in (tmp_path / "out", explanations, plain):
        found = read_tool_labels(place, book.labels, "top")
        assert [(x.latent, x.text, x.rater, x.note) for x in found] == labels
        assert {x.verdict for x in found} == {"unsure"}
    book.labels.add(found)


def test_answers_of_its_api_are_read(book, tmp_path):
    told = {"modelId": "m", "layer": "1-res", "index": "7", "description": "rivers", "explanationModelName": "gpt"}
    feature = {"index": 8, "explanations": [{"description": "lakes", "index": "8"}, {"description": ""}]}
    for content in ([told, feature], {"features": [told, feature]}):
        (tmp_path / "a.json").write_text(json.dumps(content))
        found = read_tool_labels(tmp_path / "a.json", book.labels, "top")
        assert [(x.latent, x.text, x.rater) for x in found] == [(7, "rivers", "gpt"), (8, "lakes", "neuronpedia")]


def test_the_labels_of_a_book_are_read_as_they_are(described, tmp_path):
    described.labels.export(tmp_path / "labels.jsonl")
    assert read_tool_labels(tmp_path / "labels.jsonl", described.labels) == described.labels.current()
    (tmp_path / "empty.jsonl").write_text("")
    assert read_tool_labels(tmp_path / "empty.jsonl", described.labels) == []


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"[1, 2]", "not a feature, a list of them, or a batch"),
        ("a.json", b"{", "not valid JSON"),
        ("a.json", b'[{"index": "1"}]', "has no explanation"),
        ("a.json", b'[{"description": "x"}]', "belongs to latent None; expected its number"),
        ("a.jsonl", b"{}\n[1]\n", "line 2"),
        ("a.jsonl.gz", b"plain", "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b'{"a": 1}\n')[:-9], "cannot be read"),
        ("a.jsonl.gz", gzip.compress(b" " * 200_000), "longer than the bound"),
    ],
)
def test_other_files_are_refused(book, tmp_path, monkeypatch, name, content, message):
    monkeypatch.setenv("INTERP_LIMITS", "file=100kB")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InterpError, match=message) as raised:
        read_tool_labels(tmp_path / name, book.labels, "top")
    assert "\n" not in str(raised.value)


def test_a_folder_without_any_is_refused(book, tmp_path):
    with pytest.raises(InterpError, match="has no explanations; expected files"):
        read_tool_labels(tmp_path, book.labels, "top")
    with pytest.raises(InterpError, match="2 autoencoders; name one"):
        read_tool_labels(tmp_path, book.labels)
    assert read_records(tmp_path) == []
