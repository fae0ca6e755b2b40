"""The rule's errors sum to 5 %, it is silent within the margin and names the audit that left it; trends are slopes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import interp
from interp.auditing import compare_scores, text_loss
from interp.auditing.audit_row import ItemScores, audit_rows
from interp.auditing.auditor import Audit
from interp.auditing.behaviours import Behaviour, Scores
from interp.models.identity import ModelReference
from interp.upkeep import assess_series
from interp.upkeep.drift.drift_alarm import FALSE_ALARMS, alarm_level

MODEL = ModelReference(name="m", digest="0", model_type="llama", d_model=2, n_layers=1)


def audits(*series, unit="rate", groups=()):
    """Audits of one behaviour whose items have these scores, without a model."""
    prompts = tuple(f"item {number}" for number in range(len(series[0])))
    behaviour = Behaviour("b", "harm", "is b", prompts, lambda model: Scores(()), unit, groups)
    made = []
    for values in series:
        items = {"b": ItemScores.of(behaviour, {arm: [Scores(tuple(values))] for arm in ("before", "after")})}
        made.append(Audit(audit_rows([behaviour], items, 0), MODEL, MODEL, items=items))
    return made


def test_all_errors_sum_to_the_stated_rate():
    spent = sum(1 - alarm_level(number, 1) for number in range(1, 20_000))
    assert FALSE_ALARMS - 1e-4 < spent <= FALSE_ALARMS
    assert 1 - alarm_level(3, 7) == pytest.approx((1 - alarm_level(3, 1)) / 7)


@settings(max_examples=20)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=6), st.integers(0, 40))
def test_changes_within_the_margin_never_raise_an_alarm(steps, ones):
    """An interval contains its estimate, so an estimate within the margin can't be beyond it."""
    first = np.array([1.0] * ones + [0.0] * (60 - ones))
    later = [np.roll(first, step) for step in steps] + [np.where(np.arange(60) < ones + 3, 1.0, 0.0)]
    (trend,) = assess_series(audits(first, *later), 0.05)
    assert trend.alarm is None


@pytest.mark.parametrize("jump", [1, 4])
def test_a_jump_raises_an_alarm_where_it_is(jump):
    still, up = np.zeros(100), np.array([1.0] * 60 + [0.0] * 40)
    (trend,) = assess_series(audits(*[still] * jump, *[up] * 3), 0.05)
    assert (trend.alarm, trend.reference.estimate, trend.last.estimate) == (jump, 0.0, 0.6)
    last = compare_scores(still, up, level=alarm_level(jump + 2, 1)).difference
    assert (trend.change, last.low > 0.05) == (last, True)
    (back,) = assess_series(audits(*[still] * jump, up, still), 0.05)
    assert back.alarm == jump, "an alarm stays"
    assert assess_series(audits(*[still] * jump, *[up] * 3), 0.7)[0].alarm is None


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_the_trend_is_the_slope_of_the_means(seed):
    scores = np.random.default_rng(seed).normal(size=(5, 12))
    (trend,) = assess_series(audits(*scores, unit="margin"), 0.05)
    slope = np.polyfit(np.arange(5), scores.mean(1), 1)[0]
    assert trend.slope.estimate == pytest.approx(slope, abs=1e-9)
    assert trend.slope.low <= slope <= trend.slope.high


def test_items_without_a_score_and_groups_are_taken_as_in_audits():
    first, second = np.zeros(30), np.ones(30)
    second[0] = np.nan
    (trend,) = assess_series(audits(first, second), 0.05)
    assert (trend.change.n, trend.slope.estimate, trend.alarm) == (29, 1.0, 1)
    groups = tuple(str(number // 10) for number in range(30))
    (grouped,) = assess_series(audits(first, second, groups=groups), 0.05)
    assert grouped.change.low < trend.change.low
    lone = np.array([0.0] + [np.nan] * 29)
    assert assess_series(audits(lone, lone), 0.05)[0].slope is None


def test_one_audit_has_no_trend(tiny):
    loss = text_loss("loss", ["w5 w6 w7", "w8 w9 w10"])
    (trend,) = assess_series([interp.audit(tiny("llama"), None, [loss])], 0.05)
    assert (trend.slope, trend.alarm, trend.change.estimate) == (None, None, 0.0)
