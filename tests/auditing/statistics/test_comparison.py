"""Paired comparisons: intervals that cover, exact tests, clusters, missing scores, and what n could have found."""

import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import t

from interp import InterpError
from interp.auditing.statistics.comparison import compare_scores, mean_interval
from interp.auditing.statistics.intervals import Clusters, Z, bootstrap_t, student, tango
from interp.auditing.statistics.significance import holm

sys.path.insert(0, str(Path(__file__).parents[3] / "experiments"))

from audit_simulation import Setting, simulate


def compared(before, after, groups=(), unit="rate"):
    return compare_scores([*map(float, before)], [*map(float, after)], groups, unit, resamples=500)


@pytest.mark.parametrize(
    "setting",
    [
        Setting("rate", 1, 200, 0.1, 0.5, 0.0),
        Setting("rate", 1, 50, 0.5, 0.5, 0.1),
        Setting("rate", 5, 200, 0.5, 0.5, 0.1),
        Setting("nats", 1, 50, 0.0, 0.0, 0.1),
        Setting("nats", 5, 200, 0.0, 0.0, 0.0),
    ],
)
def test_intervals_of_simulated_audits_cover_and_a_no_op_is_seldom_significant(setting):
    """In 200 audits; the range is that of docs/results/statistics.md and three standard errors."""
    found = simulate(setting, 200, seed=3)
    assert 0.93 - 0.046 <= found.difference <= 0.97 + 0.036
    assert 0.93 - 0.046 <= found.after <= 0.97 + 0.036
    if setting.change == 0:
        assert found.significant <= 0.055 + 0.046


def test_forgetting_the_clusters_would_not_cover():
    """The control: the same draws, taken for independent items."""
    setting = Setting("nats", 5, 200, 0.0, 0.0, 0.0)
    draws = [setting.draw(np.random.default_rng([5, audit])) for audit in range(150)]
    blind = [compared(*draw, unit="nats").difference for draw in draws]
    seeing = [compared(*draw, setting.groups, "nats").difference for draw in draws]
    assert np.mean([one.low <= 0 <= one.high for one in blind]) < 0.85
    assert np.mean([one.low <= 0 <= one.high for one in seeing]) > 0.9


@pytest.mark.parametrize(("won", "lost", "n"), [(0, 0, 50), (3, 10, 100), (1, 0, 30), (40, 12, 80), (0, 20, 20)])
def test_score_intervals_end_where_the_likelihoods_score_is_z(won, lost, n):
    """Against the share of lost items that is likeliest under each end's difference, searched for numerically."""

    def score(difference):
        def unlikely(q):
            shares = [q + difference, q, 1 - 2 * q - difference]
            counts = [won, lost, n - won - lost]
            return -sum(
                count * np.log(max(share, 1e-300)) for count, share in zip(counts, shares, strict=True) if count
            )

        bounds = max(0.0, -difference), (1 - difference) / 2
        q = minimize_scalar(unlikely, bounds=bounds, method="bounded", options={"xatol": 1e-12}).x
        return ((won - lost) / n - difference) / np.sqrt((2 * q + difference - difference**2) / n)

    low, high = tango(won / n, lost / n, float(n), Z)
    assert low < (won - lost) / n < high or abs(won - lost) == n
    for end, wanted in ((low, Z), (high, -Z)):
        assert abs(end) > 1 - 1e-6 or score(end) == pytest.approx(wanted, abs=1e-3)


def test_students_quantile_is_students():
    for freedom in (1, 2, 3, 4, 9, 30, 199, 1000):
        assert student(freedom) == pytest.approx(t.ppf(0.975, freedom), rel=1e-10)


def test_an_item_without_a_score_is_left_out_on_both_sides_and_counted():
    nan = float("nan")
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=40), rng.normal(size=40)
    groups = [str(item // 4) for item in range(40)]
    gaps = np.where(np.arange(40) == 3, nan, old), np.where(np.isin(np.arange(40), (7, 8)), nan, new)
    found = compared(*gaps, groups, "margin")
    kept = [item for item in range(40) if item not in (3, 7, 8)]
    whole = compared(old[kept], new[kept], [groups[item] for item in kept], "margin")
    assert (found.missing, whole.missing) == (3, 0)
    assert (found.missing_before, found.missing_after) == (1, 2)
    assert (found.before, found.after, found.difference) == (whole.before, whole.after, whole.difference)
    assert found.difference.n == 37


@pytest.mark.parametrize("unit", ["rate", "nats"])
def test_items_five_times_over_tell_no_more_when_their_groups_are_told(unit):
    rng = np.random.default_rng(0)
    old, new = (rng.random((2, 60)) < 0.5).astype(float) if unit == "rate" else rng.normal(2, 1, (2, 60))
    groups = [str(item) for item in range(60) for _ in range(5)]
    once = compared(old, new, unit=unit)
    copied = np.repeat(old, 5), np.repeat(new, 5)
    told, blind = compared(*copied, groups, unit), compared(*copied, unit=unit)
    widths = [found.difference.high - found.difference.low for found in (once, told, blind)]
    assert widths[1] == pytest.approx(widths[0], rel=0.05)
    assert widths[2] < 0.55 * widths[0], "control: without groups they pass for evidence"
    assert told.n_groups == once.n_groups == 60
    assert told.detectable == pytest.approx(once.detectable, rel=0.05)


@pytest.mark.parametrize("unit", ["rate", "nats"])
def test_the_detectable_difference_is_found_four_times_in_five(unit):
    rng = np.random.default_rng(1)
    n = 150

    def pair(change):
        if unit == "nats":
            old = rng.normal(3, 1, n)
            return old, old + rng.normal(change, 0.5, n)
        old = np.zeros(n)
        return old, (rng.random(n) < change).astype(float)

    sample = pair(0.0)
    smallest = compared(*sample, unit=unit).detectable
    found = np.mean([compared(*pair(smallest), unit=unit).p <= 0.05 for _ in range(100)])
    assert 0.65 <= found <= 0.95
    less = np.mean([compared(*pair(smallest / 3), unit=unit).p <= 0.05 for _ in range(60)])
    assert less < 0.4


def test_fractions_of_items_have_intervals_that_are_no_points():
    """Graded replies: where nothing changed, something still might."""
    same = compared([0.5] * 100, [0.5] * 100)
    assert same.difference.low == -same.difference.high < -0.02
    rng = np.random.default_rng(0)
    old = rng.beta(2, 2, 200)
    new = np.clip(old + rng.normal(0, 0.05, 200), 0, 1)
    score, wald = compared(old, new).difference, 1.96 * np.std(new - old) / 200**0.5
    assert (score.high - score.low) / 2 == pytest.approx(wald, rel=0.1)


def test_effects_and_constant_scores():
    half = compared([1.0] * 50 + [0.0] * 50, [0.0] * 100)
    assert half.effect == pytest.approx(-np.pi / 2), "Cohen's h of 0.5 and 0"
    rng = np.random.default_rng(0)
    old = rng.normal(size=400)
    assert compared(old, old + rng.normal(0.5, 1, 400), unit="margin").effect == pytest.approx(0.5, abs=0.15)
    assert compared([1.0, 2.0], [2.0, 3.0], unit="nats").effect == np.inf
    assert compared([1.0, 2.0], [1.0, 2.0], unit="nats").effect == 0
    assert compared([1.0] * 9, [1.0] * 9).constant
    assert not compared([1.0] * 9, [0.0] * 9).constant
    assert not compared([1.0], [1.0]).constant


def test_skew_moves_the_interval():
    values = np.random.default_rng(0).lognormal(0, 1.2, 60)
    clusters = Clusters.of(values)
    low, high = bootstrap_t(clusters, 0, 1000)
    mean, half = clusters.mean, clusters.error * student(59)
    assert high > mean + 1.1 * half
    assert low <= mean - half + 1e-12


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (([1.0], [1.0, 0.0]), "differ in number"),
        (([1.0], [float("inf")]), "infinite"),
        (([float("nan"), 1.0], [1.0, float("nan")]), "none of 2 items has a score both before and after"),
        (([1.5], [1.0]), "rates go from 0 to 1"),
        (([1.0, 1.0], [1.0, 1.0], ["a"]), "2 scores have 1 groups"),
        (([1.0], [2.0], (), "nats"), "at least two"),
        (([1.0, 2.0], [2.0, 4.0], ["a", "a"], "nats"), "at least two"),
    ],
)
def test_what_can_not_be_compared_is_refused(arguments, said):
    with pytest.raises(InterpError, match=said):
        compare_scores(*arguments)
    with pytest.raises(InterpError, match="not a p-value"):
        holm([0.5, float("nan")])


def test_a_rate_may_be_named_and_grouped_on_its_own():
    scores = [0.0, 1.0] * 20
    assert mean_interval(scores) == mean_interval(scores, unit="rate")
    assert mean_interval(scores, groups=[str(i // 8) for i in range(40)]).estimate == 0.5
