"""The record of a lens: its rows, its JSON and its displays say what its tensors say."""

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
