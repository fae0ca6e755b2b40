"""The manifest keeps the release decision, which holds for one recipe on one model."""

import pytest
import torch

import interp
from interp import InterpError, Project, Recipe
from interp.editing.certificate.manifest import Release
from interp.editing.options import FoldOptions

RECIPE = Recipe([("writers", Project(torch.eye(32)[3:4]))], note="Removes nothing in particular.")


def release(model, **changed):
    values = {
        "outcome": "allow",
        "policy": "release",
        "policy_sha256": "1" * 64,
        "audit_sha256": "2" * 64,
        "base": model.digest,
        "settings": model.identity.settings,
        "recipe": RECIPE.digest,
        "reasons": ("refusal: drops by at most 0.012, limit 0.030",),
        "section": "Decision: **allow**.",
    }
    return Release(**(values | changed))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"outcome": "deny"}, "decision is 'deny'"),
        ({"recipe": "3" * 64}, "the decision is on recipe 333333333333"),
        ({"recipe": ""}, "recipe unknown"),
        ({"base": "4" * 64}, "weights 444444444444"),
    ],
)
def test_a_release_of_something_else_lets_nothing_out(tiny, tmp_path, changed, said):
    model = tiny("llama")
    with pytest.raises(InterpError, match=said):
        interp.export(RECIPE, model, tmp_path / "out", release=release(model, **changed))
    assert not list(tmp_path.iterdir())


def test_what_folds_into_something_else_than_was_audited_is_not_let_out(tiny, tmp_path):
    model = tiny("llama")
    loose = FoldOptions(approximate=True, leave_embedding=True)
    with pytest.raises(InterpError, match="not what would be written"):
        interp.export(RECIPE, model, tmp_path / "out", fold=loose, release=release(model))
    interp.export(RECIPE, model, tmp_path / "out", fold=loose)
