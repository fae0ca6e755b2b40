"""The page of a risk report: every part of it is there, dissent first, and nothing in it is markup of its own."""

from large_records import EVIL
from risk_reports import DAY, POLICY, saved_audit

from interp.auditing import write_risk_report
from interp.auditing.policy.risk_report import SUPERSEDED
from interp.core.files import write_json
from interp.views import write_risk_report_page


def test_the_page_has_every_part_and_escapes_it(tmp_path):
    file, folder = saved_audit(tmp_path / "a.json", 0.01), tmp_path / "r"
    report = write_risk_report([file], POLICY, folder, EVIL, [EVIL], [EVIL], page=write_risk_report_page, today=DAY)
    page = (folder / "report.html").read_text()
    assert "<script>alert" not in page
    parts = ("Nobody has signed yet", "2 signed approvals", "1.0 % [", "toxicity: up to", report.next_audit)
    assert all(part in page for part in parts)
    for verdict, name in (("approve", "Bea"), ("dissent", "Dia")):
        review = {"reviewer": name, "verdict": verdict, "statement": EVIL, "day": "2026-03-01", "report": report.digest}
        (folder / "reviews" / name).mkdir(parents=True)
        write_json(folder / "reviews" / name / "review.json", review)
    write_json(folder / SUPERSEDED, {})
    write_risk_report_page(folder)
    page = (folder / "report.html").read_text()
    assert page.index("Dia") < page.index("Bea")
    assert "This report was superseded" in page
    assert "<script>alert" not in page
