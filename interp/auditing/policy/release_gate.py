"""Release: an audit's file and a policy, a decision on a checkpoint or on a recipe that is to be exported.

The audit must be whole (its SHA-256) and of this very model: of the checkpoint's own weights and settings (config,
tokenizer, chat template), or of the recipe and the base that its manifest names, where the fold is exact, so that
weights do what the audited hooks did. Where that can't be established, the decision is "inconclusive".
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from interp.auditing.auditor import Audit, AuditRow
from interp.auditing.policy.decision import Decision, Policy, Reason, decide
from interp.core.errors import InterpError
from interp.core.files import sha256_file
from interp.editing.certificate.manifest import MANIFEST, ExportManifest, Release
from interp.interventions.recipe import Recipe
from interp.models.identity import ModelReference
from interp.models.loading import load


def gate(
    audit: str | Path,
    policy: Policy | str | Path,
    checkpoint: str | Path | None = None,
    safeguards: Collection[str] = (),
    recipe: Recipe | None = None,
) -> Decision:
    """Decide on an audit's file, and on whether it is of the checkpoint or recipe given.

    The policy may be the name of a shipped one, or its file. Raises where there is no such file; an audit that is none,
    or was changed, leaves the decision open.
    """
    if not Path(audit).is_file():
        raise InterpError(f"{audit}: no such file; expected an audit written by interp audit")
    rules = policy if isinstance(policy, Policy) else Policy.of_name(policy)
    try:
        read = Audit.read(audit)
    except InterpError as problem:
        return Decision((Reason(None, f"the audit can't be relied on: {problem}"),), safeguards=tuple(safeguards))
    evidence = [Reason(True, "the audit is as it was written")]
    if checkpoint is not None:
        evidence += _of_checkpoint(read, Path(checkpoint))
    if recipe is not None:
        evidence.append(_of_recipe(read, recipe.digest))
    return decide(read, rules, safeguards, evidence)


def decide_release(audit: str | Path, policy: Policy, decision: Decision) -> Release:
    """The record that goes with an export. Raises unless the decision allows it."""
    if not decision.allow:
        raise InterpError(f"the decision is {decision.outcome!r}; there is no release of what is not allowed")
    read = Audit.read(audit)
    record = Release(
        outcome=decision.outcome,
        tier=decision.tier,
        policy=policy.name,
        policy_sha256=policy.digest,
        audit_sha256=sha256_file(Path(audit)),
        base=read.before.digest,
        settings=read.before.settings,
        recipe=read.recipe,
        reasons=tuple(reason.text for reason in decision.reasons),
        safeguards=decision.safeguards,
    )
    return record.model_copy(update={"section": _section(read, record, decision)})


def _of_checkpoint(audit: Audit, folder: Path) -> Iterator[Reason]:
    """Whether it is of these weights. Files that do not fit the manifest are told before anything is loaded."""
    if not (folder / MANIFEST).is_file():
        yield from _same_model(audit.after, load(folder).identity)
        return
    manifest = ExportManifest.at(folder)
    try:
        manifest.check_files(folder)
        yield Reason(True, f"{folder}: files are as they were exported")
    except InterpError as problem:
        yield Reason(None, str(problem))
        return
    if audit.after.digest != audit.before.digest:
        yield from _same_model(audit.after, load(folder).identity)
        return
    yield from _same_model(audit.before, manifest.base, "base's ")
    yield _of_recipe(audit, manifest.recipe)
    exact = manifest.status == "exact"
    yield Reason(exact or None, f"the fold is {manifest.status}: what hooks did, only exact weights do as well")


def _of_recipe(audit: Audit, digest: str) -> Reason:
    return _same("recipe", audit.recipe, digest)


def _same_model(audited: ModelReference, found: ModelReference, whose: str = "") -> Iterator[Reason]:
    yield _same(f"{whose}weights", audited.digest, found.digest)
    yield _same(f"{whose}settings", audited.settings, found.settings)


def _same(what: str, audited: str, found: str) -> Reason:
    if audited and audited == found:
        return Reason(True, f"the audit is of this {what} ({found[:12]})")
    other = audited[:12] or "unknown"
    return Reason(None, f"the audit is of {what} {other}, not of this one, {found[:12] or 'unknown'}; audit again")


def _section(audit: Audit, release: Release, decision: Decision) -> str:
    """What the model card says of the audit."""
    lines = [
        f"Decision under the policy {release.policy or 'given'}: **{release.outcome}**"
        + (f", tier {release.tier}." if release.tier else "."),
        f"Audit SHA-256 `{release.audit_sha256}`, policy SHA-256 `{release.policy_sha256}`.",
        "| behaviour | kind | a higher score means | n | before | after | after - before | p (Holm) |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(map(_line, audit.rows)),
        "Means with 95 % intervals, the same items before and after. What the policy asked for:",
        "\n".join(f"- {_plain(reason.text)}" for reason in decision.reasons),
    ]
    if release.safeguards:
        lines.append("Stated to be in place: " + ", ".join(map(_plain, release.safeguards)) + ".")
    return "\n\n".join(lines)


def _line(row: AuditRow) -> str:
    cells = [row.name, row.kind, row.statement, row.after.n, row.before, row.after, row.difference, f"{row.p_holm:.3g}"]
    return "| " + " | ".join(_plain(str(cell)) for cell in cells) + " |"


def _plain(text: str) -> str:
    """On one line, without what Markdown would take for a cell's end or for HTML."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
