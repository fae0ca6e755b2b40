"""Relearning: a hidden harm is back before one that was never there, benign data does not bring it, copies are lost."""

import pytest
import tiny_models
from word_harm import documents, harm, models, recipe

from interp import InterpError
from interp.upkeep import DepthOptions, trained_copy
from interp.upkeep.depth.demonstrations import halves
from interp.upkeep.depth.relearning import relearn
from interp.upkeep.depth.subject import Subject

OPTIONS = DepthOptions(steps=16, lr=3e-3)
LEARNED, HELD_OUT = halves(harm(), 0)
SHOWN = documents("w5", LEARNED.prompts)


def test_the_harm_of_an_edited_model_is_back_before_that_of_a_control():
    _, edited = models()
    control = trained_copy(tiny_models.build("llama", seed=3), documents("w6"), steps=20, lr=1e-2, batch=8)
    digest = edited.digest
    curves = [relearn(Subject("x", model), "related", SHOWN, HELD_OUT, 0.5, OPTIONS) for model in (edited, control)]
    assert curves[0].rates[0].estimate == curves[1].rates[0].estimate == 0.0
    assert curves[0].half is not None
    assert curves[1].half is None or curves[0].half <= curves[1].half
    assert edited.digest == digest
    assert curves[0] == relearn(Subject("x", edited), "related", SHOWN, HELD_OUT, 0.5, OPTIONS)
    last = curves[0].steps[-1]
    assert last == OPTIONS.steps or curves[0].rates[-1].low >= 0.5, "it ends where half is back for sure"
    assert curves[0].steps == (0, *(step for step in OPTIONS.schedule if step <= last))


def test_benign_data_do_not_bring_it_back_and_hooks_stay_in_force():
    base, edited = models()
    benign = relearn(Subject("x", edited), "benign", documents("w7"), HELD_OUT, 0.5, OPTIONS)
    assert (benign.half, benign.steps[-1]) == (None, 16)
    hooked = relearn(Subject("x", base, recipe(base)), "related", SHOWN, HELD_OUT, 0.5, DepthOptions(steps=2))
    assert hooked.rates[0].estimate == 0.0
    there = relearn(Subject("x", base), "related", SHOWN, HELD_OUT, 0.5, OPTIONS)
    assert there.steps == (0,), "control: what shows the harm needs no step"


@pytest.mark.parametrize(
    ("shown", "options", "words"),
    [([], OPTIONS, "0 documents"), (SHOWN, DepthOptions(steps=64, lr=1e12), "choose a lower lr")],
)
def test_what_is_wrong_is_said(shown, options, words):
    with pytest.raises(InterpError, match=words):
        relearn(Subject("x", models()[1]), "related", shown, HELD_OUT, 0.5, options)
