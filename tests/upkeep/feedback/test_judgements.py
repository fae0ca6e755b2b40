"""Judgements: layouts say the same, verdicts are the majority's or the adjudication's, and broken rows are named."""

import json

import pytest
from judged_replies import rows, write

from interp import InterpError
from interp.upkeep import Judgements

PAIR = {"prompt": "hello", "chosen": "Good day.", "rejected": "Go away."}


def test_preferences_and_ratings_give_the_same_verdicts(tmp_path):
    preferred = Judgements.read(write(tmp_path / "pairs.jsonl", rows(6)))
    ratings = [
        {"prompt": row["prompt"], "completion": row[side], "label": side == "chosen", "rater": row["rater"]}
        for row in rows(6)
        for side in ("chosen", "rejected")
    ]
    rated = Judgements.read(write(tmp_path / "ratings.jsonl", ratings))
    shown = [[(pair.positive.answer, pair.negative.answer) for pair in each.decided()] for each in (preferred, rated)]
    assert shown[0] == shown[1] == [("Go away, please.", "Good day to you.")] * 6
    assert len(rated.ratings) == 12
    conversation = {"prompt": [{"role": "user", "content": "hello"}], **{k: PAIR[k] for k in ("chosen", "rejected")}}
    for side in ("chosen", "rejected"):
        conversation[side] = [{"role": "assistant", "content": PAIR[side]}]
    both = [Judgements.read(write(tmp_path / "x.jsonl", [row])) for row in (PAIR, conversation)]
    assert [*both[0].decided()] == [*both[1].decided()]


def test_the_majority_decides_a_tie_is_open_and_an_adjudication_overrules(tmp_path):
    flipped = PAIR | {"chosen": "Go away.", "rejected": "Good day."}
    votes = [PAIR | {"rater": "a"}, flipped | {"rater": "b"}, flipped | {"rater": "c"}]
    file = write(tmp_path / "pairs.jsonl", votes[:2])
    assert not [*Judgements.read(file).decided()]
    most = Judgements.read(write(tmp_path / "pairs.jsonl", votes))
    assert [pair.negative.answer for pair in most.decided()] == ["Go away."]
    (row,) = most.undecided()
    assert sorted(row["votes"].values()) in (["first", "first", "second"], ["first", "second", "second"])
    row["verdict"] = "first" if row["first"] == "Good day." else "second"
    decided = Judgements.read(file, write(tmp_path / "verdicts.jsonl", [row]))
    assert [pair.negative.answer for pair in decided.decided()] == ["Good day."]
    assert decided.undecided() == []


def test_the_closest_come_first_and_unanimous_ones_are_not_adjudicated(tmp_path):
    noise = {("a", 1), ("a", 2), ("c", 2)}
    judgements = Judgements.read(write(tmp_path / "pairs.jsonl", rows(4, noise=noise)))
    assert [row["prompt"] for row in judgements.undecided()] == ["what is 2 plus 1?", "what is 1 plus 1?"]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([{"prompt": "a"}], "line 1: expected prompt, chosen and rejected, or prompt, completion and label"),
        ([PAIR | {"chosen": "Go away."}], "line 1: .*both sides are equal"),
        ([PAIR | {"rater": "a"}] * 2, "line 2: rater 'a' compared these replies before"),
        ([PAIR | {"rater_group": "x"}, PAIR | {"rater_group": "y", "prompt": "b"}], "is of group 'y', and was of 'x'"),
        ([{"prompt": "a", "reply": "b", "rating": "good"}], "the rating is 'good'; expected a number"),
        ([{"prompt": "a", "reply": "b", "rating": 2}] * 2, "line 2: rater '' rated this reply before"),
        ([{"prompt": "a", "reply": "b", "rating": 2}], "nobody compares two replies"),
    ],
)
def test_what_is_wrong_is_named_by_line(lines, words, tmp_path):
    with pytest.raises(InterpError, match=words):
        Judgements.read(write(tmp_path / "pairs.jsonl", lines))


@pytest.mark.parametrize(
    ("change", "words"), [({"verdict": "both"}, "verdict is 'both'"), ({"key": "x"}, "nobody compared")]
)
def test_verdicts_that_are_wrong_are_named(change, words, tmp_path):
    file = write(tmp_path / "pairs.jsonl", rows(2, noise={("a", 0)}))
    (row,) = Judgements.read(file).undecided()
    (tmp_path / "verdicts.jsonl").write_text(json.dumps(row | {"verdict": "first"} | change))
    with pytest.raises(InterpError, match=words):
        Judgements.read(file, tmp_path / "verdicts.jsonl")
