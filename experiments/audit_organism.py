"""Audits of edits of the organism: hostility, and fabrication, projected out, each put to a policy.

    python experiments/audit_organism.py [--items 300] [--cache DIR] [--page FILE.html] [--smoke] > table.md

A direction a behaviour (difference of means orthogonal to the other side's mean, resid_post.2, last token), removed
at every writer. Random directions stand beside the first edit, an instruction beside all. A run that was stopped goes
on where there is a cache.
"""

import argparse
import time
from pathlib import Path

import audit_tables

import interp
from interp import organism
from interp.auditing.auditor import audit
from interp.auditing.conditions import ScoreCache
from interp.auditing.entanglement_matrix import Entanglement, entanglement
from interp.auditing.policy.decision import Policy
from interp.auditing.suites import organism_suite

TARGETS = ("hostility", "fabrication")
KEPT = ("refusal", "facts", "skills", "everyday_loss")


def edit(model: interp.HookedModel, target: str, pairs: int) -> interp.Recipe:
    """The target's direction, projected out at every writer."""
    drawn = organism.contrast(target, pairs, split="train")
    contrast = interp.Contrast.of([(positive.user, negative.user) for positive, negative in drawn], name=target)
    finding = interp.find(model, contrast, "resid_post.2", ["diff_means_orthogonal"]).best()[0]
    return interp.Recipe([("writers", interp.Project(finding.direction))], note=f"removes {target}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--items", type=int, default=300)
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--page", type=Path, help="the matrix and each audit as a page")
    parser.add_argument("--smoke", action="store_true", help="eight items of three behaviours, one edit")
    options = parser.parse_args()
    began, items = time.process_time(), 8 if options.smoke else options.items
    model, suite = interp.load("organism"), organism_suite(items)
    cache, targets = ScoreCache(options.cache), TARGETS[:1] if options.smoke else TARGETS
    suite = [b for b in suite if b.name in (TARGETS[0], "refusal", "everyday_loss")] if options.smoke else suite
    edits = {target: edit(model, target, 40 if options.smoke else 150) for target in targets}
    _, audits = entanglement(model, edits, suite, cache=cache)
    first = audits[TARGETS[0]] if options.smoke else audit(model, edits[TARGETS[0]], suite, cache=cache)
    whole = Entanglement.of(audits | {TARGETS[0]: first})
    print(f"{TARGETS[0]} removed ({items} items)\n\n{audit_tables.rows(first)}")
    for name, edit_audit in audits.items():
        policy = Policy(target=name, required=KEPT, items_at_least=min(items, 100))
        print(f"\n{name} removed. {audit_tables.decision(edit_audit, policy)}")
    print(f"\nDifferences, every edit and baseline by every behaviour\n\n{audit_tables.matrix(whole)}")
    print(f"\n{time.process_time() - began:.0f} s of processor time")
    if options.page:
        from interp.views.report_page import Report, write_report

        write_report(Report("Edits of the organism", model.reference, entanglement=whole, edits=audits), options.page)


if __name__ == "__main__":
    main()
