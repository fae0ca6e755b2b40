"""Balanced accuracy: its value by definition, and the coverage of its interval by simulation."""

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

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
