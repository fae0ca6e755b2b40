"""The provenance statement names the weight files, the recipe, and the data of directions, by their digests."""

import json

import torch

from interp import Project, Recipe
from interp.core.files import sha256_file
from interp.directions.direction import Direction
from interp.editing.export.exporter import export_streamed
from interp.editing.export.provenance import provenance_statement
from interp.models.checkpoints.checkpoint import Checkpoint
from interp.models.sites import Site

ROWS = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
RECIPE = Recipe([("writers", Project(ROWS))])


def test_the_subjects_are_the_weight_files_and_the_recipe_is_a_dependency(tiny, tmp_path):
    tiny("llama").hf.save_pretrained(tmp_path / "source", max_shard_size="40KB")
    export_streamed(RECIPE, tmp_path / "source", tmp_path / "out")
    statement = json.loads((tmp_path / "out" / "interp_provenance.json").read_text())
    subjects = {subject["name"]: subject["digest"]["sha256"] for subject in statement["subject"]}
    shards = Checkpoint.open(tmp_path / "out").files
    assert subjects == {file.name: sha256_file(file) for file in shards}
    recipe = statement["predicate"]["buildDefinition"]["resolvedDependencies"][1]
    assert recipe["digest"]["sha256"] == RECIPE.digest
    assert len(shards) > 1


def test_data_that_a_direction_was_fitted_on_is_a_dependency(tiny, tmp_path):
    model = tiny("llama")
    direction = Direction(ROWS[:1], Site.parse("resid_post.1"), -1, "diff_means", model.reference, "d" * 64)
    fitted = Recipe([("writers", Project(direction))])
    manifest = export_streamed(fitted, model, tmp_path / "out")
    statement = provenance_statement(manifest, fitted, {})
    _, _, data = statement["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert data["digest"] == {"dataSha256": "d" * 64}
    assert data["annotations"]["method"] == "diff_means"
    rows_alone = provenance_statement(manifest, RECIPE, {})
    assert len(rows_alone["predicate"]["buildDefinition"]["resolvedDependencies"]) == 2, "control: rows without data"
