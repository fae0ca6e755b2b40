"""The record of a lens: its rows, its JSON and its displays say what its tensors say."""

import pytest

from interp import InterpError
from interp.attribution import Lens


def test_rows_hold_what_was_read(tiny):
    reading = Lens().read(tiny("llama"), "w5 w9 w77", top=3)
    assert [token.strip() for token in reading.tokens] == ["w5", "w9", "w77"]
    for position in range(3):
        for layer, row in enumerate(reading.rows(position)):
            tokens = reading.top[layer, position].tolist()
            assert row["site"] == f"resid_post.{layer}"
            assert [word for word, _ in row["next"]] == [reading.words[token] for token in tokens]
            assert [chance for _, chance in row["next"]] == reading.probability[layer, position].tolist()
            assert row["entropy"] == reading.entropy[layer, position].item()
            assert row["divergence"] == reading.divergence[layer, position].item()
    assert all(word.strip() == f"w{token}" for token, word in reading.words.items() if token > 3)


def test_it_shows_itself(tiny):
    reading = Lens().read(tiny("llama"), "w5 w9 w77")
    (word, chance) = reading.best(2, -1)[0]
    for shown in (repr(reading), reading._repr_html_()):
        assert "logit lens, after the last of 3 tokens" in shown
        assert f"{word!r} {chance:.2f}" in shown.replace("&#x27;", "'")


def test_a_position_or_layer_that_is_not_there_is_named(tiny):
    reading = Lens().read(tiny("llama"), "w5 w9 w77")
    assert reading.rows(-3) == reading.rows(0)
    for call, message in (
        (lambda: reading.rows(50), "position 50 is not in this reading; expected -3 to 2"),
        (lambda: reading.best(3, 0), "layer 3 is not in this reading; expected -3 to 2"),
    ):
        with pytest.raises(InterpError, match=message):
            call()
