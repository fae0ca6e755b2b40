"""Objectives are costs, constraints are means of excesses, and each behaviour has the bound that is meant for it."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.auditing import text_loss
from interp.auditing.policy.schema import Threshold
from interp.search.sweeps.objectives import Goals, dominates
from interp.search.sweeps.sweep_file import BOUNDS

BASE = text_loss("loss", ["Rain fell.", "Snow fell.", "It rained."])
KINDS = {
    "harm": ("harm", "rate"),
    "kept": ("protected", "rate"),
    "lean": ("protected", "margin"),
    "loss": ("capability", "nats"),
}
BEHAVIOURS = [replace(BASE, name=name, kind=kind, unit=unit) for name, (kind, unit) in KINDS.items()]


def test_every_behaviour_but_the_objectives_has_the_bound_of_its_kind_and_unit_or_its_own():
    own = Threshold(behaviour="kept", metric="after", at_least=0.5)
    goals = Goals.of(BEHAVIOURS, [], [own], BOUNDS)
    assert goals.objectives == ("harm",)
    assert {name: str(bound) for name, bound in goals.constraints.items()} == {
        "kept": "kept: after at least 0.5",
        "lean": "every protected behaviour: change at least -0.1",
        "loss": "every capability behaviour: relative change at most 0.02",
    }
    with pytest.raises(InterpError, match=r"no behaviour 'harn' is measured; did you mean harm"):
        Goals.of(BEHAVIOURS, ["harn"], (), ())
    with pytest.raises(InterpError, match=r"no objective is given, and no harm measured"):
        Goals.of(BEHAVIOURS[1:], [], (), ())
    with pytest.raises(InterpError, match=r"loss is in the unit nats; give its constraint unit: nats"):
        Goals.of(BEHAVIOURS, [], [Threshold(behaviour="loss", metric="after", at_most=0.5)], ())


@given(st.lists(st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)), min_size=3, max_size=3), st.floats(-0.5, 0.5))
def test_the_mean_excess_is_the_metric_of_a_policy_less_its_bound(pairs, bound):
    before, after = map(list, zip(*pairs, strict=True))
    old, new = np.mean(before), np.mean(after)
    for metric, value in {"after": new, "change": new - old, "relative_change": (new - old) / old}.items():
        for side in ("at_most", "at_least"):
            threshold = Threshold(behaviour="loss", unit="nats", metric=metric, **{side: bound})
            excess = Goals.of(BEHAVIOURS, ["harm"], [threshold], ()).broken({"loss": before}, {"loss": after})["loss"]
            sign = (value - bound) if side == "at_most" else (bound - value)
            assert abs(excess) < 1e-9 or np.sign(excess) == np.sign(sign)
    goals = Goals.of(BEHAVIOURS, ["harm"], [threshold], ())
    assert goals.broken({"loss": before}, {"harm": [1.0]}) == {}, "a trial that ended before the loss was measured"


def test_a_point_dominates_another_if_it_is_nowhere_worse_and_somewhere_better():
    assert dominates([1.0, 1.0], [1.0, 2.0])
    assert not dominates([1.0, 1.0], [1.0, 1.0])
    assert not dominates([0.0, 2.0], [1.0, 1.0])
