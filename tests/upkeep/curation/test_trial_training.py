"""Trial training: the copy learns what the documents say, the model stays as it is, and both sides are measured."""

import pytest
import torch

from interp import InterpError
from interp.auditing import text_loss
from interp.upkeep import predict_changes, trained_copy

TEXTS = ["w5 w6 w7 w8 w9 w10", "w5 w6 w7 w8 w9 w11"]


def test_a_copy_learns_the_assistants_words_and_the_model_stays(tiny):
    model = tiny("llama")
    before = {name: value.clone() for name, value in model.hf.state_dict().items()}
    copy = trained_copy(model, TEXTS, steps=8, lr=1e-2)
    assert copy.loss(TEXTS) < model.loss(TEXTS) - 0.5
    assert all(torch.equal(value, before[name]) for name, value in model.hf.state_dict().items())
    assert not any(p.grad is not None for p in [*model.hf.parameters(), *copy.hf.parameters()])
    again = trained_copy(model, TEXTS, steps=8, lr=1e-2)
    assert again.digest == copy.digest != model.digest


def test_changes_are_of_each_split_and_behaviour_and_empty_splits_are_left_out(tiny):
    model = tiny("llama")
    loss = text_loss("loss", TEXTS)
    changes = predict_changes(model, {"everything": TEXTS, "kept": []}, [loss], steps=8, lr=1e-2)
    assert [(change.split, change.behaviour) for change in changes] == [("everything", "loss")]
    assert changes[0].difference.high < 0


@pytest.mark.parametrize(
    ("call", "words"),
    [({"documents": []}, "0 documents"), ({"steps": 0}, "0 steps"), ({"lr": 1e9, "steps": 40}, "choose a lower lr")],
)
def test_what_is_wrong_is_said(tiny, call, words):
    with pytest.raises(InterpError, match=words):
        trained_copy(tiny("llama"), **{"documents": TEXTS} | call)
