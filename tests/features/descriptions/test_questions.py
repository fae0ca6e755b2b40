"""Questions hold what they are asked about, whatever it is, and replies are read or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.features.descriptions.questions import (
    description_question,
    marked_text,
    read_answers,
    read_description,
    score_question,
)

TEXTS = st.lists(st.text(max_size=30), min_size=1, max_size=6)


@given(st.lists(st.text(st.characters(exclude_characters="<>\r\n\\"), min_size=1), max_size=6), st.data())
def test_marks_are_around_runs_of_tokens_and_nothing_else_changes(tokens, data):
    marked = data.draw(st.sets(st.sampled_from(range(len(tokens)))) if tokens else st.just(set()))
    text = marked_text(tokens, marked)
    assert text.replace("<<", "").replace(">>", "") == "".join(tokens)
    runs = sum(index in marked and index - 1 not in marked for index in range(len(tokens)))
    assert text.count("<<") == text.count(">>") == runs
    assert marked_text(["a\nb", "\r"]) == "a\\nb "


@given(TEXTS, st.text(max_size=30))
def test_a_question_has_each_text_and_the_description_as_they_are(texts, description):
    for question in (description_question(texts), *(score_question(x, description, texts) for x in TESTS)):
        assert all(f"{n}. {text}" in question for n, text in enumerate(texts, 1))
    assert all(description in score_question(x, description, texts) for x in TESTS)
    assert ("For example" in score_question("detection", "towns", ["a"] * len(texts))) == (len(texts) > 1)


TESTS = ("detection", "fuzzing")


@given(
    st.lists(st.booleans(), min_size=1, max_size=9),
    st.sampled_from(["{}", "So: {}.", "1. no\n{}", "<think>[0]</think>{}"]),
)
def test_a_list_of_the_right_length_is_read(answers, frame):
    reply = frame.format([int(answer) for answer in answers])
    assert read_answers(reply, len(answers)) == tuple(answers)
    assert read_answers(reply, len(answers) + 7) is None


@pytest.mark.parametrize(
    "reply", ["", "yes", "[1, 2, 0]", "[1, maybe, 0]", "[[1,0]]", "1 0", "١ ٠ ١", "1. yes\n0. no\n1. yes"]
)
def test_other_replies_are_no_answers(reply):
    assert read_answers(reply, 3) is None


@pytest.mark.parametrize(
    ("reply", "description"),
    [
        ("names of towns", "names of towns"),
        ('"Names of towns."', "Names of towns"),
        ("\n\n**Names of towns**\nThey are towns.", "Names of towns"),
        ("<think>rivers?</think>\nnames of towns", "names of towns"),
        ("I looked.\nDescription: names of towns.", "names of towns"),
        ("", None),
        ("…!?", None),
        ("a" * 301, None),
    ],
)
def test_a_description_is_one_line(reply, description):
    assert read_description(reply) == description
