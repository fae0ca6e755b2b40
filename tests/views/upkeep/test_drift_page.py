"""The page of a drift: every table and finding is on it, and nothing in it is markup of its own."""

from dataclasses import replace

from large_records import EVIL, drifts

from interp.upkeep import Drift
from interp.views import write_drift_page


def test_the_page_has_every_table_and_escapes_what_is_in_it(tmp_path):
    record = drifts(3)
    write_drift_page(record, tmp_path)
    page = (tmp_path / "drift.html").read_text()
    assert "<script>alert" not in page
    headings = "Behaviours", "Where next tokens differ most", "Shifts along directions", "Sites", "firing changed"
    for heading in (*headings, "Crosscoder latents", "Requirements of the policy", "policy: <b>deny</b>"):
        assert heading in page, heading
    assert "grew most at" in page
    assert EVIL not in page


def test_without_findings_it_says_so(tmp_path):
    record = drifts(1)
    drift = record.models[0]
    quiet = replace(drift, behaviours=(), projections=(), latents=(), crosscoder=None, reasons=(), outcome=None)
    write_drift_page(Drift(record.first, (quiet,), record.settings), tmp_path)
    page = (tmp_path / "drift.html").read_text()
    assert "No findings" in page
    assert "Crosscoder latents" not in page
    assert "Decision" not in page
