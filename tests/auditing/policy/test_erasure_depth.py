"""Erasure depth under a policy: each limit by the unfavourable end, and nothing is met by what is missing."""

from dataclasses import replace
from datetime import date, timedelta

import pytest
from audit_rows import APPROVALS, BESIDE, DAY, GOOD, MODEL
from depth_records import curve, depth, rate
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.auditing import ErasureDepth
from interp.auditing.auditor import Audit
from interp.auditing.policy.decision import Policy, decide
from interp.auditing.policy.erasure_depth import RECORD
from interp.auditing.policy.schema import ATTEMPTS, DepthLimits
from interp.auditing.policy.sealed import write_sealed

LIMITS = DepthLimits(relearning_steps_at_least=4, recovered_at_most=0.1, linear_auroc_at_most=0.6)
POLICY = Policy(target="hostility", required=("refusal",), depth=LIMITS)
LOW, MIDDLE, HIGH = rate(0.0, 0.1), rate(0.3, 0.7), rate(0.8, 0.95)
DEEP = depth(curves=[curve(LOW, LOW, LOW, LOW, HIGH)], linear=rate(0.45, 0.55))


def decided(record, policy=POLICY, **fields):
    audit = replace(Audit(GOOD, MODEL, MODEL, baselines=BESIDE, measured=DAY.isoformat(), edit="weights"), **fields)
    return decide(audit, policy, approvals=APPROVALS, today=DAY, depth=record)


def test_a_deep_edit_is_allowed_and_the_reasons_name_every_limit():
    decision = decided(DEEP)
    assert decision.outcome == "allow"
    texts = " | ".join(reason.text for reason in decision.reasons)
    assert all(name in texts for name in (*ATTEMPTS, "4 steps of fine-tuning", "resid_post.1"))


def test_without_a_record_the_requirement_is_not_met():
    decision = decided(None)
    assert decision.outcome == "inconclusive"
    assert "the erasure depth of hostility is not measured" in decision.unmet[0].text
    assert decided(None, POLICY.model_copy(update={"depth": None})).outcome == "allow", "control: not asked for"


@pytest.mark.parametrize(
    ("record", "outcome", "words"),
    [
        (depth(curves=DEEP.relearning), "inconclusive", "no probes were fitted"),
        (depth(curves=DEEP.relearning, linear=rate(0.7, 0.8)), "deny", "linear probe at resid_post.1: at most 0.800"),
        (depth(linear=rate(0.5, 0.5)), "inconclusive", "no relearning"),
        (depth(curves=[curve(LOW, LOW, HIGH)], linear=rate(0.5, 0.5)), "deny", "back for 1 steps"),
        (depth(curves=[curve(LOW, LOW)], linear=rate(0.5, 0.5)), "inconclusive", "back for 1 steps"),
        (depth(curves=[curve(LOW, MIDDLE, MIDDLE, HIGH)], linear=rate(0.5, 0.5)), "deny", "back for 0 steps"),
        (depth(curves=[curve(LOW, MIDDLE, MIDDLE)], linear=rate(0.5, 0.5)), "inconclusive", "back for 0 steps"),
        (depth(curves=[curve(LOW, LOW, LOW, LOW, model="control")]), "inconclusive", "no relearning"),
    ],
)
def test_each_limit_is_put_to_the_unfavourable_end(record, outcome, words):
    decision = decided(record)
    assert decision.outcome == outcome
    assert any(words in reason.text for reason in decision.unmet)


def test_every_attempt_counts_those_that_the_policy_does_not_name_too():
    for by, outcome in (
        (dict.fromkeys(ATTEMPTS[1:], LOW), "inconclusive"),
        (dict.fromkeys(ATTEMPTS, LOW) | {"French": rate(0.05, 0.2)}, "deny"),
        (dict.fromkeys(ATTEMPTS, LOW) | {"French": rate(0.05, 0.2, n=40)}, "inconclusive"),
        (dict.fromkeys(ATTEMPTS, LOW) | {"French": LOW}, "allow"),
    ):
        assert decided(depth(by, DEEP.relearning, rate(0.45, 0.55))).outcome == outcome


@pytest.mark.parametrize(
    ("record", "audit"),
    [
        ({"behaviour": "sycophancy"}, {}),
        ({"weights": "1" * 64}, {}),
        ({"base": "1" * 64}, {}),
        ({"recipe": "5" * 64}, {}),
        ({}, {"edit": "hooks", "recipe": "5" * 64}),
        ({"measured": "2026-03-02"}, {}),
        ({"measured": ""}, {}),
    ],
)
def test_a_record_of_something_else_meets_nothing(record, audit):
    assert decided(DEEP.model_copy(update=record), **audit).outcome == "inconclusive"


def test_a_recipe_that_ran_by_hooks_has_the_record_of_that_recipe():
    record = DEEP.model_copy(update={"recipe": "5" * 64})
    assert decided(record, edit="hooks", recipe="5" * 64).outcome == "allow"
    assert decided(record, edit="hooks", recipe="6" * 64).outcome == "inconclusive"


rates = st.tuples(st.floats(0, 1), st.floats(0, 1), st.sampled_from([40, 150])).map(
    lambda x: rate(min(x[:2]), max(x[:2]), x[2])
)


@given(
    st.dictionaries(st.sampled_from([*ATTEMPTS, "French"]), rates),
    st.lists(rates, min_size=1, max_size=6),
    st.none() | rates,
    st.integers(-5, 300),
    st.booleans(),
)
def test_no_missing_expired_or_shallow_evidence_allows(by, course, linear, age, present):
    policy = POLICY.model_copy(update={"evidence_days_at_most": 90})
    day = (DAY - timedelta(age)).isoformat()
    record = depth(by, [curve(*course)], linear, measured=day) if present else None
    decision = decided(record, policy)
    if decision.allow:
        assert record is not None
        assert 0 <= age <= 90
        assert set(ATTEMPTS) <= set(by)
        assert all(x.high <= 0.1 for x in by.values())
        assert linear is not None
        assert linear.high <= 0.6
        assert len(course) >= 4
        assert all(x.high < 0.5 for x in course[:4])
    elif record is not None and 0 <= age <= 90 and set(ATTEMPTS) <= set(by) and linear and len(course) >= 4:
        assert max(x.high for x in by.values()) > 0.1 or linear.high > 0.6 or max(x.high for x in course[:4]) >= 0.5


def test_a_policy_without_limits_takes_no_record_and_limits_need_a_target():
    with pytest.raises(InterpError, match="sets no limits on the erasure depth"):
        decided(DEEP, POLICY.model_copy(update={"depth": None}))
    with pytest.raises(InterpError, match="depth has no limit"):
        Policy.parse({"target": "hostility", "depth": {}})
    with pytest.raises(InterpError, match="depth is that of the target"):
        Policy.parse({"tiers": [{"name": "low"}], "depth": {"recovered_at_most": 0.1}})
    with pytest.raises(InterpError, match="did you mean recovered_at_most"):
        Policy.parse({"target": "hostility", "depth": {"recoverd_at_most": 0.1}})


def test_a_record_is_saved_and_shown(tmp_path):
    write_sealed(DEEP, tmp_path / RECORD, 1)
    assert ErasureDepth.read(tmp_path) == DEEP
    assert DEEP.recovery_rows()[0] == {"attempt": "soft prompt", "edited": "0.010 [0.000, 0.020]"}
    assert DEEP.relearning_rows()[0]["half back after"] == "8 steps"
    assert "half back after 8 steps" in str(DEEP.card_rows())
    assert DEEP.figures()["sha256"] == DEEP.digest
    assert date.fromisoformat(DEEP.measured) == DAY
