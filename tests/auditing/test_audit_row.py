"""Rows follow from the scores beside them, and the scores survive their line of text to the bit."""

from math import isnan, nan

import pytest
from audit_rows import two_arms
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from interp.auditing.audit_row import ItemScores, audit_rows
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.statistics.comparison import compare_scores

SCORES = st.lists(st.one_of(st.floats(-1e9, 1e9), st.just(nan), st.sampled_from([0.0, 1.0, 0.1, -0.0])), min_size=4)
ADAPTER = TypeAdapter(ItemScores)


def behaviour(n, groups=()):
    return Behaviour("x", "harm", "is", tuple(f"p{i}" for i in range(n)), len, "margin", groups)


@settings(max_examples=50, deadline=None)
@given(SCORES, st.integers(0, 10**6))
def test_scores_survive_their_line(values, seed):
    scores = Scores(tuple(values))
    groups = tuple(f"g{(i * seed) % 13}" for i in range(len(values)))
    items = ItemScores.of(behaviour(len(values), groups), {"before": [scores], "random": [scores, scores]})
    again = ADAPTER.validate_json(ADAPTER.dump_json(items), strict=True)
    assert again == items
    assert str(again) == str(items), "the sign of 0 as well"
    for value, kept in zip(values, again.arms["random"][1], strict=True):
        assert (kept is None) == isnan(value)


def test_a_row_is_the_comparison_of_the_scores_with_their_groups():
    """Also where the labels' order is not that of their first items: a bootstrap draws groups in an order."""
    before, after = [0.1 * i for i in range(24)], [0.1 * i + (-1) ** i * 0.03 * (i % 5) for i in range(24)]
    groups = tuple("zyxwvutsrq"[i % 10] for i in range(24))
    asked = behaviour(24, groups)
    items = {"x": two_arms(asked, Scores(tuple(before)), Scores(tuple(after)))}
    row, expected = audit_rows([asked], items, 3)[0], compare_scores(before, after, groups, "margin", 3)
    assert (row.before, row.after, row.difference, row.p) == (
        expected.before, expected.after, expected.difference, expected.p,
    )  # fmt: skip
    assert row.digest == asked.digest
    assert audit_rows([row], items, 3)[0] == row, "a row describes its behaviour"
    assert audit_rows([row], items, 4)[0] != row, "control"


@pytest.mark.parametrize("line", ["1 x", "nan", "1 inf", 1, None, [1.0]])
def test_what_is_no_line_of_scores_is_refused(line):
    with pytest.raises(ValidationError):
        ADAPTER.validate_python({"arms": {"before": [line]}})
