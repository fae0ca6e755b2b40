"""Intervals cover what they should, and are honest where nothing varied."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from interp import InterpError
from interp.auditing.statistics.comparison import mean_interval, paired_difference


def coverage(rate, n, trials=300):
    draws = np.random.default_rng(0).random((trials, n)) < rate
    inside = [
        (e := mean_interval(row.astype(float).tolist(), seed=1, resamples=400)).low <= rate <= e.high for row in draws
    ]
    return np.mean(inside)


def test_intervals_cover_the_truth_about_95_times_in_100():
    assert 0.90 <= coverage(0.5, 80) <= 0.98
    assert 0.90 <= coverage(0.2, 80) <= 0.98


@given(st.integers(1, 500), st.booleans())
def test_all_alike_gives_wilsons_interval_not_a_point(n, value):
    found = mean_interval([float(value)] * n)
    reference = binomtest(n * value, n).proportion_ci(method="wilson")
    assert (found.low, found.high) == pytest.approx((reference.low, reference.high), abs=1e-9)
    assert found.high > found.low


@pytest.mark.parametrize("n", [30, 100, 300])
def test_more_failures_never_look_better(n):
    failures = [[1.0] * count + [0.0] * (n - count) for count in range(n // 2)]
    highs = [mean_interval(scores).high for scores in failures]
    assert highs == sorted(highs)
    drops = [paired_difference([1.0] * n, [1 - x for x in scores]).low for scores in failures]
    assert drops == sorted(drops, reverse=True)


def test_paired_intervals_cover_a_small_drop():
    """One item in fifty lost, none won: the drop is inside about 95 times in 100, though often no item shows it."""
    draws = np.random.default_rng(0).random((300, 100)) < 0.02
    found = [paired_difference([1.0] * 100, (1.0 - row).tolist(), resamples=300) for row in draws]
    assert 0.92 <= np.mean([e.low <= -0.02 <= e.high for e in found]) <= 1.0


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=30), st.integers(0, 9))
def test_an_interval_holds_its_estimate_and_repeats(scores, seed):
    found = mean_interval(scores, seed)
    assert found.low - 1e-9 <= found.estimate <= found.high + 1e-9
    assert found == mean_interval(scores, seed)
    assert found.estimate == pytest.approx(np.mean(scores), abs=1e-9)


def test_pairing_narrows_the_interval():
    noise = np.random.default_rng(0).normal(0, 1, 200)
    paired = paired_difference(noise.tolist(), (noise + 0.1).tolist())
    alone = mean_interval((noise + 0.1).tolist())
    assert paired.high - paired.low < 0.01 * (alone.high - alone.low)
    unchanged = paired_difference([1.0] * 50, [1.0] * 50)
    assert unchanged.low == -unchanged.high < 0
    losses = paired_difference([1.5, 2.5], [1.5, 2.5])
    assert losses.low == losses.high == 0, "a loss that did not change did not change"


def test_no_scores_and_nan_are_refused():
    for scores in ([], [float("nan")], [1.0, float("inf")]):
        with pytest.raises(InterpError, match="cannot estimate"):
            mean_interval(scores)
    with pytest.raises(InterpError, match="differ in number"):
        paired_difference([1.0], [1.0, 0.0])
