"""Reviews: distinct keys and people approve, dissent is recorded, and what is expired or superseded never allows."""

import json
import shutil
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from risk_reports import AGE, DAY, POLICY, key_pair, saved_audit

from interp import InterpError
from interp.auditing import gate, sign_risk_report, write_risk_report
from interp.auditing.policy.risk_report import SUPERSEDED

pytest.importorskip("model_signing", reason="pip install 'interp[sign]'")


@pytest.fixture(scope="module")
def signed(tmp_path_factory):
    """A report with the approvals of two reviewers, and their keys and that of a third."""
    folder = tmp_path_factory.mktemp("signed")
    write_risk_report([saved_audit(folder / "a.json", age=10)], POLICY, folder / "r", "Ann", today=DAY)
    keys = [key_pair(folder, name) for name in ("bea", "cas", "dia")]
    for (private, _), name in zip(keys[:2], ("Bea", "Cas"), strict=True):
        sign_risk_report(folder / "r", private, name, today=DAY)
    return folder / "r", keys


@settings(deadline=None, max_examples=25)
@given(st.integers(-20, 110), st.lists(st.sampled_from([0, 1, 2])), st.booleans())
def test_no_expired_unsigned_or_superseded_report_allows(signed, days, named, superseded):
    folder, keys = signed
    mark = folder / SUPERSEDED
    mark.write_text("{}") if superseded else mark.unlink(missing_ok=True)
    decision = gate(folder, POLICY, reviewers=[keys[n][1] for n in named], today=DAY + timedelta(days))
    mark.unlink(missing_ok=True)
    assert decision.allow == ({0, 1} <= set(named) and 0 <= days <= AGE - 10 and not superseded)
    assert decision.outcome != "deny"


def test_a_review_that_was_changed_or_moved_from_another_report_does_not_count(signed, tmp_path):
    folder, keys = signed
    reviewers = [public for _, public in keys]
    shutil.copytree(folder, tmp_path / "r")
    review = next((tmp_path / "r" / "reviews").iterdir()) / "review.json"
    review.write_text(json.dumps(json.loads(review.read_text()) | {"statement": "changed"}))
    decision = gate(tmp_path / "r", POLICY, reviewers=reviewers, today=DAY)
    assert decision.outcome == "inconclusive"
    assert any("signed with none of the keys given" in note for note in decision.notes)
    write_risk_report([saved_audit(tmp_path / "b.json")], POLICY, tmp_path / "s", "Ann", today=DAY)
    shutil.copytree(folder / "reviews", tmp_path / "s" / "reviews")
    decision = gate(tmp_path / "s", POLICY, reviewers=reviewers, today=DAY)
    assert decision.outcome == "inconclusive"
    assert all("is of another report" in note for note in decision.notes)


def test_dissent_is_recorded_and_outweighs_the_same_persons_approval(signed, tmp_path):
    folder, keys = signed
    shutil.copytree(folder, tmp_path / "r")
    reviewers = [public for _, public in keys]
    sign_risk_report(tmp_path / "r", keys[2][0], "Dia", "Turns were not tried.", dissent=True, today=DAY)
    decision = gate(tmp_path / "r", POLICY, reviewers=reviewers, today=DAY)
    assert (decision.outcome, decision.notes) == ("allow", ("Dia dissents: Turns were not tried.",))
    sign_risk_report(tmp_path / "r", keys[0][0], "Bea", "On second thoughts.", dissent=True, today=DAY)
    assert gate(tmp_path / "r", POLICY, reviewers=reviewers, today=DAY).outcome == "inconclusive"


def test_one_key_or_the_person_who_decided_is_not_a_second_reviewer(signed, tmp_path):
    folder, keys = signed
    write_risk_report([folder.parent / "a.json"], POLICY, tmp_path / "r", "Ann", today=DAY)
    for private, name in ((keys[0][0], "Bea"), (keys[0][0], "Cas"), (keys[2][0], "ann")):
        sign_risk_report(tmp_path / "r", private, name, today=DAY)
    decision = gate(tmp_path / "r", POLICY, reviewers=[public for _, public in keys], today=DAY)
    assert any("signed by 1 of 2 reviewers (" in reason.text for reason in decision.unmet)
    assert decision.notes == ("the approval of Ann does not count, who decided",)


def test_wrong_signing_leaves_nothing(signed, tmp_path):
    folder, keys = signed
    before = sorted(folder.rglob("*"))
    for key, name, more, message in (
        (keys[2][0], " ", {}, "reviewer is empty"),
        (keys[2][0], "Dia", {"dissent": True}, "a dissent says why"),
        (keys[2][0], "Bea", {}, "has a review of Bea"),
        (keys[2][1], "Dia", {}, "not a key to sign with"),
        (tmp_path / "none.key", "Dia", {}, "cannot be read"),
    ):
        with pytest.raises(InterpError, match=message):
            sign_risk_report(folder, key, name, **more)
    assert sorted(folder.rglob("*")) == before
    with pytest.raises(InterpError, match=r"no report\.json in it"):
        sign_risk_report(tmp_path, keys[0][0], "Bea")
    assert "not a public key" in gate(folder, POLICY, reviewers=[keys[0][0]], today=DAY).reasons[0].text
    with pytest.raises(InterpError, match="reviewers sign risk reports"):
        gate(folder.parent / "a.json", POLICY, reviewers=[keys[0][1]])
