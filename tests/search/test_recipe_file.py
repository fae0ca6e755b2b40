"""A recipe file builds what the same Python builds, gives its own data back, and says what is wrong, and where."""

import pytest
import torch
from word_contrasts import last_words

import interp
from interp import Direction, InterpError, Project, Recipe
from interp.search import RecipeFile

TOXIC = {"token": "w9", "site": "resid_post.1"}


def file(*edits, **directions):
    return RecipeFile.parse({"directions": {"toxic": TOXIC} | directions, "edits": list(edits)}, "recipe.yaml")


def test_it_is_the_recipe_that_python_makes(tiny, tmp_path):
    model = tiny("llama")
    row = interp.attribution.Lens().direction(model, model.to_single_token("w9"), "resid_post.1")
    data = file({"op": "Project", "sites": "writers", "direction": "toxic", "strength": 0.5})
    expected = Recipe([("writers", Project(row, scale=0.5))], model.reference)
    assert data.build(model).exact_digest == expected.exact_digest
    data.build(model).save(tmp_path / "recipe")
    assert Recipe.load(tmp_path / "recipe").exact_digest == expected.exact_digest
    other = file({"op": "Project", "sites": "writers", "direction": "toxic", "strength": 0.4})
    assert other.build(model).exact_digest != expected.exact_digest, "control"


def test_its_plain_data_build_it_again(tiny):
    strength, gate = {"attn": 0.2, "mlp": {"centre": 1, "width": 2}}, {"direction": "toxic", "threshold": 0.1}
    data = file(
        {"op": "Project", "sites": "writers", "direction": "toxic", "strength": strength},
        {"op": "Scale", "heads": ["0.3", 1.2], "factor": 0},
        {"op": "Add", "sites": ["resid_post.1"], "direction": "toxic", "gate": gate},
    )
    again = RecipeFile.parse(data.model_dump(exclude_unset=True, mode="json"))
    assert again == data
    assert again.build(tiny("llama")).exact_digest == data.build(tiny("llama")).exact_digest


def test_its_strength_is_a_factor_of_all_edits(tiny):
    edits = {"op": "Project", "sites": "writers", "direction": "toxic", "strength": 0.8}, {
        "op": "Cap", "sites": "resid_post.1", "direction": "toxic", "high": 1.0,
    }  # fmt: skip
    data = file(*edits)
    half = RecipeFile.parse(data.model_dump(exclude_unset=True) | {"strength": 0.5})
    assert half.build(tiny("llama")).exact_digest == data.build(tiny("llama")).scaled(0.5).exact_digest
    whole = data.model_copy(update={"strength": 1.0})
    assert whole.build(tiny("llama")).exact_digest == data.build(tiny("llama")).exact_digest
    with pytest.raises(InterpError, match="strength"):
        file(*edits).parse(data.model_dump(exclude_unset=True) | {"strength": "half"})


def test_directions_that_are_fitted_are_not_fitted_again(tiny):
    model, row = tiny("llama"), torch.randn(32, generator=torch.Generator().manual_seed(0))
    data = file(
        {"op": "Project", "sites": "resid_post.2", "direction": "missing"},
        missing={"contrast": "no/such/file.jsonl", "site": "resid_post.1"},
    )
    with pytest.raises(InterpError, match=r"direction 'missing': .*cannot be read"):
        data.build(model)
    fitted = {"missing": Direction.of(row, "resid_post.1", model)}
    assert torch.equal(data.build(model, fitted).edits[0].op.rows, fitted["missing"].rows)


def test_what_is_wrong_is_said(tiny):
    project = {"op": "Project", "sites": "writers", "direction": "toxic"}
    wrong = {
        "needs at least one edit": [],
        "unknown op 'Projct'; did you mean Project": [project | {"op": "Projct"}],
        "unknown direction 'toxi'; did you mean toxic": [project | {"direction": "toxi"}],
        "Project takes no 'latents'; it takes direction, layers, sites, strength": [project | {"latents": [1]}],
        "Project has no sites; it needs one: sites": [{"op": "Project", "direction": "toxic"}],
        "Gate holds another op; name that op": [{"op": "Gate"}],
    }
    for message, edits in wrong.items():
        with pytest.raises(InterpError, match=message):
            file(*edits)
    with pytest.raises(InterpError, match=r"edits.0 \(Project\): unknown site"):
        file(project | {"sites": "resid_pots.1"}).build(tiny("llama"))


def test_pairs_of_a_file_are_fitted(tiny, tmp_path):
    model, pairs = tiny("llama"), last_words()
    lines = [f'{{"positive": "{p.positive.prompt}", "negative": "{p.negative.prompt}"}}' for p in pairs.pairs]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    source = {"contrast": "pairs.jsonl", "site": "resid_post.1", "method": "lda"}
    data = file({"op": "Project", "sites": "writers", "direction": "word"}, word=source)
    (edit,) = data.build(model, folder=tmp_path).edits
    expected = interp.directions.fit_direction(model, pairs, "lda", "resid_post.1").direction
    assert torch.equal(edit.op.rows, expected.rows)
