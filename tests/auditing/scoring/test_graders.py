"""Graders read whole words, and the classifiers see what they are made for."""

import math
import sys
import time

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


@pytest.mark.skipif(sys.platform != "linux", reason="rules are bounded on Linux only")
@pytest.mark.parametrize("call", [lambda rule, reply: rule("", reply), lambda rule, reply: rule.grades(["a", reply])])
def test_a_rule_that_never_ends_is_ended_and_named(call, monkeypatch):
    monkeypatch.setenv("INTERP_LIMITS", "template=1")
    rule, begun = Rule(r"((.|\s)+)+\x00"), time.monotonic()
    with pytest.raises(InterpError, match=r"rule '\(\(\..*: takes more seconds than the bound, 1; raise it with"):
        call(rule, "a" * 40)
    assert time.monotonic() - begun < 10
    grades = rule.grades(["a\0", None, ""])
    assert (grades[0], math.isnan(grades[1]), grades[2]) == (1, True, 0), "control"


@pytest.mark.parametrize("pattern", ["(", "(" * 5000 + ")" * 5000, "a{99999999999}"])
def test_a_rule_that_can_not_be_compiled_is_refused(pattern):
    with pytest.raises(InterpError, match="is not a regular expression"):
        Rule(pattern)


def test_classifiers_see_words_and_say_so_where_they_are_missing(monkeypatch):
    pytest.importorskip("profanity_check")
    pytest.importorskip("vaderSentiment")
    assert Profanity()("", "What a lovely damn bastard.") == 1 > Profanity()("", "What a lovely morning.")
    assert 0 < Profanity(threshold=None)("", "What a lovely morning.") < 0.5
    assert Negativity()("", "This is awful, I hate it.") == 1 > Negativity()("", "This is lovely.")
