"""Risk reports: what they say follows from the audits, and a report that was changed or superseded is refused."""

import json

import pytest
from risk_reports import DAY, POLICY, saved_audit

from interp import InterpError
from interp.auditing import RiskReport, gate, write_risk_report
from interp.auditing.policy.risk_report import REPORT, SUPERSEDED


def test_a_report_says_what_was_measured_what_was_not_and_what_is_left(tmp_path):
    saved_audit(tmp_path / "a.json", 0.01, 30)
    saved_audit(tmp_path / "b.json", 0, 100, ("refusal",))
    files = [tmp_path / "a.json", tmp_path / "b.json"]
    report = write_risk_report(files, POLICY, tmp_path / "r", " Ann ", ["Five turns."], ["Images."], today=DAY)
    assert (report.outcome, report.decided_by, report.signatures_at_least) == ("allow", "Ann", 2)
    assert report.next_audit == "2026-04-30", "90 days after the oldest audit that counts"
    toxicity = next(row for row in report.rows if row["name"] == "toxicity")
    assert report.residual_risk[0] == f"toxicity: up to {toxicity['after']['high']:.1%} in prompts like those measured"
    assert report.residual_risk[-1] == "Five turns."
    assert report.not_measured[-1] == "Images."
    assert [entry.behaviours for entry in report.audits] == [("toxicity", "refusal"), ()]
    assert RiskReport.read(tmp_path / "r") == report
    lacking = write_risk_report(files[1:], POLICY, tmp_path / "s", "Ann", today=DAY)
    assert lacking.outcome == "inconclusive"
    assert any("100 days old, limit 90" in text for text in lacking.not_measured)


def test_a_changed_report_or_audit_is_not_relied_on(tmp_path):
    write_risk_report([saved_audit(tmp_path / "a.json")], POLICY, tmp_path / "r", "Ann", today=DAY)
    copy = tmp_path / "r" / "audits" / "1.json"
    copy.write_text(copy.read_text() + "\n")
    assert "is not the audit that the report rests on" in gate(tmp_path / "r", POLICY, today=DAY).reasons[0].text
    file = tmp_path / "r" / REPORT
    values = json.loads(file.read_text())
    file.write_text(json.dumps(values | {"outcome": "deny"}))
    with pytest.raises(InterpError, match="was changed since it was written"):
        RiskReport.read(tmp_path / "r")
    for broken in ("[]", "{}", json.dumps(values | {"audits": [{"file": "../a.json"}]})):
        file.write_text(broken)
        with pytest.raises(InterpError, match="not a risk report"):
            RiskReport.read(tmp_path / "r")


def test_wrong_inputs_leave_nothing(tmp_path):
    saved_audit(tmp_path / "a.json")
    (tmp_path / "no.json").write_text("{}")
    for audits, by, more, message in (
        ([tmp_path / "a.json"], " ", {}, "decided_by is empty"),
        ([tmp_path / "no.json"], "Ann", {}, "not an audit"),
        ([], "Ann", {}, "no audits"),
        ([tmp_path / "a.json"], "Ann", {"supersedes": [tmp_path]}, f"no {REPORT} in it"),
    ):
        with pytest.raises(InterpError, match=message):
            write_risk_report(audits, POLICY, tmp_path / "r", by, today=DAY, **more)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "no.json"]


def test_the_new_report_marks_the_one_that_it_replaces(tmp_path):
    file = saved_audit(tmp_path / "a.json")
    first = write_risk_report([file], POLICY, tmp_path / "r", "Ann", today=DAY)
    second = write_risk_report([file], POLICY, tmp_path / "s", "Ann", supersedes=[tmp_path / "r"], today=DAY)
    assert second.supersedes == (first.digest,)
    assert json.loads((tmp_path / "r" / SUPERSEDED).read_text())["by"] == second.digest
    texts = [reason.text for reason in gate(tmp_path / "r", POLICY, today=DAY).unmet]
    assert any("superseded" in text for text in texts)
