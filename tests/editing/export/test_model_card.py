"""The model card of an export, and the decision that it tells."""

import pytest
from huggingface_hub import ModelCard
from release_samples import RECIPE, release

import interp
from interp import InterpError
from interp.editing.certificate.manifest import ExportManifest
from interp.editing.export.model_card import record_depth


def test_the_card_says_what_was_edited_what_for_and_what_was_measured(tiny, tmp_path):
    model = tiny("llama")
    certificate = interp.export(RECIPE, model, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.to_dict()["library_name"] == "transformers"
    assert card.data.tags == ["interp", "edited"]
    assert card.data.base_model is None, "a model in memory has no name on the hub"
    sections = [line for line in card.text.splitlines() if line.startswith("## ")]
    assert sections == [f"## {name}" for name in ("What was edited", "Intended use", "Certificate", "Audit", "Limits")]
    for told in ("Removes nothing in particular.", model.digest[:12], RECIPE.digest[:12], "| Project | embed, "):
        assert told in card.text
    assert f"| KL to the hooked model, nats | {certificate.kl:.3g} |" in card.text
    assert "No audit went with this export" in card.text


def test_a_release_is_kept_in_the_manifest_and_told_in_the_card(tiny, tmp_path):
    model = tiny("llama")
    interp.export(RECIPE, model, tmp_path / "out", release=release(model))
    kept = ExportManifest.at(tmp_path / "out").release
    assert kept == release(model, section="")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "Decision: **allow**." in card
    assert "No audit" not in card
    assert interp.verify(tmp_path / "out", model).faithful
    interp.export(RECIPE, model, tmp_path / "without")
    assert ExportManifest.at(tmp_path / "without").release is None


def test_an_erasure_depth_is_recorded_in_manifest_and_card_and_the_export_still_verifies(tiny, tmp_path):
    model, out = tiny("llama"), tmp_path / "out"
    interp.export(RECIPE, model, out)
    plain = (out / "README.md").read_text()
    for figures in ({"half": 4}, {"half": 8}):
        manifest = record_depth(out, figures, [["fine-tuning", f"half | back after {figures['half']}"]])
        assert ExportManifest.at(out) == manifest
        assert manifest.depth == figures
        card = (out / "README.md").read_text()
        assert card.count("## Erasure depth") == 1, "a later one takes its place"
        assert f"half \\| back after {figures['half']}" in card
        assert card.index("## Audit") < card.index("## Erasure depth") < card.index("## Limits")
        assert card.partition("## Erasure depth")[0] + card[card.index("## Limits") :] == plain
    assert interp.verify(out, model).faithful
    before = {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()}
    record_depth(out, {"half": 8}, [["fine-tuning", "half | back after 8"]])
    assert {file.name: file.read_bytes() for file in out.iterdir() if file.is_file()} == before, "the same bytes again"
    (out / "README.md").write_text(plain.replace("## Limits", "## Other"))
    with pytest.raises(InterpError, match="has no section ## Limits; export the checkpoint again"):
        record_depth(out, {}, [])
    (out / "model.sig").write_text("")
    with pytest.raises(InterpError, match="is signed, so nothing is recorded in it"):
        record_depth(out, {}, [])
    with pytest.raises(InterpError, match="expected a folder written by interp export"):
        record_depth(tmp_path, {}, [])
