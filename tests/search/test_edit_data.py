"""Edits as data: every op by name, with its options, is the op that Python makes."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sae_samples import autoencoder
from safetensors.torch import save_file

import interp
from interp.auditing._random_recipes import randomise
from interp.features import FeatureLabel, ScanOptions, scan
from interp.interventions import Cap, Erase, Knockout, LowRank, Replace, Resample, Scale, bank
from interp.interventions.op import OPS
from interp.search import RecipeFile
from interp.search.edit_data import _OPS, _WRAPPERS

TOKEN = {"token": "w9", "site": "resid_post.1"}


def build(model, *edits, folder="."):
    return RecipeFile.parse({"directions": {"w9": TOKEN}, "edits": list(edits)}).build(model, folder=folder)


def test_every_op_can_be_written(tiny, tmp_path):
    assert {*_OPS, *_WRAPPERS} == {*OPS, "Saved"}
    model, sae = tiny("llama"), autoencoder(tiny("llama"))
    sae.save(tmp_path / "sae")
    (tmp_path / "texts.txt").write_text("w5 w6 w7\n\nw8 w9 w10")
    rows, one, mean = torch.eye(32)[:1], torch.ones(1), torch.ones(32)
    save_file({"rows": rows, "weight": 2 * rows.clone(), "bias": one}, tmp_path / "low_rank.safetensors")
    save_file({"read": rows, "write": 2 * rows.clone(), "mean": mean}, tmp_path / "erase.safetensors")
    texts = list(interp.data.documents(tmp_path / "texts.txt"))
    values = bank(model, [text.text for text in texts] if hasattr(texts[0], "text") else texts, "mlp_out.1")
    w9 = interp.attribution.Lens().direction(model, model.to_single_token("w9"), "resid_post.1")
    cases = [
        ({"op": "LowRank", "sites": "mlp_out.1", "tensors": "low_rank.safetensors"}, LowRank(rows, 2 * rows, one)),
        ({"op": "Erase", "sites": "resid_post.1", "tensors": "erase.safetensors"}, Erase(rows, 2 * rows, mean)),
        ({"op": "Cap", "sites": "resid_post.1", "direction": "w9", "low": 3.0}, Cap(w9, low=3.0)),
        ({"op": "Clamp", "sae": "sae", "latents": [3, 4], "value": 2.0}, interp.Clamp(sae, [3, 4], 2.0)),
        ({"op": "Replace", "sites": "mlp_out.1", "texts": "texts.txt"}, Replace(values.mean(0))),
        ({"op": "Resample", "sites": "mlp_out.1", "texts": "texts.txt", "seed": 3}, Resample(values, seed=3)),
        ({"op": "Replace", "neurons": ["1.40", 1.7]}, Replace(units=[40, 7])),
        ({"op": "Scale", "heads": [1.2], "factor": 0.5}, Scale(torch.tensor([1, 1, 0.5, 1]))),
        ({"op": "Knockout", "heads": ["1.2"], "queries": ["last"], "keys": [0]}, Knockout(["last"], [0], [2])),
    ]  # fmt: skip
    ids = model.tokens("w5 w6 w7 w8 w9")
    for edit, op in cases:
        recipe = build(model, edit, folder=tmp_path)
        expected = interp.Recipe([(recipe.edits[0].sites, op)])
        with model.hooked(recipe):
            logits = model.logits(ids)
        with model.hooked(expected):
            assert torch.equal(logits, model.logits(ids)), edit["op"]
        assert not torch.equal(logits, model.logits(ids)), "control: it acts"


def test_a_saved_recipe_is_an_edit(tiny, tmp_path):
    model, other = tiny("llama"), tiny("llama", seed=1)
    w9 = interp.attribution.Lens().direction(model, model.to_single_token("w9"), "resid_post.1")
    saved = interp.Recipe([("writers", interp.Project(w9)), ("resid_post.1", Cap(w9, high=1.0))])
    saved.save(tmp_path / "saved")
    whole = build(model, {"op": "Saved", "recipe": "saved"}, folder=tmp_path)
    assert whole.exact_digest == saved.exact_digest
    part = build(model, {"op": "Saved", "recipe": "saved", "positions": ["generated"]}, folder=tmp_path)
    assert [type(edit.op).__name__ for edit in part.edits] == ["At", "At"]
    with pytest.raises(interp.InterpError, match=r"edits.0 \(Saved\)"):
        build(other, {"op": "Saved", "recipe": "saved"}, folder=tmp_path)
    with pytest.raises(interp.InterpError, match="no/such"):
        build(model, {"op": "Saved", "recipe": "no/such"}, folder=tmp_path)
    values = json.loads((tmp_path / "saved" / "recipe.json").read_text())
    (tmp_path / "saved" / "recipe.json").write_text(json.dumps(values | {"format": 1}))
    with pytest.raises(interp.InterpError, match="older format"):
        build(model, {"op": "Saved", "recipe": "saved"}, folder=tmp_path)


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    """A folder with an autoencoder and its book: latents 3 and 9 are hostile, and latent 4 is kind."""
    model, folder = tiny("llama"), tmp_path_factory.mktemp("named")
    sae = autoencoder(model)
    sae.save(folder / "sae")
    book = scan(sae, model, folder / "book", ScanOptions(context=16, top=2), texts=["w5 w6 w7 w8"] * 3)
    texts = {3: "hostile", 4: "kind", 9: "hostile"}
    book.labels.add([FeatureLabel(sae="sae", latent=n, text=text, rater="ana") for n, text in texts.items()])
    return folder


def test_latents_by_label_make_the_recipe_of_their_numbers(tiny, folder, tmp_path):
    model, numbers = tiny("llama"), {"book:hostile": [3, 9], "book:Kind": [4]}
    reads = {"sae": "sae", "book": "book"}

    def recipe(latents, one, kept=()):
        place = {"op": "Clamp", **reads, "latents": latents, "value": 2.0}
        along = {"op": "Project", "sites": "resid_post.1", "direction": "row"}
        edits = [place, along, along | {"gate": {**reads, "latent": one, "threshold": 0.1}, "sites": "mlp_out.2"}]
        directions = {"row": {**reads, "latent": one}}
        return RecipeFile.parse({"directions": directions, "edits": edits}).build(model, folder=folder)

    @settings(max_examples=8)
    @given(st.lists(st.sampled_from([*numbers, 0, 7]), min_size=1, unique=True))
    def check(names):
        by_hand = [n for name in names for n in numbers.get(name, [name])]
        named, plain = recipe(names, "book:kind"), recipe(by_hand, 4)
        assert (named.digest, named.exact_digest) == (plain.digest, plain.exact_digest)
        meant = [(label.label, list(label.latents)) for label in named.edits[0].named]
        assert meant == [(name.removeprefix("book:"), numbers[name]) for name in names if name in numbers]
        assert [len(edit.named) for edit in named.edits[1:]] == [1, 2], "a direction's, and a gate's too"
        assert not any(edit.named for edit in plain.edits)
        named.save(tmp_path / "named", overwrite=True)
        loaded = interp.Recipe.load(tmp_path / "named")
        assert [edit.named for edit in loaded.edits] == [edit.named for edit in named.edits]
        assert loaded.digest == named.digest
        within = build(model, {"op": "Saved", "recipe": str(tmp_path / "named")})
        assert [edit.named for edit in within.edits] == [edit.named for edit in named.edits]
        assert recipe([*by_hand, 11], 4).digest != plain.digest, "control"

    check()
    named = recipe(["book:hostile"], 4)
    assert [edit.named for edit in randomise(interp.Recipe(named.edits[:1]), model).edits] == [()], "other latents"
    assert named.before_norms(model).edits[0].named == named.edits[0].named


def test_wrong_labels_name_the_edit(tiny, folder):
    model, row = tiny("llama"), {"op": "Project", "sites": "resid_post.1", "direction": "row"}
    clamp = {"op": "Clamp", "sae": "sae", "book": "book", "latents": ["book:hostile"]}
    for message, file in [
        (
            r"edits.0 \(Clamp\): no latent of sae has .* 'x'; known: hostile, kind",
            [clamp | {"latents": ["book:x"]}],
        ),
        (r"edits.0 \(Clamp\): latent 'book:hostile' can't be looked up", [{**clamp, "book": None}]),
        (r"edits.0 \(Clamp\): .*is no feature book", [clamp | {"book": "sae"}]),
        ("Clamp has 5 twice", [clamp | {"latents": [5, 5]}]),
        (
            "edits.0.latents.0.* 'hostile' can't be read; expected a number from 0, or book:LABEL",
            [clamp | {"latents": ["hostile"]}],
        ),
        ("Project takes no 'book'", [{**row, "direction": "w9", "book": "book"}]),
    ]:
        with pytest.raises(interp.InterpError, match=message) as caught:
            build(model, *file, folder=folder)
        assert "\n" not in str(caught.value)


def test_a_label_of_several_latents_is_the_subspace_of_their_rows(tiny, folder):
    model = tiny("llama")
    source = {"row": {"sae": "sae", "book": "book", "latent": "book:hostile"}}
    row = {"op": "Project", "sites": "writers", "direction": "row"}
    (edit,) = RecipeFile.parse({"directions": source, "edits": [row]}).build(model, folder=folder).edits
    rows = autoencoder(model).W_dec[[3, 9]]
    torch.testing.assert_close(edit.op(rows), torch.zeros(2, 32), atol=1e-5, rtol=0)
    assert edit.op(autoencoder(model).W_dec[[4]]).abs().max() > 0.1, "control"
