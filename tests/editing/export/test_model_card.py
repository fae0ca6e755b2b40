"""The model card of an export, and the decision that it tells."""

from huggingface_hub import ModelCard
from release_samples import RECIPE, release

import interp
from interp.editing.certificate.manifest import ExportManifest


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
