"""Decisions: whether an edited model may be released under a policy. The default is deny.

Every requirement applies to the unfavourable end of a 95 % interval, never to the estimate, so that too few items
cannot look like a good result. A measurement that is not good enough denies. Whatever is missing (a behaviour, items,
scores), or belongs to another model, makes the decision inconclusive, which does not release either.

The fields of a `Policy` hold for every model; its tiers (`schema`) add requirements by the grade of harm.

Limitations: a policy names behaviours, and does not know whether they measure what their names say. Pin them by
`digests`.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import chain
from typing import Any, Literal

from interp.auditing.auditor import Audit
from interp.auditing.conditions import today as current_day
from interp.auditing.policy.erasure_depth import ErasureDepth, check_depth
from interp.auditing.policy.evidence import check_age, check_standing
from interp.auditing.policy.requirements import WORDS, Reason, check_requirements, check_rows, grade_model
from interp.auditing.policy.schema import Policy, Tier
from interp.core.display import Card, Displayed

__all__ = ["Decision", "Outcome", "Policy", "Reason", "decide"]

Outcome = Literal["allow", "deny", "inconclusive"]


@dataclass(frozen=True)
class Decision(Displayed):
    """Whether a model may be released, and why; it may only if every requirement is met.

    Attributes:
        reasons: One per requirement: met, not met, or unknown (None).
        tier: The tier of the policy that applies, if it has tiers.
        notes: Why the model is not in a milder tier, and what reviewers of a risk report dissent from.
        safeguards: The safeguards that were stated to be in place.

    Example:
        >>> from interp.auditing.policy.decision import Decision, Reason
        >>> decision = Decision((Reason(True, "hostility fell"), Reason(None, "refusal was not audited")))
        >>> decision.outcome, [reason.text for reason in decision.unmet]
        ('inconclusive', ['refusal was not audited'])
    """

    reasons: tuple[Reason, ...]
    tier: str = ""
    notes: tuple[str, ...] = ()
    safeguards: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """`allow`, `deny` or `inconclusive`; one requirement that is not met denies, whatever else is unknown."""
        if any(reason.met is False for reason in self.reasons):
            return "deny"
        return "allow" if self.reasons and all(reason.met for reason in self.reasons) else "inconclusive"

    @property
    def allow(self) -> bool:
        """Whether the model may be released."""
        return self.outcome == "allow"

    @property
    def unmet(self) -> tuple[Reason, ...]:
        """The requirements that are not met or unknown."""
        return tuple(reason for reason in self.reasons if not reason.met)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"outcome": self.outcome, "allow": self.allow} | asdict(self)

    def _card(self) -> Card:
        named = f" (tier {self.tier})" if self.tier else ""
        unmet_first = sorted(self.reasons, key=lambda reason: bool(reason.met))
        return f"{self.outcome}{named}", [(WORDS[reason.met], reason.text) for reason in unmet_first]


def decide(
    audit: Audit,
    policy: Policy,
    safeguards: Collection[str] = (),
    evidence: Iterable[Reason] = (),
    approvals: Sequence[str] | None = None,
    today: date | None = None,
    depth: ErasureDepth | None = None,
) -> Decision:
    """Decide under a policy whether the model of an audit may be released.

    Args:
        audit: The record of an audit.
        policy: What the audit must show.
        safeguards: Names of safeguards in place, as stated by whoever decides.
        evidence: Further requirements that were checked outside the audit, such as that it covers a checkpoint.
        approvals: Reviewers whose signed approval of a risk report was checked; None if there is no report.
        today: The day from which ages are counted. Default: today, in UTC.
        depth: The erasure depth of the target, where the policy asks for it.

    Returns:
        The outcome with a reason per requirement.

    Example:
        >>> from interp.auditing import text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> record = interp.audit(model, None, [loss])
        >>> interp.decide(record, interp.Policy(target="hostility")).outcome
        'inconclusive'
    """
    decision, tiers = assess_evidence(audit, policy, safeguards, evidence, today, depth)
    return replace(decision, reasons=(*decision.reasons, *check_standing(policy, tiers, approvals)))


def assess_evidence(
    audit: Audit,
    policy: Policy,
    safeguards: Collection[str] = (),
    evidence: Iterable[Reason] = (),
    today: date | None = None,
    depth: ErasureDepth | None = None,
) -> tuple[Decision, Sequence[Tier]]:
    """The decision on the figures alone, whoever stands behind them, and the tiers that apply."""
    dated, deep = list[Reason](), list(check_depth(audit, policy, depth, today or current_day()))
    if (limit := policy.evidence_days_at_most) is not None:
        dated = [check_age("the audit", audit.measured, limit, today or current_day())]
        if not dated[0].met:
            audit = replace(audit, rows=(), baselines=())
    tier, grading, notes = grade_model(audit, policy)
    tiers = policy.tiers if tier is None else policy.tiers[: tier + 1]
    requirements = check_requirements(audit, policy, tiers, safeguards), check_rows(audit, policy, tiers)
    name = "" if tier is None else policy.tiers[tier].name
    reasons = (*evidence, *dated, *grading, *chain(*requirements), *deep)
    return Decision(reasons, name, tuple(notes), tuple(sorted(safeguards))), tiers
