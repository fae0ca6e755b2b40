"""Recipes: saved and loaded whole, refused on another model, and the same object everywhere."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_samples import autoencoder

import interp
from interp import Add, At, Clamp, InterpError, Project, Recipe
from interp.directions.direction import Direction
from interp.editing import plan_fold
from interp.interventions import Cap, Gate, Knockout, Reads, Scale, Schedule
from interp.models.sites import Site

OPS = (
    lambda model: Project(direction(model, k=2), 0.7),
    lambda model: Add(direction(model), 3.0),
    lambda model: Add(direction(model), 0.5, relative=True),
    lambda model: Cap(direction(model), high=-1.0),
    lambda model: Clamp(autoencoder(model), [3, 4], 5.0),
    lambda model: At(Add(direction(model), 3.0), "last"),
    lambda model: Schedule(Add(direction(model), 3.0), [1.0, 0.5], 0.2),
    lambda model: Gate(Add(direction(model), 3.0), Reads(direction(model), -9.0)),
)
IDS = torch.randint(4, 128, (2, 7), generator=torch.Generator().manual_seed(1))


def direction(model, seed=0, k=1):
    rows = torch.randn(k, model.d_model, generator=torch.Generator().manual_seed(seed))
    return Direction(rows, Site("resid_post", 1), -1, "diff_means", model.reference, "0" * 64, {"auroc": 0.9})


def test_a_saved_recipe_does_what_it_did(tiny, tmp_path):
    model = tiny("llama")
    found = direction(model)
    recipe = Recipe(
        [("writers", Project(found)), (["mlp_out.*", "embed"], Add(found, 0.3)), ("mlp_out.1", Add(torch.ones(32)))]
    )
    recipe.save(tmp_path / "recipe")
    again = Recipe.load(tmp_path / "recipe")
    assert again.digest == recipe.digest
    assert sorted(file.name for file in (tmp_path / "recipe").iterdir()) == ["recipe.json", "recipe.safetensors"]
    plain = model.logits(IDS)
    with model.hooked(recipe):
        edited = model.logits(IDS)
    with model.hooked(again):
        torch.testing.assert_close(model.logits(IDS), edited, rtol=0, atol=0)
    assert (edited - plain).abs().max() > 1e-2


def test_a_direction_is_saved_whole(tiny, tmp_path):
    found = direction(tiny("llama"), k=3)
    found.save(tmp_path / "direction")
    again = Direction.load(tmp_path / "direction")
    assert torch.equal(again.rows, found.rows)
    assert again.to_json() == found.to_json()


def test_a_projection_at_every_writer_empties_the_residual_stream(tiny):
    for name in ("llama", "gpt2", "gpt_neox"):
        model = tiny(name)
        found = direction(model)
        plain = model.capture(IDS, "resid_post.*")
        with model.hooked(Recipe([("writers", Project(found))])):
            edited = model.capture(IDS, "resid_post.*")
        for site in edited.sites:
            assert found.read(plain[site]).abs().max() > 0.05
            assert found.read(edited[site]).abs().max() < 1e-5


@given(strength=st.floats(-2, 2), number=st.integers(0, len(OPS) - 1))
def test_at_a_strength_it_does_that_share_of_what_it_does(tiny, strength, number):
    model, site = tiny("llama"), "resid_post.1"
    recipe = Recipe([(site, OPS[number](model))])
    x = model.capture(IDS, site)[site]
    values = []
    for each in (recipe, recipe.scaled(strength)):
        with model.hooked(each):
            values.append(model.capture(IDS, site)[site])
    whole, part = values
    torch.testing.assert_close(part, x + strength * (whole - x), rtol=1e-4, atol=1e-4)
    assert (whole - x).abs().max() > 0.1, "control"


def test_strength_one_is_the_recipe_itself_and_some_ops_have_no_other(tiny):
    model = tiny("llama")
    recipe = Recipe([("writers", Project(direction(model))), ("z.1", Knockout("last", 0))], note="both")
    assert recipe.scaled(1) is recipe
    with pytest.raises(InterpError, match="Knockout can't be inside another op"):
        recipe.scaled(0.5)
    with pytest.raises(InterpError, match="strength is nan; expected a finite number"):
        recipe.scaled(float("nan"))
    half = Recipe(recipe.edits[:1]).scaled(0.5).edits[0].op
    assert (type(half), half.scale) == (Project, 0.5), "which folds"
    factors = Recipe([("z.1", Scale(torch.tensor([0.0, 1.0, 2.0, 1.0])))]).scaled(0.5).edits[0].op
    assert factors.factors.tolist() == [0.5, 1.0, 1.5, 1.0], "which folds, too"


def test_another_models_recipe_is_refused(tiny):
    recipe = Recipe([("writers", Project(direction(tiny("llama"))))])
    other = tiny("llama", seed=1)
    with pytest.raises(InterpError, match="made for tiny llama 0 with weights"), other.hooked(recipe):
        pass
    with other.hooked(recipe.retarget(other)):
        other.logits(IDS)
    with pytest.raises(InterpError, match=r"Project at z\.1: it acts on vectors of the residual stream"):
        Recipe([("z.1", Project(torch.ones(32)))]).bind(other)
    narrow = Recipe([("writers", Project(torch.ones(16)))])
    with pytest.raises(InterpError, match="of width 16, but tiny llama 1 has d_model 32"), other.hooked(narrow):
        pass
    with pytest.raises(InterpError, match="come from different models"):
        Recipe([("writers", Project(direction(tiny("llama")))), ("writers", Project(direction(other)))])


def test_edits_keep_the_format_that_they_were_saved_in(tiny, tmp_path):
    push = Add(torch.ones(32))
    Recipe([("resid_post.1", At(push, "generated")), ("writers", Project(torch.ones(32)))]).save(tmp_path / "new")
    plain = json.loads((tmp_path / "new" / "recipe.json").read_text())
    assert plain["format"] == 2
    new = Recipe.load(tmp_path / "new")
    (tmp_path / "new" / "recipe.json").write_text(json.dumps(plain | {"format": 1}))
    old = Recipe.load(tmp_path / "new")
    assert [edit.format for edit in (*new.edits, *old.edits)] == [2, 2, 1, 1]
    assert new.digest != old.digest
    assert Recipe(new.edits[1:]).digest == Recipe(old.edits[1:]).digest, "control: it means the same"
    mixed = Recipe([*old.edits, *new.edits])
    mixed.save(tmp_path / "mixed")
    again = Recipe.load(tmp_path / "mixed")
    assert [edit.format for edit in again.edits] == [1, 1, 2, 2]
    assert again.digest == mixed.digest


def test_broken_recipes_are_named(tiny, tmp_path):
    with pytest.raises(InterpError, match="at least one edit"):
        Recipe([])
    recipe = Recipe([("writers", Project(direction(tiny("llama"))))])
    recipe.save(tmp_path / "recipe")
    with pytest.raises(InterpError, match="exists already"):
        recipe.save(tmp_path / "recipe")
    recipe.save(tmp_path / "recipe", overwrite=True)
    file = tmp_path / "recipe" / "recipe.json"
    plain = json.loads(file.read_text())
    edit = plain["edits"][0]
    for change, message in [
        ({"format": 9}, "format is 9; expected 1 or 2"),
        ({"edits": [edit | {"op": "Projekt"}]}, "did you mean Project"),
        ({"edits": [edit | {"settings": {}}]}, "edit 0 .Project. is incomplete"),
        ({"notes": ""}, "unknown key 'notes'; did you mean note"),
    ]:
        file.write_text(json.dumps(plain | change))
        with pytest.raises(InterpError, match=message):
            Recipe.load(tmp_path / "recipe")
    file.write_text("{")
    with pytest.raises(InterpError, match="not valid JSON"):
        Recipe.load(tmp_path / "recipe")
    with pytest.raises(InterpError, match="cannot be read"):
        Recipe.load(tmp_path / "nowhere")


def test_an_old_recipe_of_writers_is_refused_where_a_norm_follows_them(tiny, tmp_path):
    """Format 1 meant what the norm lets out; a new recipe has another digest, and an old one can be put before it."""
    digests = {}
    for name in ("llama", "gemma2"):
        model = tiny(name)
        recipe = Recipe([("writers", Project(direction(model)))])
        recipe.save(tmp_path / name)
        file = tmp_path / name / "recipe.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"format": 1}))
        old = Recipe.load(tmp_path / name)
        digests[name] = {recipe.digest, old.digest}
        assert ("raw outputs" in str(recipe)) == (name == "gemma2")
        if name == "llama":
            old.check(model.reference)
            continue
        with pytest.raises(InterpError, match="older version, for which 'writers' of gemma2 was after the norm"):
            old.bind(model)
        with pytest.raises(InterpError, match="older version"):
            interp.export(old, model, tmp_path / "out")
        with pytest.raises(InterpError, match="older version"):
            plan_fold(old, model.config, model.hf.state_dict(), tied=True)
        assert old.before_norms(model).bind(model)
    assert [len(digests[name]) for name in ("llama", "gemma2")] == [1, 2]
