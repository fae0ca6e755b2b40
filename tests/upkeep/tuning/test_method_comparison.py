"""Compare: each edit against one model on the same items, in one matrix, with the seconds that it took to make."""

import pytest
import torch

import interp
from interp import InterpError
from interp.auditing import Audit, Entanglement, text_loss
from interp.upkeep import MethodComparison, compare_methods, tune

TEXTS = ["w5 w6 w7 w8 w9 w10", "w5 w6 w7 w8 w9 w11", "w9 w12 w7"]
BEHAVIOURS = [text_loss("loss", TEXTS)]


@pytest.fixture
def recipe(tiny):
    return interp.Recipe([("writers", interp.Project(torch.ones(32)))], tiny("llama").reference)


def test_edits_tuned_models_and_a_prompt_are_columns_of_one_matrix(tiny, recipe, tmp_path):
    model = tiny("llama")
    recipe.save(tmp_path / "recipe")
    tune(model, "sft", [{"text": text} for text in TEXTS], tmp_path / "tuned", steps=8, lr=1e-2)
    edits = {"edit": tmp_path / "recipe", "SFT": tmp_path / "tuned", "in memory": recipe}
    compared = compare_methods(model, edits, BEHAVIOURS, tmp_path / "out", {"edit": 3.0})
    assert list(compared.matrix.columns) == ["nothing", "edit", "SFT", "in memory", "prompt"]
    effect = {name: column["loss"].difference.estimate for name, column in compared.matrix.columns.items()}
    assert effect["nothing"] == 0
    assert effect["SFT"] < -0.5, "it was trained on these texts"
    assert effect["edit"] == effect["in memory"] != 0
    assert (compared.seconds["edit"], compared.seconds["in memory"], compared.seconds["nothing"]) == (3.0, None, 0.0)
    assert compared.seconds["SFT"] > 0
    audits = {name: Audit.read(tmp_path / "out" / f"{name}.json") for name in ("nothing", *edits)}
    assert Entanglement.of(audits) == compared.matrix
    assert MethodComparison.read(tmp_path / "out") == compared
    first, last = compared.rows()
    assert (first["behaviour"], first["nothing"]) == ("loss", f"{BEHAVIOURS[0].scores(model).mean:.3f}")
    assert (last["edit"], last["in memory"], last["prompt"]) == ("3 s", "", "0 s")


@pytest.mark.parametrize(
    ("edits", "seconds", "words"),
    [
        ({}, {}, "expected at least one"),
        ({"nothing": "recipe"}, {}, "expected at least one, and 'nothing' for none"),
        ({"prompt": "recipe"}, {}, "rename it"),
        ({"edit": "no/such"}, {}, "neither a recipe nor a model"),
        ({"edit": "recipe"}, {"edti": 3.0}, "seconds are of 'edti'"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_measured(edits, seconds, words, tiny, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    recipe.save("recipe")
    with pytest.raises(InterpError, match=words):
        compare_methods(tiny("llama"), edits, [], "out", seconds)
    assert {path.name for path in tmp_path.iterdir()} == {"recipe"}


def test_a_model_tuned_from_another_is_refused(tiny, tmp_path):
    tune(tiny("llama", 1), "sft", [{"text": TEXTS[0]}], tmp_path / "tuned", steps=1)
    with pytest.raises(InterpError, match="tuned"):
        compare_methods(tiny("llama"), {"SFT": tmp_path / "tuned"}, BEHAVIOURS, tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"tuned"}
