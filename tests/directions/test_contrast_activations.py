"""Activations of a contrast's two sides: finite, and of conversations as the chat template renders them."""

import pytest
from word_contrasts import last_words

from interp import Contrast, InterpError, find
from interp.data._pairs import Message, Turn, TurnPair


def test_activations_that_are_not_finite_are_named(tiny, monkeypatch):
    model = tiny("llama", seed=7)
    capture = model.capture

    def broken(*args, **kwargs):
        acts = capture(*args, **kwargs)
        acts["resid_post.1"][0] = float("nan")
        return acts

    monkeypatch.setattr(model, "capture", broken)
    with pytest.raises(InterpError, match=r"resid_post\.1, position -1: 1 of 42 positive rows have NaN"):
        find(model, last_words())


def test_conversations_are_rendered_with_the_chat_template(tiny, monkeypatch):
    model = tiny("llama")
    template = "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    monkeypatch.setattr(model.tokenizer, "chat_template", template)
    before = (Message("system", "w7"),)
    pair = TurnPair(Turn("w4", "w5", before), Turn("w4", "w6"))
    assert Contrast((pair,)).texts(model.render, model.chat) == (
        ["system w7 user w4 assistant w5"],
        ["user w4 assistant w6"],
    )
    rows = [TurnPair(Turn(f"w{n}", "w5", before), Turn(f"w{n}", "w6", before)) for n in range(20, 40)]
    assert find(model, Contrast(tuple(rows)), methods="diff_means").best()[0].auroc == 1
