"""A trial is taken as a recipe, and as a checkpoint that is certified and audited on the confirming items."""

import json

import pytest

from interp import InterpError, Recipe, verify
from interp.auditing import Audit
from interp.search import RecipeFile, SweepRecord, pick
from interp.search.sweeps.picking import recipe_at


def test_the_knee_is_written_exported_and_audited_on_items_that_no_trial_saw(small_sweep, whole, tmp_path):
    record = whole
    result = pick(whole.folder, tmp_path / "recipe", checkpoint=tmp_path / "edited", model=small_sweep.model)
    assert result["trial"] == record.front[0].number
    assert Recipe.load(tmp_path / "recipe").digest == result["recipe"]
    assert verify(tmp_path / "edited", base=small_sweep.model).faithful
    audit = Audit.read(tmp_path / "recipe" / "audit.json")
    confirmed = record.confirmed[0]
    for row in audit.rows:
        assert row.after.estimate == pytest.approx(confirmed[row.name].after.estimate, abs=1e-4)
    for place in (whole.folder, tmp_path / "recipe"):
        assert recipe_at(place, small_sweep.model, tmp_path / "sweeps").digest == result["recipe"]
    assert result["kl"] < 1e-6 < abs(record.confirmed[0]["kl"].after.estimate), "of the export, not of the edit"
    with pytest.raises(InterpError, match="trial 9 has no recipe; there are trials 0 to 6"):
        pick(whole.folder, tmp_path / "other", trial=9, model=small_sweep.model)


def test_a_sweep_of_another_model_or_of_other_pairs_gives_no_recipe(small_sweep, whole, tiny, tmp_path):
    with pytest.raises(InterpError, match=r"digests\.model"):
        recipe_at(whole.folder, tiny("gpt2"), tmp_path / "sweeps")
    pairs = small_sweep.folder / "pairs.jsonl"
    before = pairs.read_bytes()
    pairs.write_bytes(before + before.splitlines(keepends=True)[0])
    with pytest.raises(InterpError, match=r"pairs\.jsonl"):
        pick(whole.folder, tmp_path / "recipe", model=small_sweep.model)
    pairs.write_bytes(before)


def test_a_recipes_file_is_built_and_a_sweeps_file_is_run(small_sweep, tmp_path):
    project = {"op": "Project", "sites": "writers", "direction": "d"}
    recipe = {"directions": {"d": {"token": "w5", "site": "resid_post.2"}}, "edits": [project]}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    built = recipe_at(tmp_path / "recipe.yaml", small_sweep.model, tmp_path / "sweeps")
    assert [type(edit.op).__name__ for edit in built.edits] == ["Project"]
    file = small_sweep.folder / "sweep.yaml"
    file.write_text(small_sweep.settings().model_dump_json())
    knee = recipe_at(file, small_sweep.model, tmp_path / "sweeps", trials=2)
    record = SweepRecord.read(tmp_path / "sweeps")
    assert len(record.trials) == 2
    again = RecipeFile.parse(record.front[0].recipe).build(small_sweep.model, folder=small_sweep.folder)
    assert knee.digest == again.digest
    with pytest.raises(InterpError, match="neither a recipe nor a sweep"):
        recipe_at(tmp_path / "none", small_sweep.model, tmp_path / "sweeps")
