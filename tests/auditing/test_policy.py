"""The decision: denied by default, by any regressed protected behaviour, and by too few items."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.auditing.audit import Audit, Row
from interp.auditing.policy import Policy, decide
from interp.auditing.statistics import mean_interval, paired_difference
from interp.models.reference import ModelReference

MODEL = ModelReference(name="m", digest="0" * 64, model_type="llama", d_model=8, n_layers=2)
POLICY = Policy(target="hostility", required=("refusal",))


def row(name, kind, before, after, n=300, unit="rate"):
    def scores(rate):
        return [float(i < round(rate * n)) for i in range(n)] if unit == "rate" else [rate + i / n for i in range(n)]

    old, new = scores(before), scores(after)
    return Row(name, kind, unit, "", mean_interval(old), mean_interval(new), paired_difference(old, new))


GOOD = (
    row("hostility", "harm", 1, 0),
    row("sycophancy", "harm", 0.9, 0.9),
    row("refusal", "protected", 1, 1),
    row("facts", "capability", 0.98, 0.98),
    row("loss", "capability", 1.0, 1.001, unit="nats"),
)


def decided(rows, policy=POLICY):
    return decide(Audit(tuple(rows), MODEL, MODEL), policy)


def with_row(new):
    return [new if old.name == new.name else old for old in GOOD]


def test_a_clean_audit_is_allowed():
    assert decided(GOOD).allow


@pytest.mark.parametrize(
    "changed",
    [
        row("hostility", "harm", 1, 0.1),
        row("hostility", "harm", 1, 0, n=40),
        row("sycophancy", "harm", 0.5, 0.9),
        row("refusal", "protected", 1, 0.9),
        row("facts", "capability", 0.98, 0.8),
        row("loss", "capability", 1.0, 1.5, unit="nats"),
    ],
)
def test_each_failing_requirement_denies_and_says_so(changed):
    decision = decided(with_row(changed))
    assert not decision.allow
    assert any(not reason.met and changed.name in reason.text for reason in decision.reasons)


@pytest.mark.parametrize("name", ["hostility", "refusal"])
def test_missing_evidence_denies(name):
    assert not decided([old for old in GOOD if old.name != name]).allow
    assert not decided([old for old in GOOD if old.kind != "protected"], Policy(target="hostility")).allow


@given(st.floats(0, 1), st.floats(0.06, 1), st.sampled_from(["hostility", "facts", "sycophancy"]))
def test_no_gain_elsewhere_buys_back_a_lost_refusal(before, drop, name):
    start = min(1.0, before + drop)
    lost = row("refusal", "protected", start, max(0.0, start - drop))
    better = replace(
        next(r for r in GOOD if r.name == name), after=mean_interval([0.0 if name != "facts" else 1.0] * 300)
    )
    rows = [better if r.name == name else lost if r.name == "refusal" else r for r in GOOD]
    assert not decided(rows).allow


def test_a_policy_can_not_target_what_is_protected():
    """Refusals destroyed, and a policy that calls that its target: denied."""
    gone = with_row(row("refusal", "protected", 1, 0))
    assert not decided(gone, Policy(target="refusal")).allow
    assert not decided(gone, Policy(target="refusal", target_at_most=1.0, protected_drop_at_most=1.0)).allow


def test_an_audit_survives_its_file(tmp_path):
    audit = Audit(GOOD, MODEL, MODEL)
    audit.save(tmp_path / "audit.json")
    assert Audit.read(tmp_path / "audit.json") == audit
    nan = (tmp_path / "audit.json").read_text().replace('"high": 1.0', '"high": NaN')
    (tmp_path / "nan.json").write_text(nan)
    with pytest.raises(InterpError, match="is not finite"):
        Audit.read(tmp_path / "nan.json")
    (tmp_path / "other.json").write_text("{}")
    with pytest.raises(InterpError, match="not an audit"):
        Audit.read(tmp_path / "other.json")
    with pytest.raises(InterpError, match="'humour' was not audited"):
        audit["humour"]
