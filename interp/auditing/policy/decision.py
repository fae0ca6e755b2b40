"""Policy: what an audit must show before an edited model may be released. Default is deny.

Every requirement is put to the unfavourable end of a 95 % interval, never to the estimate alone: too few items can't
pass for a good result. What is measured and not good enough denies. What is missing (a behaviour, items, scores), or is
not of this very model, leaves the decision open: "inconclusive", which releases nothing either.

The fields of a `Policy` hold for every model; its tiers (`interp.auditing.policy.schema`) add what the grade of harm
asks for. What it does not know: whether behaviours of these names measure what they say. Pin them by `digests`.
"""

from collections.abc import Collection, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

from interp.auditing.auditor import Audit
from interp.auditing.policy.requirements import WORDS, Reason, check_requirements, grade_model, select_rows
from interp.auditing.policy.schema import Policy
from interp.core.display import html_card

__all__ = ["Decision", "Outcome", "Policy", "Reason", "decide"]

Outcome = Literal["allow", "deny", "inconclusive"]


@dataclass(frozen=True)
class Decision:
    """Allow only if every requirement is met. `notes` say why the model is in no milder tier."""

    reasons: tuple[Reason, ...]
    tier: str = ""
    notes: tuple[str, ...] = ()
    safeguards: tuple[str, ...] = ()

    @property
    def outcome(self) -> Outcome:
        """One requirement that is not met denies, whatever else is unknown."""
        if any(reason.met is False for reason in self.reasons):
            return "deny"
        return "allow" if self.reasons and all(reason.met for reason in self.reasons) else "inconclusive"

    @property
    def allow(self) -> bool:
        """Whether the model may be released."""
        return self.outcome == "allow"

    @property
    def unmet(self) -> tuple[Reason, ...]:
        """What stands against it."""
        return tuple(reason for reason in self.reasons if not reason.met)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        values = asdict(self)
        lists = {name: list(values[name]) for name in ("reasons", "notes", "safeguards")}
        return {"outcome": self.outcome, "allow": self.allow, "tier": self.tier, **lists}

    def _repr_html_(self) -> str:
        named = f" (tier {self.tier})" if self.tier else ""
        return html_card(
            f"Decision: {self.outcome}{named}", [(WORDS[reason.met], reason.text) for reason in self.reasons]
        )


def decide(audit: Audit, policy: Policy, safeguards: Collection[str] = (), evidence: Iterable[Reason] = ()) -> Decision:
    """Put an audit to a policy.

    `safeguards` are those in place, as stated by whoever decides. `evidence` are further requirements that were
    looked at beside the audit, such as that it is of the checkpoint at hand.
    """
    tier, grading, notes = grade_model(audit, policy)
    asked = policy.tiers[: tier + 1] if tier is not None else policy.tiers
    reasons = [
        *evidence,
        *grading,
        *check_requirements(audit, policy, asked, safeguards),
        *select_rows(audit, policy, asked),
    ]
    name = policy.tiers[tier].name if tier is not None else ""
    return Decision(tuple(reasons), name, tuple(notes), tuple(sorted(safeguards)))
