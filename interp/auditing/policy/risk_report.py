"""Risk reports: what audits showed of a model, what was not measured, the grade, the residual risk, and who decided.

1. `write_risk_report` reads audits of one model, takes the newest measurement of every behaviour, grades them under a
   policy, and writes a folder: `report.json`, copies of the audits, and a page.
2. Reviewers sign, in approval or dissent (`reviews`).
3. `gate` reads the folder and decides again, by the audits in it and today's date. What the report says of its own
   outcome counts for nothing.

A report names the reports that it replaces, and marks them as superseded. Published scaling policies ask for reports
like this: Anthropic's Responsible Scaling Policy from version 3.0 (2026) on, every three to six months.

Limitations: a report says who decided, and does not show it; only signatures do. Who can write to the folder of a
report can remove reviews, or the mark that it was superseded: keep reports where only their owners can write.
"""

import shutil
from collections.abc import Callable, Collection, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from pydantic import Field

from interp.auditing.audit_row import AuditRow
from interp.auditing.auditor import Audit
from interp.auditing.conditions import today as current_day
from interp.auditing.policy.decision import assess_evidence
from interp.auditing.policy.evidence import gather_evidence, last_day, signatures_needed
from interp.auditing.policy.requirements import WORDS
from interp.auditing.policy.schema import Policy
from interp.auditing.policy.sealed import read_sealed, write_sealed
from interp.core.config import Config
from interp.core.display import plural
from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file, sha256_json, write_json

REPORT, AUDITS, SUPERSEDED = "report.json", "audits", "superseded.json"
_FORMAT = 1
_Texts = tuple[str, ...]


class ReportedAudit(Config):
    """An audit that a report rests on."""

    file: str = Field(pattern=r"^\d+\.json$", description="its copy in the folder audits")
    sha256: str = Field(description="SHA-256 of the file")
    measured: str = Field(description="day of its oldest score; empty if unknown")
    counts_until: str = Field(description="last day on which it counts; empty without a limit")
    behaviours: _Texts = Field(description="behaviours whose newest measurement this is")


class RiskReport(Config):
    """A risk report, as `report.json` has it; see the description of each field.

    Example:
        >>> from interp.auditing import text_loss, write_risk_report
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> interp.audit(model, None, [loss]).save(tmp / "audit.json")
        >>> report = write_risk_report([tmp / "audit.json"], "release", tmp / "report", "A. Person")
        >>> report.outcome, report.decided_by
        ('deny', 'A. Person')
        >>> RiskReport.read(tmp / "report") == report
        True
    """

    model: str = Field(description="name of the model")
    weights: str = Field(description="digest of its weights; if a recipe was audited by hooks, those of its base")
    recipe: str = Field(description="digest of the recipe, if it is known")
    made: str = Field(description="day of the report, YYYY-MM-DD")
    next_audit: str = Field(description="last day before an audit or the report expires; empty without a limit")
    policy: str = Field(description="name of the policy")
    policy_sha256: str = Field(description="SHA-256 of its content")
    decided_by: str = Field(min_length=1, max_length=200, description="who decides, and answers for it")
    outcome: str = Field(description="allow, deny or inconclusive, on the figures alone")
    tier: str = Field(description="the grade; empty if the policy has none, or none applies")
    statement: str = Field(description="what a model of this grade can do, as the policy says")
    signatures_at_least: int = Field(description="reviewers whose signed approval the policy asks for")
    audits: tuple[ReportedAudit, ...] = Field(description="the audits")
    rows: tuple[dict[str, Any], ...] = Field(description="figures of every behaviour")
    measured: _Texts = Field(description="what was measured, in words")
    not_measured: _Texts = Field(description="what was not")
    residual_risk: _Texts = Field(description="what may be left, at the unfavourable end of the 95 % intervals")
    requirements: tuple[tuple[str, str], ...] = Field(description="each requirement, and whether it is met")
    safeguards: _Texts = Field(description="safeguards that are stated to be in place")
    supersedes: _Texts = Field(description="SHA-256 of the reports that this one replaces")

    @property
    def digest(self) -> str:
        """SHA-256 of its content, which reviewers sign."""
        return sha256_json(self.model_dump(mode="json"))

    @classmethod
    def read(cls, path: str | Path, overrides: Sequence[str] = ()) -> "RiskReport":
        """Read the report of a folder. Raises if there is none, or it was changed."""
        del overrides
        return read_sealed(cls, Path(path) / REPORT, "a risk report", _FORMAT, "interp report")

    def read_audits(self, folder: str | Path) -> dict[str, Audit]:
        """Its audits, by the name of their file. Raises if one was changed."""
        audits = dict[str, Audit]()
        for entry in self.audits:
            file = Path(folder) / AUDITS / entry.file
            if not file.is_file() or sha256_file(file) != entry.sha256:
                raise InterpError(f"{file}: is not the audit that the report rests on; write the report again")
            audits[f"{AUDITS}/{entry.file}"] = Audit.read(file)
        return audits


def write_risk_report(
    audits: Sequence[str | Path],
    policy: Policy | str | Path,
    out: str | Path,
    decided_by: str,
    risks: Sequence[str] = (),
    unmeasured: Sequence[str] = (),
    safeguards: Collection[str] = (),
    supersedes: Sequence[str | Path] = (),
    page: Callable[[Path], None] | None = None,
    today: date | None = None,
) -> RiskReport:
    """Write the risk report of a model into a new folder.

    Args:
        audits: Files of audits of one model and edit.
        policy: A policy, the name of a shipped one, or a YAML file.
        out: The new folder.
        decided_by: Who decides on the release, and answers for it.
        risks: Further residual risks, in words.
        unmeasured: What else was not measured, in words.
        safeguards: Names of safeguards in place.
        supersedes: Folders of earlier reports that this one replaces; they are marked.
        page: Writes the page into a folder with a report, such as `interp.views.write_risk_report_page`.
        today: The day of the report. Default: today, in UTC.

    Returns:
        The report.

    Raises:
        InterpError: A file is not an audit, the audits are of different models or contradict each other, a report to
            replace is none, or the folder exists.
    """
    day = today or current_day()
    rules = policy if isinstance(policy, Policy) else Policy.read(policy)
    if not decided_by.strip():
        raise InterpError("decided_by is empty; name who decides on the release, and answers for it (--by)")
    read = {str(file): Audit.read(file) for file in audits}
    audit, source, expired = gather_evidence(read, rules, day)
    replaced = {Path(folder): RiskReport.read(folder) for folder in supersedes}
    decision, tiers = assess_evidence(audit, rules, safeguards, expired, day)
    files = [
        ReportedAudit(
            file=f"{number}.json",
            sha256=sha256_file(Path(name)),
            measured=entry.measured,
            counts_until=last_day(entry.measured, rules.evidence_days_at_most),
            behaviours=tuple(behaviour for behaviour, origin in source.items() if origin == name),
        )
        for number, (name, entry) in enumerate(read.items(), 1)
    ]
    ends = [entry.counts_until for entry in files if entry.behaviours]
    report = RiskReport(
        model=audit.after.name,
        weights=audit.after.digest,
        recipe=audit.recipe,
        made=day.isoformat(),
        next_audit=min(filter(None, [*ends, last_day(day.isoformat(), rules.report_days_at_most)]), default=""),
        policy=rules.name,
        policy_sha256=rules.digest,
        decided_by=decided_by.strip(),
        outcome=decision.outcome,
        tier=decision.tier,
        statement=next((tier.statement for tier in rules.tiers if tier.name == decision.tier), ""),
        signatures_at_least=signatures_needed(rules, tiers),
        audits=tuple(files),
        rows=tuple(audit.to_json()["rows"]),
        measured=tuple(_measured(row, audit.edited) for row in audit.rows),
        not_measured=(*_not_measured(audit, decision.unmet), *unmeasured),
        residual_risk=(*filter(None, (_residual(row, audit.edited) for row in audit.rows)), *risks),
        requirements=tuple((WORDS[reason.met], reason.text) for reason in decision.reasons),
        safeguards=decision.safeguards,
        supersedes=tuple(old.digest for old in replaced.values()),
    )
    with new_folder(out) as staging:
        (staging / AUDITS).mkdir()
        for entry, name in zip(files, read, strict=True):
            shutil.copyfile(name, staging / AUDITS / entry.file)
        write_sealed(report, staging / REPORT, _FORMAT)
        if page is not None:
            page(staging)
        # Before the new folder is there: after a kill in between, neither report counts, rather than both.
        for folder in replaced:
            write_json(folder / SUPERSEDED, {"by": report.digest, "day": report.made})
    if page is not None:
        for folder in replaced:
            page(folder)
    return report


def _share(value: float, row: AuditRow) -> str:
    return f"{value:.1%}" if row.unit == "rate" else f"{value:.3f} {row.unit}"


def _measured(row: AuditRow, edited: bool) -> str:
    before = f", before the edit {_share(row.before.estimate, row)}" if edited else ""
    missing = f"; {plural(row.missing, 'item')} without a score" if row.missing else ""
    what = f" ({row.statement})" if row.statement else ""
    return f"{row.name}{what}: {_share(row.after.estimate, row)} on {plural(row.after.n, 'item')}{before}{missing}"


def _not_measured(audit: Audit, unmet: Sequence[Any]) -> list[str]:
    languages, scenarios = ({getattr(row, field) for row in audit.rows} for field in ("language", "scenario"))
    inside = f"languages: {', '.join(sorted(languages)) or 'none'}"
    inside += f"; scenarios: {', '.join(sorted(filter(None, scenarios)))}" if any(scenarios) else ""
    texts = [reason.text for reason in unmet if reason.met is None]
    return [*texts, f"Whatever has no row here ({inside}): a harm that was not measured is not known to be absent."]


def _residual(row: AuditRow, edited: bool) -> str:
    """What may be left of a harm, or lost of what must hold, in a sentence; empty without an edit that may lose it."""
    if row.kind == "harm":
        return f"{row.name}: up to {_share(row.after.high, row)} in prompts like those measured"
    loss = row.difference.high if row.unit == "nats" else -row.difference.low
    verb = "rise" if row.unit == "nats" else "have dropped"
    return f"{row.name} ({row.kind}): may {verb} by up to {_share(max(0.0, loss), row)}" if edited else ""
