"""Evidence: the newest measurement of every behaviour, no older than a policy allows, and who stands behind it.

Several audits of one model and edit become one: of a behaviour that was measured twice the newer measurement counts,
whatever it shows. What is older than the policy's limit, has no date, or is dated after today counts as missing.

Limitations: dates are by the clock of the machine that measured, which nobody attests.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import date, timedelta

from interp.auditing.auditor import Audit, suite_digest
from interp.auditing.baselines import baseline_of_scores
from interp.auditing.policy.requirements import Reason
from interp.auditing.policy.schema import Policy, Tier
from interp.auditing.statistics.significance import holm
from interp.core.display import plural
from interp.core.errors import InterpError


def check_age(what: str, day: str, days_at_most: int | None, today: date) -> Reason:
    """Whether something of a day (YYYY-MM-DD) is no older than a limit; unknown for what is older or has no day."""
    try:
        age = (today - date.fromisoformat(day)).days
    except ValueError:
        return Reason(
            None, f"{what} has no date ({day!r}), so its age is unknown and it counts as missing; audit again"
        )
    if age < 0:
        return Reason(None, f"{what} is dated {day}, after today ({today}); check the clock")
    if days_at_most is None:
        return Reason(True, f"{what} is of {day}, {plural(age, 'day')} old")
    text = f"{what} is of {day}, {plural(age, 'day')} old, limit {days_at_most}"
    return Reason(True, text) if age <= days_at_most else Reason(None, f"{text}: it has expired and counts as missing")


def last_day(day: str, days_at_most: int | None) -> str:
    """The last day on which something of a day counts; empty without a limit, or without a day."""
    try:
        return (date.fromisoformat(day) + timedelta(days_at_most or 0)).isoformat() if days_at_most else ""
    except (ValueError, OverflowError):
        return ""


def gather_evidence(
    audits: Mapping[str, Audit], policy: Policy, today: date
) -> tuple[Audit, dict[str, str], list[Reason]]:
    """The newest measurements of audits by name, the audit that each behaviour comes from, and why some are missing.

    Raises:
        InterpError: There is no audit, they are of different models or edits, or two measured a behaviour on one day.
    """
    if not audits:
        raise InterpError("no audits; give one or more, written by interp audit")
    source = _newest(audits)
    ages = {
        name: check_age(name, audits[name].measured, policy.evidence_days_at_most, today)
        for name in dict.fromkeys(source.values())
        if policy.evidence_days_at_most is not None
    }
    expired = [reason for reason in ages.values() if not reason.met]
    counted = {behaviour: name for behaviour, name in source.items() if name not in ages or ages[name].met}
    return _combined(audits, counted), counted, expired


def _newest(audits: Mapping[str, Audit]) -> dict[str, str]:
    """The name of the audit with the newest measurement, by behaviour."""
    source = dict[str, str]()
    first_name, first = next(iter(audits.items()))
    for name, audit in audits.items():
        if _subject(audit) != _subject(first):
            raise InterpError(
                f"{name} is not of the model and edit of {first_name}; a report is of one, so leave one out"
            )
        for row in audit.rows:
            other = audits[source.setdefault(row.name, name)]
            if audit.measured == other.measured and audit.items.get(row.name) != other.items.get(row.name):
                problem = f"{name} and {source[row.name]} measured {row.name} on the same day, with different scores"
                raise InterpError(f"{problem}; which is newer is unknown, so measure again on another day")
            if audit.measured > other.measured:
                source[row.name] = name
    return source


def _subject(audit: Audit) -> tuple[object, ...]:
    sides = [(side.digest, side.settings, side.chat) for side in (audit.before, audit.after)]
    return (*sides, audit.recipe, audit.edit)


def _combined(audits: Mapping[str, Audit], source: Mapping[str, str]) -> Audit:
    """One audit of the behaviours that have a source, with p-values corrected for their number."""
    used = [audits[name] for name in audits if name in source.values()]
    first = next(iter(audits.values()))
    if not used:
        return replace(first, rows=(), items={}, baselines=(), examples=(), suite=suite_digest(()))
    if len(audits) == 1:
        return first
    rows = [row for name, audit in audits.items() for row in audit.rows if source.get(row.name) == name]
    corrected = holm([row.p for row in rows])
    rows = [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]
    items = {row.name: audits[source[row.name]].items[row.name] for row in rows}
    names = [
        x.name for x in used[0].baselines if len({len(scores.arms.get(x.name, ())) for scores in items.values()}) == 1
    ]
    return replace(
        first,
        rows=tuple(rows),
        items=items,
        examples=(),
        suite=suite_digest(rows),
        baselines=tuple(baseline_of_scores(name, rows, items, first.seed) for name in names),
        measured=min(audit.measured for audit in used),
    )


def check_standing(policy: Policy, tiers: Sequence[Tier], approvals: Sequence[str] | None) -> Iterator[Reason]:
    """The risk report and the signatures that a policy and its tiers ask for; `approvals` are None without a report."""
    needed = signatures_needed(policy, tiers)
    if needed or policy.report_required or any(tier.report_required for tier in tiers):
        hint = "" if approvals is not None else "; the policy asks for one (interp report AUDIT… --policy P --out DIR)"
        yield Reason(approvals is not None or None, f"the evidence is {'not ' * bool(hint)}a risk report{hint}")
    if needed:
        names = f" ({', '.join(approvals)})" if approvals else ""
        text = f"approved and signed by {len(approvals or ())} of {plural(needed, 'reviewer')}{names}"
        met = len(approvals or ()) >= needed
        yield Reason(met or None, text + "; interp report sign, and name the keys (--reviewer)" * (not met))


def signatures_needed(policy: Policy, tiers: Sequence[Tier]) -> int:
    """The number of reviewers who have to approve a risk report."""
    return max(policy.signatures_at_least, *(tier.signatures_at_least for tier in tiers), 0)
