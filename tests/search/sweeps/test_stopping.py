"""The sequential test stops what is hopeless early, and what is not at most as often as its error rate says."""

import numpy as np
import pytest

from interp.auditing import text_loss
from interp.auditing.policy.schema import Threshold
from interp.search.sweeps.objectives import Goals
from interp.search.sweeps.stopping import StoppingRule

ITEMS = 100
LOOKS = (10, 30)
TEXTS = [f"Rain fell for {n} days." for n in range(ITEMS)]


def _goals(unit, kind="harm"):
    from dataclasses import replace

    behaviour = replace(text_loss("x", TEXTS), unit=unit, kind=kind)
    kl = replace(behaviour, name="kl", unit="nats", kind="capability")
    bound = Threshold(behaviour="x", metric="change", unit=unit, at_most=0.05)
    return Goals.of([behaviour, kl], ["kl"], [bound], ())


def _stopped(rule, scores):
    return any(rule.reason({"x": scores[:look], "kl": [0.0] * look}, {}) for look in LOOKS)


@pytest.mark.parametrize("unit", ["rate", "nats"])
def test_a_trial_that_keeps_its_bound_exactly_stops_at_most_as_often_as_the_error_rate(unit):
    rng, goals = np.random.default_rng(0), _goals(unit)
    before = [0.0] * ITEMS
    stops = 0
    for _ in range(200):
        raised = rng.permutation([1.0] * 5 + [0.0] * 95) if unit == "rate" else rng.gamma(1.0, 1.0, ITEMS)
        after = raised if unit == "rate" else raised - raised.mean() + 0.05
        stops += _stopped(StoppingRule(goals, {"x": before, "kl": before}, looks=2, error=0.05), list(after))
    assert stops <= 0.05 * 200 * 1.3


def test_a_wrecked_trial_stops_at_the_first_look_and_a_complete_one_is_judged_without_error():
    goals = _goals("nats")
    rule = StoppingRule(goals, {"x": [0.0] * ITEMS, "kl": [0.0] * ITEMS}, looks=2)
    wrecked = list(np.random.default_rng(0).normal(4.0, 1.0, ITEMS))
    assert rule.reason({"x": wrecked[:10]}, {}) == "x is beyond its bound"
    barely = [0.0504] * ITEMS
    barely[0] += 5 * (barely[1] - 0.0503)
    assert rule.reason({"x": barely}, {}) == "x is beyond its bound"
    assert rule.reason({"x": [0.05] * ITEMS}, {}) == ""


def test_a_point_that_is_better_in_every_objective_stops_a_trial_and_one_that_is_not_does_not():
    goals = Goals.of([text_loss("a", TEXTS), text_loss("b", TEXTS)], ["a", "b"], (), ())
    base = {"a": [2.0] * ITEMS, "b": [1.0] * ITEMS}
    rule, noise = StoppingRule(goals, base, looks=2), np.random.default_rng(0).normal(0, 0.1, ITEMS)
    trial = {"a": list(3.0 + noise[:10]), "b": list(1.5 + noise[:10])}
    assert rule.reason(trial, {7: base}) == "worse than trial 7 in every objective"
    assert rule.reason(trial, {7: base | {"b": [1.6] * ITEMS}}) == ""


def test_a_trial_that_gains_less_than_asked_stops_and_one_that_gains_it_does_not():
    from dataclasses import replace

    goals = Goals.of([replace(text_loss("a", TEXTS), kind="harm")], ["a"], (), ())
    noise = np.random.default_rng(0).normal(0, 0.05, ITEMS)
    rule = StoppingRule(goals, {"a": [2.0] * ITEMS}, looks=2, gain=0.1)
    assert rule.reason({"a": list(2.0 + noise[:10])}, {}) == "gains less than 10% in every objective"
    assert rule.reason({"a": list(1.7 + noise[:10])}, {}) == ""
