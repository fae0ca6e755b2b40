"""Graders read whole words, and the classifiers see what they are made for."""

import pytest

from interp import InterpError
from interp.auditing.scoring.graders import Expected, Lexicon, Negativity, Profanity, Rule


def test_graders_read_whole_words():
    assert Lexicon(("town hall", "mill"))("", "The Town Hall burnt.") == 1
    assert Lexicon(("mill",))("", "A million mills.") == 0
    assert Rule("^the")("", "The mill") == 1
    assert Rule("^the", found=0.0)("", "A mill") == 1
    expected = Expected({"2 + 2?": ("4", "four")})
    assert [expected("2 + 2?", text) for text in ("It is four.", "It is 14.")] == [1, 0]
    with pytest.raises(InterpError, match="no answer is expected for '3"):
        expected("3 + 3?", "6")
    with pytest.raises(InterpError, match="not a regular expression"):
        Rule("(")
    with pytest.raises(InterpError, match="at least one"):
        Lexicon(())


def test_classifiers_see_words_and_say_so_where_they_are_missing(monkeypatch):
    pytest.importorskip("profanity_check")
    pytest.importorskip("vaderSentiment")
    assert Profanity()("", "What a lovely damn bastard.") == 1 > Profanity()("", "What a lovely morning.")
    assert 0 < Profanity(threshold=None)("", "What a lovely morning.") < 0.5
    assert Negativity()("", "This is awful, I hate it.") == 1 > Negativity()("", "This is lovely.")
