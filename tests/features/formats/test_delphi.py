"""delphi's layout: activations as its loader reads them, explanations and scores, and labels that come back."""

import json

import pytest
import torch

from interp.core.files import read_tensors
from interp.features import export_book, read_tool_labels


@pytest.fixture
def out(described, tmp_path):
    assert export_book(described, tmp_path / "out", "delphi", sae="top") == 40
    return tmp_path / "out"


def test_activations_are_those_of_the_book(described, out):
    """As its loader does: a latent's rows, with its values at the locations."""
    place = out / "latents" / "top"
    tensors, config = read_tensors(place / "0_39.safetensors"), json.loads((place / "config.json").read_text())
    locations, tokens = tensors["locations"].long(), tensors["tokens"]
    assert tensors["locations"].dtype == torch.uint16
    assert tokens.shape[1] == config["ctx_len"] == 7
    assert int(locations[:, 0].max()) < len(tokens)
    assert len(locations.unique(dim=0)) == len(locations)
    dense = torch.zeros(len(tokens), 7, 40, dtype=torch.float16)
    dense[tuple(locations.T)] = tensors["activations"]
    background = described.query("SELECT * FROM background WHERE sae = 'top'")
    assert config["complete_rows"] == len(background)
    for row, window in enumerate(background):
        assert tokens[row, : len(window["ids"])].tolist() == window["ids"]
        found = {(int(latent), int(token)) for token, latent in dense[row].nonzero()}
        assert found == {*zip(window["latents"], window["positions"], strict=True)}
    texts = [tuple(row.tolist()) for row in tokens]
    for example in described.examples(5, "top"):
        ids, values = example["ids"], torch.tensor(example["values"])
        padded = tuple(ids + [0] * (7 - len(ids)))
        rows = [row for row, text in enumerate(texts) if text == padded]
        assert any(torch.allclose(dense[row, : len(ids), 5].float(), values, rtol=1e-2, atol=1e-2) for row in rows)


def test_explanations_and_scores(described, out, check):
    explanations = {file.name: json.loads(file.read_text()) for file in (out / "explanations").iterdir()}
    assert explanations == {"top_latent3.txt": "towns", "top_latent5.txt": "a\nb <c>"}
    detection, fuzz = (json.loads((out / "scores" / x / "top_latent5.txt").read_text()) for x in ("detection", "fuzz"))
    for row in (*detection, *fuzz):
        check("eai-delphi 0.1.3: ClassifierOutput", row)
        assert len(row["str_tokens"]) == len(row["activations"])
    assert [row["activating"] for row in detection] == [True] * 4 + [False] * 4
    assert all(any(row["activations"]) == row["activating"] for row in detection)
    assert [row["correct"] for row in detection] == [True] * 4 + [None] * 4
    assert (fuzz[0]["activating"], fuzz[0]["prediction"], fuzz[0]["correct"]) == (False, True, False)


def test_explanations_come_back_as_labels(described, out, book):
    for place in (out, out / "explanations"):
        found = read_tool_labels(place, book.labels, "top")
        assert [(x.latent, x.text, x.rater) for x in found] == [(3, "towns", "delphi"), (5, "a\nb <c>", "delphi")]
    (out / "explanations" / "layers.3.mlp_latent7.txt").write_text("rivers, as plain text")
    (out / "explanations" / "README.txt").write_text("no explanation")
    assert [x.latent for x in read_tool_labels(out, book.labels, "top")] == [7, 3, 5]


def test_latents_that_never_fire_and_books_without_labels(book, tmp_path):
    export_book(book, tmp_path / "out", "delphi", sae="jump", latents=[0, 1])
    assert read_tensors(tmp_path / "out" / "latents" / "jump" / "0_23.safetensors")["locations"].shape == (0, 3)
    assert not (tmp_path / "out" / "scores").exists()
