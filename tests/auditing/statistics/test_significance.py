"""P values: McNemar's for shares, sign flips for means, Holm's correction over a suite."""

import sys
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest, permutation_test

from interp.auditing.statistics.comparison import compare_scores
from interp.auditing.statistics.significance import holm, sign_flips

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))


def compared(before, after, groups=(), unit="rate"):
    return compare_scores([*map(float, before)], [*map(float, after)], groups, unit, resamples=500)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(1, 30))
def test_the_p_value_of_shares_is_mcnemars(won, lost, same):
    before = [0.0] * won + [1.0] * lost + [1.0] * same
    after = [1.0] * won + [0.0] * lost + [1.0] * same
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert compared(before, after).p == pytest.approx(expected)


@settings(max_examples=20)
@given(st.lists(st.floats(-3, 3).map(lambda x: round(x, 2)), min_size=2, max_size=9))
def test_few_sign_flips_are_all_tried(changes):
    reference = permutation_test((changes,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert sign_flips(np.asarray(changes)) == pytest.approx(reference.pvalue)


def test_many_sign_flips_are_drawn():
    changes = np.random.default_rng(0).normal(0.2, 1, 60)
    reference = permutation_test((changes,), np.sum, permutation_type="samples", n_resamples=50_000, random_state=1)
    assert sign_flips(changes) == pytest.approx(reference.pvalue, abs=0.01)
    assert sign_flips(changes) == sign_flips(changes)
    assert sign_flips(np.zeros(50)) == 1.0
    assert sign_flips(np.full(50, 0.1)) == 1 / 10_000, "the one seen counts among those drawn: never 0"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_bonferroni_over_all_families_that_hold_it(p_values):
    """Closed testing (Marcus, Peritz and Gabriel 1976): the largest Bonferroni p of any family with the hypothesis."""
    number = len(p_values)
    for index, found in enumerate(holm(p_values)):
        families = [
            family for size in range(1, number + 1) for family in combinations(range(number), size) if index in family
        ]
        slow = max(min(1.0, len(family) * min(p_values[i] for i in family)) for family in families)
        assert found == pytest.approx(slow)
