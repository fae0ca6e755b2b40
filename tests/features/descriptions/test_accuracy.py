"""Balanced accuracy: its value by definition, and the coverage of its interval by simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.moments import wilson
from interp.features import BalancedAccuracy
from interp.features.descriptions.accuracy import Answer

ANSWERS = st.lists(st.tuples(st.booleans(), st.sampled_from([True, False, None])), max_size=20)


def answers(pairs):
    return [Answer(place=n, fires=fires, said=said) for n, (fires, said) in enumerate(pairs)]


@given(st.lists(ANSWERS, max_size=4))
def test_the_value_is_the_mean_over_latents_of_the_mean_of_both_shares(latents):
    each, n = [], 0
    for pairs in latents:
        sides = [[said == side for fires, said in pairs if said is not None and fires == side] for side in (1, 0)]
        if all(sides):
            each.append(sum(sum(side) / len(side) for side in sides) / 2)
            n += sum(map(len, sides))
    found = BalancedAccuracy.of([answers(pairs) for pairs in latents])
    assert found.n == n
    assert found.missing == sum(said is None for pairs in latents for _, said in pairs)
    if not each:
        assert math.isnan(found.value)
        return
    assert found.value == pytest.approx(sum(each) / len(each))
    assert 0 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(("right", "wrong"), [(0.5, 0.5), (0.9, 0.7), (0.98, 0.6)])
@pytest.mark.parametrize("count", [1, 4])
def test_the_interval_covers_at_least_about_as_often_as_it_says(right, wrong, count):
    rng, covered, trials = random.Random(0), 0, 400
    for _ in range(trials):
        latents = [
            answers(
                [(True, rng.random() < right) for _ in range(12)] + [(False, rng.random() >= wrong) for _ in range(12)]
            )
            for _ in range(count)
        ]
        found = BalancedAccuracy.of(latents)
        covered += found.low <= (right + wrong) / 2 <= found.high
    assert covered / trials > 0.925
    assert found.high - found.low < 0.45


@pytest.mark.parametrize("alike", [1.0, 0.5, 0.0])
@pytest.mark.parametrize(("share", "count"), [(0.7, 4), (0.9, 1)])
def test_answers_on_the_two_sides_of_a_text_are_pairs(alike, share, count):
    rng, covered, apart, trials = random.Random(1), 0, 0, 400
    for _ in range(trials):
        pairs = [[rng.random() for _ in range(12)] for _ in range(count)]
        latents = [[(x < share, (x if rng.random() < alike else rng.random()) < share) for x in each] for each in pairs]
        both = [
            [[Answer(place=n + 100 * other * side, fires=not side, said=right != bool(side))
              for n, row in enumerate(each) for side, right in enumerate(row)] for each in latents]
            for other in (0, 1)
        ]  # fmt: skip
        paired, separate = (BalancedAccuracy.of(each) for each in both)
        assert paired.value == separate.value
        covered += paired.low <= share <= paired.high
        apart += separate.low <= share <= separate.high
    assert covered / trials > 0.925
    assert alike < 1 or apart / trials < 0.9, "control: as texts of their own they don't cover"


def test_one_answer_that_is_right_on_both_sides_is_not_taken_for_two():
    def all_right(step):
        sides = [Answer(place=n + step * side, fires=not side, said=not side) for n in range(12) for side in (0, 1)]
        return BalancedAccuracy.of([sides])

    assert all_right(0).low == pytest.approx(wilson(1.0, 12.0, 1.959964)[0], abs=1e-4)
    assert all_right(100).low > all_right(0).low + 0.05, "control: other texts"
