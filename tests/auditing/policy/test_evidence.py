"""Evidence: the newest measurement counts, whatever it shows, and what has expired counts as missing."""

from datetime import timedelta

import pytest
from audit_rows import GOOD, MODEL
from hypothesis import given, settings
from hypothesis import strategies as st
from risk_reports import AGE, DAY, POLICY, saved_audit

from interp import InterpError, decide
from interp.auditing.auditor import Audit
from interp.auditing.policy.evidence import check_age, gather_evidence, last_day
from interp.auditing.policy.schema import Policy


@given(st.integers(-400, 400), st.integers(1, 300))
def test_only_what_is_between_its_day_and_the_limit_counts(age, limit):
    reason = check_age("the audit", (DAY - timedelta(age)).isoformat(), limit, DAY)
    assert (reason.met is True) == (0 <= age <= limit)
    assert (DAY.isoformat() <= last_day((DAY - timedelta(age)).isoformat(), limit)) == (age <= limit)


@settings(deadline=None, max_examples=50)
@given(st.integers(-30, 200), st.sampled_from(["", "2026-13-01", "yesterday", None]), st.integers(0, 3))
def test_no_expired_unsigned_or_undated_audit_is_allowed(age, other_day, signatures):
    day = (DAY - timedelta(age)).isoformat() if other_day is None else other_day
    policy = Policy(target="hostility", required=("refusal",), evidence_days_at_most=AGE, signatures_at_least=2)
    approvals = ["first", "second", "third"][:signatures]
    decision = decide(Audit(GOOD, MODEL, MODEL, measured=day), policy, approvals=approvals, today=DAY)
    assert decision.allow == (other_day is None and 0 <= age <= AGE and signatures >= 2)
    assert decide(Audit(GOOD, MODEL, MODEL, measured=day), policy, today=DAY).allow is False, "no report"
    assert decision.outcome != "deny", "what has expired is missing, not known to fail"


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), min_size=1, max_size=4, unique_by=lambda x: x[0]))
@settings(deadline=None, max_examples=10)
def test_the_newest_measurement_counts_in_any_order(tmp_path_factory, drawn):
    folder = tmp_path_factory.mktemp("audits")
    audits = {
        str(n): Audit.read(saved_audit(folder / f"{n}.json", 0.9 * harmful, age))
        for n, (age, harmful) in enumerate(drawn)
    }
    audit, source, expired = gather_evidence(audits, POLICY, DAY)
    newest = min(range(len(drawn)), key=lambda n: drawn[n][0])
    assert source == dict.fromkeys(("toxicity", "refusal"), str(newest))
    assert audit["toxicity"].after == audits[str(newest)]["toxicity"].after
    assert not expired


def test_audits_of_parts_are_one_and_an_expired_part_is_missing(tmp_path):
    parts = [("a", ("toxicity",), 1), ("b", ("refusal",), 2)]
    audits = {name: Audit.read(saved_audit(tmp_path / name, 0, age, rows)) for name, rows, age in parts}
    whole = Audit.read(saved_audit(tmp_path / "whole"))
    audit, _, expired = gather_evidence(audits, POLICY, DAY)
    assert (audit.rows, audit.suite, expired) == (whole.rows, whole.suite, [])
    audit.save(tmp_path / "combined")
    assert Audit.read(tmp_path / "combined") == audit, "its figures follow from its scores"
    audit, source, expired = gather_evidence(audits, POLICY, DAY + timedelta(AGE - 1))
    assert (list(source), [row.name for row in audit.rows]) == (["toxicity"], ["toxicity"])
    assert [reason.met for reason in expired] == [None]
    assert "counts as missing" in expired[0].text


def test_audits_that_contradict_or_are_of_other_models_are_refused(tmp_path):
    first, other = Audit.read(saved_audit(tmp_path / "a")), Audit.read(saved_audit(tmp_path / "b", 0.5))
    with pytest.raises(InterpError, match="b and a measured toxicity on the same day, with different scores"):
        gather_evidence({"a": first, "b": other}, POLICY, DAY)
    foreign = Audit.read(saved_audit(tmp_path / "c", age=1, digest="1" * 64))
    with pytest.raises(InterpError, match="c is not of the model and edit of a"):
        gather_evidence({"a": first, "c": foreign}, POLICY, DAY)
    with pytest.raises(InterpError, match="no audits"):
        gather_evidence({}, POLICY, DAY)
