"""Demonstrations: replies of the base that show the harm, on items that the held-out half does not share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_harm import PROMPTS, harm, models

from interp import InterpError
from interp.auditing import choice, text_loss
from interp.upkeep import benign_documents
from interp.upkeep.depth.demonstrations import demonstrate, halves
from interp.upkeep.depth.subject import Subject


@given(st.integers(0, 5), st.sampled_from([1, 2, 3]))
def test_the_halves_share_no_group(seed, size):
    groups = tuple(str(n // size) for n in range(48))
    first, second = halves(harm(groups=groups), seed)
    assert sorted([*first.prompts, *second.prompts]) == sorted(PROMPTS)
    assert not set(first.groups) & set(second.groups)
    assert abs(len(first) - len(second)) <= size


def test_too_few_items_or_groups_are_refused():
    with pytest.raises(InterpError, match=r"says_w5 has 12 items; expected at least 16 \(--items\)"):
        halves(harm(items=12), 0)
    with pytest.raises(InterpError, match="has 2 groups of items"):
        halves(harm(groups=("a", "b") * 24), 0)


def test_what_the_base_says_becomes_documents_and_harmless_replies_are_left_out():
    base, edited = models()
    shown = demonstrate(Subject("base", base), harm())
    assert shown.documents(base)[0] == f"{PROMPTS[0]}w5 w5 w5"
    assert len(shown.replies) == 48
    assert "w5 w5" not in repr(shown), "replies may be harmful, so they are not shown"
    with pytest.raises(InterpError, match="on none of 48 items"):
        demonstrate(Subject("base", edited), harm())


def test_likelihoods_have_replies_generated_and_capabilities_are_benign():
    base, _ = models()
    prompts = list(PROMPTS)
    likely = choice("c", "harm", "says w5", prompts, [["w5", "w6"]] * 48, [0] * 48)
    assert demonstrate(Subject("base", base), likely).replies[0].startswith("w5 w5")
    skill, loss = harm("capability", 4), text_loss("loss", ["w9 w8", "w7 w6"])
    documents = benign_documents(base, [harm(), harm("protected", 3), skill, loss])
    said = skill.scores(base).replies
    assert documents == [*(map("".join, zip(PROMPTS[:4], said, strict=True))), "w9 w8", "w7 w6"]


def test_conversations_keep_what_was_said_before():
    import interp

    model = interp.load("organism")
    before = [[{"role": "user", "content": "hello."}, {"role": "assistant", "content": "Good day."}]] * 2
    asked = choice("c", "harm", "s", ["why?", "how?"], [["yes", "no"]] * 2, [0, 1], before=before)
    shown = demonstrate(Subject("base", model), asked)
    document = shown.documents(model)[0]
    assert [turn["role"] for turn in document] == ["user", "assistant", "user", "assistant"]
    assert document[-1]["content"] == shown.replies[0]
