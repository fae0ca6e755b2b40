"""Cuts from labels: on the half that chooses, the error rates hold by construction; on the other they are measured."""

import json
from math import nan
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.upkeep import choose_thresholds, read_labelled
from interp.upkeep.curation.thresholds import _halves


def drawn(shift, count=400, seed=0):
    rng = Random(seed)
    harmful = [n % 2 == 0 for n in range(count)]
    return [(rng.gauss(0, 1), rng.gauss(shift * harm, 1)) for harm in harmful], harmful


@given(st.floats(0, 5), st.floats(0.0, 0.4), st.integers(0, 5))
def test_on_the_half_that_chooses_both_rates_keep_the_bound(shift, error, seed):
    scores, harmful = drawn(shift, 80, seed)
    cuts = choose_thresholds(["noise", "score"], scores, harmful, "score", None, error, seed)
    (harm, clean), _ = _halves(scores, harmful, seed)
    assert sum(cuts.split(row[1].item()) == "kept" for row in harm) <= error * len(harm)
    assert sum(cuts.split(row[1].item()) == "flagged" for row in clean) <= error * len(clean)
    assert cuts.keep_below <= cuts.flag_from


def test_the_better_score_is_chosen_and_the_rates_are_those_of_the_other_half():
    scores, harmful = drawn(4.0, 2000)
    cuts = choose_thresholds(["noise", "score"], scores, harmful)
    assert cuts.measure == "score"
    assert cuts.auroc["score"] > 0.99
    assert 0.4 < cuts.auroc["noise"] < 0.6, "control"
    assert cuts.missed.low < 0.05
    assert cuts.false_alarms.n == cuts.missed.n == 500
    assert cuts.unsure.estimate == 0, "one cut is enough"
    close = choose_thresholds(["noise", "score"], *drawn(1.0, 2000))
    assert close.unsure.estimate > 0.3
    assert close.missed.low < 0.05 < close.missed.high + 0.03


def test_a_threshold_by_hand_has_rates_with_labels_and_none_without():
    scores, harmful = drawn(4.0)
    by_hand = choose_thresholds(["noise", "score"], scores, harmful, "score", 2.0)
    assert (by_hand.keep_below, by_hand.flag_from, by_hand.unsure.estimate) == (2.0, 2.0, 0.0)
    alone = choose_thresholds(["mean", "max"], threshold=2.0)
    assert (alone.measure, alone.missed, alone.auroc) == ("mean", None, {})
    assert [alone.split(score) for score in (1.9, 2.0, nan, None)] == ["kept", "flagged", "unsure", "unsure"]


def test_documents_without_a_score_count_as_the_mildest():
    harmful = [n % 2 == 0 for n in range(40)]
    scores = [(nan if n % 4 == 0 else float(harm),) for n, harm in enumerate(harmful)]
    assert choose_thresholds(["mean"], scores, harmful, threshold=0.5).auroc["mean"] < 0.9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"measure": "maxx", "threshold": 1.0}, "score 'maxx' is not measured; did you mean max"),
        ({}, "neither labels nor a threshold"),
        ({"error": 0.6, "threshold": 1.0}, "error is 0.6"),
        ({"scores": [(1.0, 2.0)] * 9, "harmful": [True] * 9}, "9 harmful and 0 clean"),
    ],
)
def test_what_is_wrong_is_said(call, words):
    with pytest.raises(InterpError, match=words):
        choose_thresholds(["mean", "max"], **call)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"text": "a"}, "line 1: label is None; expected true"),
        ({"text": "a", "label": "bad"}, "label is 'bad'"),
        ({"txt": "a", "label": True}, "line 1: .*no field 'text'"),
    ],
)
def test_labels_that_are_wrong_are_named_by_line(row, words, tmp_path):
    (tmp_path / "labels.jsonl").write_text(json.dumps(row))
    with pytest.raises(InterpError, match=words):
        read_labelled(tmp_path / "labels.jsonl")
