"""Agreement: alpha as its definition has it, and a split by group is found where there is one and not by chance."""

from itertools import permutations
from random import Random

import pytest
from judged_replies import rows, write

from interp.upkeep import Judgements, measure_agreement


def slow_alpha(items, distance):
    """Krippendorff's alpha from its definition: observed over expected disagreement of pairs of values."""
    items = [values for values in items if len(values) > 1]
    pooled = [value for values in items for value in values]
    observed = sum(sum(distance(*pair) for pair in permutations(values, 2)) / (len(values) - 1) for values in items)
    expected = sum(distance(*pair) for pair in permutations(pooled, 2)) / (len(pooled) - 1)
    return 1 - observed / expected


def test_alpha_is_that_of_its_definition_with_raters_missing(tmp_path):
    rng = Random(0)
    noise = {(rater, n) for rater in "abcd" for n in range(20) if rng.random() < 0.3}
    lines = [row for row in rows(20, noise=noise) if rng.random() < 0.8]
    judgements = Judgements.read(write(tmp_path / "pairs.jsonl", lines))
    agreement = measure_agreement(judgements)
    expected = slow_alpha([list(x.votes.values()) for x in judgements.comparisons], lambda a, b: float(a != b))
    assert agreement.alpha.estimate == pytest.approx(expected)
    assert agreement.alpha.low < expected < agreement.alpha.high


def test_raters_who_split_by_group_are_told_from_raters_who_err(tmp_path):
    split = measure_agreement(Judgements.read(write(tmp_path / "a.jsonl", rows(20, split=True, noise={("a", 3)}))))
    assert split.split
    assert split.excess.low > 0.3
    assert set(split.within) == {"north", "south"}
    found = 0
    for seed in range(4):
        rng = Random(seed)
        noise = {(rater, n) for rater in "abcd" for n in range(20) if rng.random() < 0.25}
        found += measure_agreement(Judgements.read(write(tmp_path / "b.jsonl", rows(20, noise=noise)))).split
    assert found <= 1, "control: independent errors are no split"


def test_what_cannot_be_known_is_none(tmp_path):
    alone = [row for row in rows(5) if row["rater"] == "a"]
    assert measure_agreement(Judgements.read(write(tmp_path / "a.jsonl", alone))).alpha is None
