"""The release gate: a decision on a checkpoint, or on a recipe before its export, from the file of an audit and a
policy.

The audit must be unchanged (by its SHA-256) and cover this model: the checkpoint's own weights and settings (config,
tokenizer, chat template), or the recipe and base that its manifest names, if the fold is exact, so that the weights
do what the audited hooks did. Where that is not established, the decision is inconclusive.
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
    """Decide on the file of an audit, and on whether it covers a checkpoint or recipe.

    Args:
        audit: A file written by `Audit.save`.
        policy: A policy, the name of a shipped one (`release`), or a YAML file.
        checkpoint: Folder of the checkpoint to release.
        safeguards: Names of safeguards in place, as stated by whoever decides.
        recipe: The recipe to export.

    Returns:
        The decision; inconclusive if the file is not an audit or was changed.

    Raises:
        InterpError: A file does not exist.

    Example:
        >>> from interp.auditing import gate, text_loss
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> interp.audit(model, recipe, [loss], baselines=()).save(tmp / "audit.json")
        >>> gate(tmp / "audit.json", "release", recipe=recipe).outcome
        'deny'
    """
    if not Path(audit).is_file():
        raise InterpError(f"{audit}: no such file; expected an audit written by interp audit")
    policy = policy if isinstance(policy, Policy) else Policy.read(policy)
    try:
        saved = Audit.read(audit)
    except InterpError as problem:
        return Decision((Reason(None, f"the audit cannot be relied on: {problem}"),), safeguards=tuple(safeguards))
    evidence = [Reason(True, "the audit is unchanged since it was written")]
    if checkpoint is not None:
        evidence += _check_checkpoint(saved, Path(checkpoint))
    if recipe is not None:
        evidence.append(_check_recipe(saved, recipe.digest))
    return decide(saved, policy, safeguards, evidence)


def decide_release(audit: str | Path, policy: Policy, decision: Decision) -> Release:
    """The release record of an export. Raises unless the decision is to allow it."""
    if not decision.allow:
        raise InterpError(f"the decision is {decision.outcome!r}; only allowed models are released")
    saved = Audit.read(audit)
    record = Release(
        outcome=decision.outcome,
        tier=decision.tier,
        policy=policy.name,
        policy_sha256=policy.digest,
        audit_sha256=sha256_file(Path(audit)),
        base=saved.before.digest,
        settings=saved.before.settings,
        recipe=saved.recipe,
        reasons=tuple(reason.text for reason in decision.reasons),
        safeguards=decision.safeguards,
    )
    return record.model_copy(update={"section": _section(saved, record, decision)})


def _check_checkpoint(audit: Audit, folder: Path) -> Iterator[Reason]:
    """Whether the audit covers these weights. Files are checked against the manifest before anything is loaded."""
    if not (folder / MANIFEST).is_file():
        yield from _same_model(audit.after, load(folder).identity)
        return
    manifest = ExportManifest.at(folder)
    try:
        manifest.check_files(folder)
        yield Reason(True, f"{folder}: files are unchanged since the export")
    except InterpError as problem:
        yield Reason(None, str(problem))
        return
    if audit.after.digest != audit.before.digest:
        yield from _same_model(audit.after, load(folder).identity)
        return
    yield from _same_model(audit.before, manifest.base, "base's ")
    yield _check_recipe(audit, manifest.recipe)
    exact = manifest.status == "exact"
    yield Reason(exact or None, f"the fold is {manifest.status}; only exact weights do what the audited hooks did")


def _check_recipe(audit: Audit, digest: str) -> Reason:
    return _same("recipe", audit.recipe, digest)


def _same_model(audited: ModelReference, actual: ModelReference, whose: str = "") -> Iterator[Reason]:
    yield _same(f"{whose}weights", audited.digest, actual.digest)
    yield _same(f"{whose}settings", audited.settings, actual.settings)


def _same(what: str, audited: str, actual: str) -> Reason:
    if audited and audited == actual:
        return Reason(True, f"the audit is of this {what} ({actual[:12]})")
    other = audited[:12] or "unknown"
    return Reason(None, f"the audit is of {what} {other}, not of this one, {actual[:12] or 'unknown'}; audit again")


def _section(audit: Audit, release: Release, decision: Decision) -> str:
    """The section of the model card about the audit."""
    lines = [
        f"Decision under the policy {release.policy or 'given'}: **{release.outcome}**"
        + (f", tier {release.tier}." if release.tier else "."),
        f"Audit SHA-256 `{release.audit_sha256}`, policy SHA-256 `{release.policy_sha256}`.",
        "| behaviour | kind | a higher score means | n | before | after | after - before | p (Holm) |\n"
        "|---|---|---|---|---|---|---|---|\n" + "\n".join(map(_line, audit.rows)),
        "Means with 95 % intervals, the same items before and after. Requirements of the policy:",
        "\n".join(f"- {_plain(reason.text)}" for reason in decision.reasons),
    ]
    if release.safeguards:
        lines.append("Safeguards stated to be in place: " + ", ".join(map(_plain, release.safeguards)) + ".")
    return "\n\n".join(lines)


def _line(row: AuditRow) -> str:
    cells = [row.name, row.kind, row.statement, row.after.n, row.before, row.after, row.difference, f"{row.p_holm:.3g}"]
    return "| " + " | ".join(_plain(str(cell)) for cell in cells) + " |"


def _plain(text: str) -> str:
    """On one line, with Markdown's column separator and HTML escaped."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")
