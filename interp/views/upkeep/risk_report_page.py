"""The page of a risk report, for people who decide: what was measured, what was not, what may be left, who signed."""

from pathlib import Path

from interp.auditing.policy.reviews import read_reviews
from interp.auditing.policy.risk_report import SUPERSEDED, RiskReport
from interp.core.files import write_text
from interp.views._page import rendered_page

PAGE = "report.html"


def write_risk_report_page(folder: str | Path) -> None:
    """Write the page of a risk report, `report.html`, into its folder, with the reviews that are there.

    Args:
        folder: Folder of the report; a page that is there is replaced in one step.

    Raises:
        InterpError: The folder has no report, or the file cannot be written.

    Example:
        >>> from interp.auditing import text_loss, write_risk_report
        >>> from interp.views import write_risk_report_page
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> interp.audit(model, None, [loss]).save(tmp / "audit.json")
        >>> report = write_risk_report([tmp / "audit.json"], "release", tmp / "report", "A. Person")
        >>> write_risk_report_page(tmp / "report")
        >>> "A. Person" in (tmp / "report" / "report.html").read_text()
        True
    """
    report = RiskReport.read(folder)
    reviews, problems = read_reviews(folder)
    page = rendered_page(
        "risk_report.html.j2",
        report=report,
        digest=report.digest,
        reviews=list(reviews.values()),
        problems=problems,
        superseded=(Path(folder) / SUPERSEDED).exists(),
        audits=[
            {
                "audit": f"audits/{entry.file}",
                "measured": entry.measured or "unknown",
                "counts until": entry.counts_until or "no limit",
                "behaviours": ", ".join(entry.behaviours) or "none: expired, or measured again later",
                "SHA-256": entry.sha256[:12],
            }
            for entry in report.audits
        ],
    )
    write_text(Path(folder) / PAGE, page)
