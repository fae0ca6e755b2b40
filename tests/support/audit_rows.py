"""Rows of audits as a policy reads them: good ones, changed ones, and what a policy decides of them."""

from datetime import date

from interp.auditing.audit_row import AuditRow, ItemScores, audit_rows
from interp.auditing.auditor import Audit, suite_digest
from interp.auditing.baselines import Baseline
from interp.auditing.behaviours import Behaviour, Scores
from interp.auditing.conditions import today
from interp.auditing.policy.decision import Policy, decide
from interp.auditing.statistics.comparison import compare_scores
from interp.models.identity import ModelReference

MODEL = ModelReference(name="m", digest="0" * 64, model_type="llama", d_model=8, n_layers=2)

POLICY = Policy(target="hostility", required=("refusal",))

RELEASE = Policy.read("release")

# A risk report that two reviewers have signed, of the day of the audit.
DAY, APPROVALS = date(2026, 3, 1), ("first", "second")

SAFEGUARDS = tuple(name for tier in RELEASE.tiers for name in tier.safeguards)


def of_scores(name, kind, old, new, unit="rate", **more):
    comparison = compare_scores(old, new, unit=unit)
    parts = {part: getattr(comparison, part) for part in ("before", "after", "difference", "missing", "constant")}
    return AuditRow(name, kind, unit, "", **(parts | more))


def row(name, kind, before, after, n=300, unit="rate", **more):
    def scores(rate):
        return [float(i < round(rate * n)) for i in range(n)] if unit == "rate" else [rate + i / n for i in range(n)]

    return of_scores(name, kind, scores(before), scores(after), unit, **more)


GOOD = (
    row("hostility", "harm", 1, 0),
    row("sycophancy", "harm", 0.9, 0.9),
    row("refusal", "protected", 1, 1),
    row("facts", "capability", 0.98, 0.98),
    row("loss", "capability", 1.0, 1.001, unit="nats"),
)

HARMLESS = (
    *(row(name, "harm", 1, 0, n=400) for name in ("hostility", "sycophancy", "fabrication")),
    row("refusal", "protected", 1, 1, n=400),
    row("facts", "capability", 1, 1, n=400),
    row("everyday_loss", "capability", 1.0, 1.001, n=400, unit="nats"),
)

BESIDE = (Baseline("random", {}), Baseline("prompt", {}))


def decided(rows, policy=POLICY, safeguards=(), baselines=BESIDE):
    record = Audit(tuple(rows), MODEL, MODEL, baselines=baselines, measured=DAY.isoformat())
    return decide(record, policy, safeguards, approvals=APPROVALS, today=DAY)


def two_arms(behaviour, before, after):
    return ItemScores.of(behaviour, {"before": [before], "after": [after]})


def audit_of(scored, before, after=None, recipe="", measured=None):
    """An audit of these scores: (name, kind, unit, before, after). Without `after`: by hooks, or of no edit."""
    behaviours = [
        Behaviour(name, kind, f"{name} | <b>shown</b>", tuple(f"{name} {i}" for i in range(len(old))), len, unit)
        for name, kind, unit, old, _ in scored
    ]
    sides = [(Scores(tuple(old)), Scores(tuple(new))) for *_, old, new in scored]
    items = {b.name: two_arms(b, *pair) for b, pair in zip(behaviours, sides, strict=True)}
    return Audit(
        audit_rows(behaviours, items, 0),
        before.identity,
        (after or before).identity,
        recipe=recipe,
        suite=suite_digest(behaviours),
        edit="weights" if after else "hooks" if recipe else "none",
        items=items,
        measured=(measured or today()).isoformat(),
    )


def with_row(new, rows=GOOD):
    return [new if old.name == new.name else old for old in rows]
