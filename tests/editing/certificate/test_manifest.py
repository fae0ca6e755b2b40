"""The manifest keeps the release decision, which holds for one recipe on one model."""

import pytest
from release_samples import RECIPE, release

import interp
from interp import InterpError
from interp.editing.options import FoldOptions


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
    loose = FoldOptions(approximate=True, keep_norms=True)
    with pytest.raises(InterpError, match="not what would be written"):
        interp.export(RECIPE, model, tmp_path / "out", fold=loose, release=release(model))
    interp.export(RECIPE, model, tmp_path / "out", fold=loose)
