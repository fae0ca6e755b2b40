"""An audit is of a recipe only where that recipe was measured: under its hooks, or as its own exact fold."""

import shutil

import pytest
import tiny_models
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.auditing.auditor import audit
from interp.auditing.policy.decision import Policy
from interp.auditing.policy.release_gate import gate
from interp.auditing.scoring.choices import text_loss
from interp.editing.certificate.manifest import MANIFEST
from interp.editing.options import FoldOptions

SUITE = [text_loss("loss", [f"w{i} w{i + 1} w{i + 2}" for i in range(5, 25)])]
ASKED, OTHER = (Recipe([("writers", Project(torch.eye(32)[number]))]) for number in (3, 4))
POLICY = Policy(target="loss", target_at_most=1.0, loss_rise_at_most=100, items_at_least=2)


@pytest.fixture
def base(tmp_path):
    model = tiny_models.build("llama", seed=1)
    model.hf.save_pretrained(tmp_path / "base")
    model.tokenizer.save_pretrained(tmp_path / "base")
    return interp.load(tmp_path / "base")


@pytest.fixture
def exported(base, tmp_path):
    interp.export(OTHER, base, tmp_path / "edited")
    return tmp_path / "edited"


def measured(base, after, **options):
    return audit(base, after, SUITE, baselines=(), **options)


def of_this(made, folder):
    """What the gate says of the audit being of the recipe that is to be exported."""
    made.save(folder / "audit.json")
    found = gate(folder / "audit.json", POLICY, recipe=ASKED).reasons
    return [
        reason.met for reason in found if "the audit is of recipe" in reason.text or "of this recipe" in reason.text
    ]


def test_hooks_and_exact_folds_are_of_their_recipe(base, exported, tmp_path):
    assert measured(base, OTHER).recipe == OTHER.digest
    assert measured(base, interp.load(exported)).recipe == OTHER.digest
    assert measured(base, interp.load(exported), recipe=OTHER).recipe == OTHER.digest
    assert of_this(measured(base, ASKED), tmp_path) == [True]
    assert of_this(measured(base, OTHER), tmp_path) == [None]


def test_another_recipe_than_the_checkpoints_own_is_refused(base, exported):
    with pytest.raises(InterpError, match=f"carries the recipe that it was made by, {OTHER.digest[:12]}"):
        measured(base, interp.load(exported), recipe=ASKED)


def stripped(folder):
    for name in (MANIFEST, "interp_recipe/recipe.json", "interp_recipe/recipe.safetensors"):
        (folder / name).unlink()
    (folder / "interp_recipe").rmdir()


def test_a_claim_that_no_manifest_bears_out_serves_the_baselines_alone(base, exported, tmp_path):
    stripped(exported)
    made = audit(base, interp.load(exported), SUITE, recipe=ASKED, baselines=["random"])
    assert [one.name for one in made.baselines] == ["random"], "control: it is used"
    assert made.recipe == ""
    assert of_this(made, tmp_path) == [None]
    assert measured(base, base, recipe=ASKED).recipe == "", "nothing was measured of it"


def test_a_recipe_beside_no_edited_model_is_refused(base):
    with pytest.raises(InterpError, match="what an edited model was made by"):
        measured(base, OTHER, recipe=ASKED)


def test_a_fold_that_is_not_exact_or_whole_or_of_another_base_is_not_the_recipe(base, exported, tmp_path):
    loose = FoldOptions(approximate=True, leave_embedding=True)
    interp.export(OTHER, base, tmp_path / "loose", fold=loose)
    assert measured(base, interp.load(tmp_path / "loose")).recipe == ""
    assert measured(tiny_models.build("llama", seed=2), interp.load(exported)).recipe == ""
    copy = shutil.copytree(exported, tmp_path / "copy")
    assert measured(base, interp.load(copy)).recipe == OTHER.digest, "control"
    (copy / "config.json").write_text((copy / "config.json").read_text() + "\n")
    assert measured(base, interp.load(copy)).recipe == ""
