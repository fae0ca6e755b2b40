"""`interp report`, `report sign` and `gate` on a report: exit codes, and one line for each wrong input."""

import json

import pytest
from risk_reports import key_pair, saved_audit
from typer.testing import CliRunner

from interp import InterpError
from interp.auditing.conditions import today
from interp.cli.app import app

RULES = "name: reviewed\ntarget: toxicity\nrequired: [refusal]\nreport_required: true\nsignatures_at_least: 1\n"


def test_a_report_is_written_signed_and_gated(tmp_path):
    pytest.importorskip("model_signing", reason="pip install 'interp[sign]'")
    audit, policy, out = saved_audit(tmp_path / "a.json"), tmp_path / "policy.yaml", tmp_path / "r"
    policy.write_text(RULES)
    private, public = key_pair(tmp_path, "bea")

    def run(*words):
        return CliRunner().invoke(app, [*map(str, words)])

    gated = ["gate", out, "--policy", policy, "--reviewer", public, "--json"]
    assert run("gate", audit, "--policy", policy).exit_code == 2, "the policy asks for a report"
    written = run("report", audit, "--policy", policy, "--out", out, "--by", "Ann", "--json")
    assert (written.exit_code, json.loads(written.output)["made"]) == (0, today().isoformat())
    assert run(*gated).exit_code == 2, "unsigned"
    signed = run("report", "sign", out, "--key", private, "--reviewer", "Bea")
    assert (signed.exit_code, signed.output.startswith("Bea: approve")) == (0, True)
    assert "<b>Bea</b>" in (out / "report.html").read_text()
    assert (run(*gated).exit_code, json.loads(run(*gated).output)["outcome"]) == (0, "allow")
    again = run("report", audit, "--policy", policy, "--out", out, "--by", "Ann")
    assert isinstance(again.exception, InterpError)
    shown = run("report", audit, "--policy", policy, "--out", tmp_path / "s", "--by", "Ann", "--supersedes", out)
    assert "1 approval to sign" in shown.output
    assert "This report was superseded" in (out / "report.html").read_text()
    assert run(*gated).exit_code == 2, "superseded"
