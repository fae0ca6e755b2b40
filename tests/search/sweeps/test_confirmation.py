"""Confirming: what was noise on the choosing items shrinks away, and the intervals of all points cover together."""

from dataclasses import replace

import numpy as np
import pytest

from interp import InterpError
from interp.auditing import text_loss
from interp.auditing.policy.schema import Threshold
from interp.search.sweeps.confirmation import CONFIRMED, confirmed_point, read_confirmed, write_confirmed
from interp.search.sweeps.objectives import Goals

ITEMS, POINTS = 60, 20
LOSS = replace(text_loss("loss", [f"Rain fell for {n} days." for n in range(ITEMS)]), unit="margin", kind="harm")


def test_the_best_of_many_edits_that_do_nothing_shrinks_to_nothing():
    rng, goals = np.random.default_rng(0), Goals.of([LOSS], ["loss"], (), ())
    old = {"loss": list(rng.normal(0, 1, ITEMS))}
    noisy = [[{"loss": list(np.add(old["loss"], rng.normal(0, 1, ITEMS)))} for _ in range(POINTS)] for _ in range(2)]
    best = min(range(POINTS), key=lambda n: np.mean(noisy[0][n]["loss"]))
    change = confirmed_point(goals, best, (old, noisy[0][best]), (old, noisy[1][best]), [old], old, POINTS)["loss"]
    assert change.chosen < -0.15
    assert change.change.low < 0 < change.change.high
    assert change.shrinkage == pytest.approx(change.chosen - change.change.estimate)
    assert (change.random, change.no_op) == ((0.0,), 0.0)


def test_intervals_of_several_points_are_wider_and_cover_together():
    rng, goals = np.random.default_rng(1), Goals.of([LOSS], ["loss"], (), ())
    zeros, missed = {"loss": [0.0] * ITEMS}, 0
    for _ in range(15):
        draws = [{"loss": list(rng.normal(0, 1, ITEMS))} for _ in range(5)]
        changes = [confirmed_point(goals, 0, (zeros, x), (zeros, x), [], zeros, 5)["loss"].change for x in draws]
        missed += any(not x.low <= 0 <= x.high for x in changes)
    assert missed <= 3
    alone = confirmed_point(goals, 0, (zeros, draws[0]), (zeros, draws[0]), [], zeros, 1)["loss"].change
    assert changes[0].high - changes[0].low > alone.high - alone.low


@pytest.mark.parametrize(("shift", "kept"), [(0.0, True), (1.0, False), (0.1, None)])
def test_a_bound_is_kept_or_broken_by_the_whole_interval(shift, kept):
    bound = Threshold(behaviour="loss", unit="margin", metric="change", at_most=0.1)
    goals = Goals.of([LOSS, replace(LOSS, name="other")], ["other"], [bound], ())
    noise = list(np.random.default_rng(0).normal(0, 0.1, ITEMS))
    old = {"loss": [0.0] * ITEMS, "other": [0.0] * ITEMS}
    new = {"loss": [shift + x - np.mean(noise) for x in noise], "other": noise}
    assert confirmed_point(goals, 0, (old, new), (old, new), [], old, 2)["loss"].kept is kept


def test_what_was_confirmed_is_read_again(tmp_path):
    goals, scores = Goals.of([LOSS], ["loss"], (), ()), {"loss": [0.5, 1.5] * 30}
    point = confirmed_point(goals, 3, (scores, scores), (scores, scores), [scores], scores, 1)
    assert read_confirmed(tmp_path) == ()
    write_confirmed(tmp_path, [point])
    assert read_confirmed(tmp_path) == (point,)
    (tmp_path / CONFIRMED).write_text('{"points": [{"trial": "x"}]}')
    with pytest.raises(InterpError, match="not what interp sweep wrote"):
        read_confirmed(tmp_path)
