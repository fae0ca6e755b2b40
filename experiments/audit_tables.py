"""Audits and entanglement matrices as Markdown, for the tables in docs/results/audit.md."""

from collections.abc import Sequence

from interp.auditing.auditor import Audit
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.policy.decision import Policy, decide


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Of Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def rows(audit: Audit) -> str:
    """A row a behaviour."""
    header = ("behaviour", "kind", "before", "after", "after - before", "p (Holm)", "effect", "n", "finds")
    return table(
        header,
        [
            (row.name, row.kind, row.before, row.after, row.difference, f"{row.p_holm:.2g}", f"{row.effect:+.2f}",
             row.after.n, "" if row.detectable is None else f"{row.detectable:.3f}")
            for row in audit.rows
        ],
    )  # fmt: skip


def matrix(entanglement: Entanglement) -> str:
    """Behaviours below each other, edits and baselines beside each other."""
    cells = entanglement.rows()
    return table(list(cells[0]), [list(row.values()) for row in cells])


def decision(audit: Audit, policy: Policy) -> str:
    """What a policy says of an audit, and why."""
    verdict = decide(audit, policy)
    unmet = "".join(f"\n- {reason}" for reason in verdict.reasons if not reason.met)
    return f"Decision: **{verdict.outcome}**." + unmet
