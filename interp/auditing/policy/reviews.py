"""Reviews of a risk report: several people sign it, in approval or in dissent, each with a key of their own.

A review is a folder of the report, with `review.json` (the reviewer, the verdict, a statement, and the digest of the
report) and a signature over it. It counts only where a public key that the caller names holds for it. A key, and a
name, counts once; whoever dissents does not approve, whatever else they signed; nor does the person who decided.

Limitations: a signature shows that the holder of a key wrote a review, not who that is, nor when.
"""

from collections.abc import Collection
from datetime import date
from pathlib import Path
from typing import Literal

from pydantic import Field

from interp.auditing.auditor import Audit
from interp.auditing.conditions import today as current_day
from interp.auditing.policy.evidence import check_age, gather_evidence
from interp.auditing.policy.requirements import Reason
from interp.auditing.policy.risk_report import SUPERSEDED, RiskReport
from interp.auditing.policy.schema import Policy
from interp.core.config import Config
from interp.core.errors import InterpError
from interp.core.files import new_folder, read_json, sha256_json, write_json
from interp.editing.export.signatures import key_digest, read_signature, signer

_REVIEWS, _REVIEW = "reviews", "review.json"


class Review(Config):
    """What a reviewer says of a report; see the description of each field."""

    reviewer: str = Field(min_length=1, max_length=200, description="name of the reviewer")
    verdict: Literal["approve", "dissent"] = Field(description="approve or dissent")
    statement: str = Field(max_length=10_000, description="why")
    day: str = Field(description="day of the review, YYYY-MM-DD")
    report: str = Field(description="SHA-256 of the report's content")


def sign_risk_report(
    folder: str | Path,
    key: str | Path,
    reviewer: str,
    statement: str = "",
    dissent: bool = False,
    today: date | None = None,
) -> Review:
    """Add a signed review to a risk report.

    Args:
        folder: Folder of the report.
        key: The reviewer's private key (PEM, not encrypted).
        reviewer: Name of the reviewer.
        statement: What the reviewer has to say; required for a dissent.
        dissent: Record a dissent, in place of an approval.
        today: The day of the review. Default: today, in UTC.

    Returns:
        The review.

    Raises:
        InterpError: There is no report, it was superseded, the reviewer has signed it, or the key is none.
    """
    report = RiskReport.read(folder)
    if (Path(folder) / SUPERSEDED).exists():
        raise InterpError(f"{folder}: the report was superseded; sign the one that replaces it")
    if not reviewer.strip():
        raise InterpError("reviewer is empty; give the name of who signs (--reviewer)")
    if dissent and not statement.strip():
        raise InterpError("a dissent says why; give a statement (--statement)")
    review = Review(
        reviewer=reviewer.strip(),
        verdict="dissent" if dissent else "approve",
        statement=statement.strip(),
        day=(today or current_day()).isoformat(),
        report=report.digest,
    )
    place = Path(folder) / _REVIEWS / sha256_json([review.reviewer, review.verdict])[:16]
    if place.exists():
        raise InterpError(f"{folder}: has a review of {review.reviewer} ({review.verdict}) already; each signs once")
    sign = signer(key)
    with new_folder(place) as staging:
        write_json(staging / _REVIEW, review.model_dump(mode="json"))
        sign(staging)
    return review


def read_reviews(folder: str | Path) -> tuple[dict[Path, Review], list[str]]:
    """The reviews of a report by their folder, dissents first, unchecked; and what is wrong with others."""
    report, reviews, problems = RiskReport.read(folder), dict[Path, Review](), list[str]()
    for file in sorted((Path(folder) / _REVIEWS).glob(f"[!.]*/{_REVIEW}")):
        try:
            review = Review.parse(read_json(file), str(file))
        except InterpError as problem:
            problems.append(f"{problem}; it does not count")
            continue
        if review.report == report.digest:
            reviews[file.parent] = review
        else:
            problems.append(f"{file}: is of another report; it does not count")
    return dict(sorted(reviews.items(), key=lambda item: item[1].verdict == "approve")), problems


def check_report(
    folder: str | Path, policy: Policy, reviewers: Collection[str | Path], today: date
) -> tuple[Audit, list[Reason], list[str], list[str]]:
    """The evidence of a report on a day, what speaks against it, who approved it, and what reviewers dissent from.

    Raises:
        InterpError: The report or an audit of it was changed, or one of the reviewers' keys is no public key.
    """
    report = RiskReport.read(folder)
    audit, _, expired = gather_evidence(report.read_audits(folder), policy, today)
    same = report.policy_sha256 == policy.digest
    policies = "this policy" if same else f"another policy (SHA-256 {report.policy_sha256[:12]}); write it again"
    reasons = [
        Reason(same or None, f"the risk report is under {policies}"),
        check_age("the risk report", report.made, policy.report_days_at_most, today),
        *expired,
    ]
    if (Path(folder) / SUPERSEDED).exists():
        reasons.append(Reason(None, f"{folder}: the report was superseded; give the one that replaces it"))
    approvals, notes = _approvals(folder, report, reviewers)
    return audit, reasons, approvals, notes


def _approvals(folder: str | Path, report: RiskReport, keys: Collection[str | Path]) -> tuple[list[str], list[str]]:
    """Names of those who approve, each with a key of their own, and notes about all other reviews."""
    reviews, notes = read_reviews(folder)
    verdicts = dict[str, list[Review]]()
    by_digest = {key_digest(key): key for key in keys}
    for place, review in reviews.items():
        signed = [digest for digest, key in by_digest.items() if _holds(place, key)]
        for digest in signed:
            verdicts.setdefault(digest, []).append(review)
        unchecked = "" if signed else ", signed with none of the keys given"
        if review.verdict == "dissent":
            notes.append(f"{review.reviewer} dissents{unchecked}: {review.statement}")
        elif unchecked:
            notes.append(f"the approval of {review.reviewer} does not count{unchecked}")
    dissenting = {_folded(x.reviewer) for each in verdicts.values() for x in each if x.verdict == "dissent"}
    approving = {
        _folded(each[0].reviewer): each[0].reviewer
        for each in verdicts.values()
        if all(review.verdict == "approve" for review in each)
    }
    if approving.pop(_folded(report.decided_by), None):
        notes.append(f"the approval of {report.decided_by} does not count, who decided")
    return [name for folded, name in approving.items() if folded not in dissenting], notes


def _holds(place: Path, key: str | Path) -> bool:
    try:
        return read_signature(place, key) == "checked"
    except InterpError:
        return False


def _folded(name: str) -> str:
    return " ".join(name.casefold().split())
