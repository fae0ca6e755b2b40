"""The release gate: a decision on a checkpoint, or on a recipe before its export, from the file of an audit and a
policy.

The figures of the audit must follow from its item scores, and the audit must be of this very model. An audit of an
edited checkpoint covers a checkpoint whose weights and settings (config, tokenizer, chat template), computed from the
files, have the same digests. An audit of a recipe run by hooks covers an exact export of that recipe from that base,
never the base itself. A manifest proves nothing, since whoever replaces weights can rewrite it. So the export is made
again from the base and measured (`interp.editing.verify`), or it must be signed with a key that the caller names. Where
neither holds, the decision is inconclusive.

In place of the file of an audit the gate reads the folder of a risk report (`risk_report`): the audits in it, and the
reviews that were signed with the keys that the caller names (`reviews`).

Limitations: nothing shows who measured, nor that the audit was not made up as a whole (`interp.auditing.auditor`).
Behaviours are identified by name; a policy pins their content by `digests`. The dtype in which others load a checkpoint
is theirs to choose.
"""

import re
from collections.abc import Collection, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path

from interp.auditing.audit_row import AuditRow
from interp.auditing.auditor import Audit
from interp.auditing.conditions import today as current_day
from interp.auditing.policy.decision import Decision, Policy, Reason, decide
from interp.auditing.policy.erasure_depth import ErasureDepth
from interp.auditing.policy.evidence import gather_evidence
from interp.auditing.policy.reviews import check_report
from interp.auditing.policy.risk_report import REPORT, RiskReport
from interp.core.display import markdown
from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_file
from interp.editing.certificate.manifest import CERTIFICATE, MANIFEST, RECIPE, WRITTEN, ExportManifest, Release
from interp.editing.certificate.record import Certificate
from interp.editing.certificate.verifier import check
from interp.editing.export.signatures import SIGNATURE, read_signature
from interp.editing.export.sources import AnyModel
from interp.interventions.recipe import Recipe
from interp.models.checkpoints.checkpoint import INDEX, Checkpoint
from interp.models.checkpoints.companions import is_weights, of_tokenizer
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import BUNDLED, load

_OF_EXPORT = {*WRITTEN, MANIFEST, SIGNATURE, f"{RECIPE}/recipe.json", f"{RECIPE}/recipe.safetensors"}
# Covered by the digest of the settings, or texts, pictures and tables. A tokenizer's vocabulary in other files is not
# loaded in place of tokenizer.json, other than sentencepiece's `tokenizer.model` and `tekken.json`.
_HARMLESS = re.compile(
    r"(config|(generation|tokenizer|processor|(video_)?preprocessor)_config|tokenizer|vocab|special_tokens_map"
    r"|added_tokens|trainer_state|\w+_results|rates)\.json|chat_template\.jinja"
    r"|additional_chat_templates/[^/]+\.jinja|(.*/)?(LICENSE|NOTICE)"
    r"|.*\.(md|txt|csv|tsv|jsonl|pdf|png|jpe?g|gif|svg|webp)",
    re.DOTALL,
)


def gate(
    audit: str | Path,
    policy: Policy | str | Path,
    checkpoint: str | Path | None = None,
    safeguards: Collection[str] = (),
    recipe: Recipe | None = None,
    *,
    base: AnyModel | None = None,
    key: str | Path | None = None,
    reviewers: Collection[str | Path] = (),
    today: date | None = None,
    depth: str | Path | None = None,
) -> Decision:
    """Decide on the file of an audit, and on whether it covers a checkpoint or recipe.

    Args:
        audit: A file written by `Audit.save`, or the folder of a risk report.
        policy: A policy, the name of a shipped one (`release`, `targeted`), or a YAML file.
        checkpoint: Folder of the checkpoint to release. Without one, the decision is on what was audited alone.
        safeguards: Names of safeguards in place, as stated by whoever decides.
        recipe: The recipe to export.
        base: The unedited model, from which an export is made again. Default: where its manifest says, on this machine.
        key: Public key (PEM) of whoever signed the export; its manifest and certificate are then relied on.
        reviewers: Public keys (PEM) of reviewers; signatures of a risk report count if they hold for one of them.
        today: The day from which the age of evidence is counted. Default: today, in UTC.
        depth: Folder that `interp depth` wrote, where the policy sets limits on the erasure depth.

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
    named = {"an audit written by interp audit": audit, "a checkpoint": checkpoint, "a folder of interp depth": depth}
    for what, path in named.items():
        if path is not None and str(path) not in BUNDLED and not Path(path).exists():
            raise InterpError(f"{path}: no such file; expected {what}")
    policy = policy if isinstance(policy, Policy) else Policy.read(policy)
    day, is_report = today or current_day(), Path(audit).is_dir()
    if reviewers and not is_report:
        raise InterpError(f"{audit}: reviewers sign risk reports, and this is a file; give the folder of one")
    reported, approvals, notes = list[Reason](), list[str](), list[str]()
    what = "risk report" if is_report else "audit"
    try:
        if is_report:
            saved, reported, approvals, notes = check_report(audit, policy, reviewers, day)
        else:
            saved = Audit.read(audit)
        what = "erasure depth"
        measured = None if depth is None else ErasureDepth.read(depth)
    except InterpError as problem:
        return Decision((Reason(None, f"the {what} cannot be relied on: {problem}"),), safeguards=tuple(safeguards))
    evidence = [
        *reported,
        Reason(True, "the audit is unchanged since it was written, and its figures follow from its item scores"),
        Reason(True, f"the policy is {policy.name or 'without a name'}, SHA-256 {policy.digest[:12]}"),
    ]
    if variables := saved.after.template:
        evidence.append(
            Reason(True, f"the chat template's variables were {variables}; with others nothing was measured")
        )
    if checkpoint is not None:
        try:
            evidence += _check_checkpoint(saved, Path(checkpoint), base, key)
        except InterpError as problem:
            evidence.append(Reason(None, str(problem)))
    if recipe is not None:
        evidence.append(_same("recipe", saved.recipe, recipe.digest))
    decision = decide(saved, policy, safeguards, evidence, approvals if is_report else None, day, measured)
    return replace(decision, notes=(*decision.notes, *notes))


def decide_release(audit: str | Path, policy: Policy, decision: Decision) -> Release:
    """The release record of an export. Raises unless the decision is to allow it."""
    if not decision.allow:
        raise InterpError(f"the decision is {decision.outcome!r}; only allowed models are released")
    is_report = Path(audit).is_dir()
    saved = _newest(audit, policy) if is_report else Audit.read(audit)
    record = Release(
        outcome=decision.outcome,
        tier=decision.tier,
        policy=policy.name,
        policy_sha256=policy.digest,
        audit_sha256=sha256_file(Path(audit) / REPORT if is_report else Path(audit)),
        base=saved.before.digest,
        settings=saved.before.settings,
        recipe=saved.recipe,
        reasons=tuple(reason.text for reason in decision.reasons),
        safeguards=decision.safeguards,
    )
    return record.model_copy(update={"section": _section(saved, record, decision)})


def _newest(folder: str | Path, policy: Policy) -> Audit:
    return gather_evidence(RiskReport.read(folder).read_audits(folder), policy, current_day())[0]


def _check_checkpoint(audit: Audit, folder: Path, base: AnyModel | None, key: str | Path | None) -> Iterator[Reason]:
    """Whether the audit covers these weights. Files are checked against the manifest before anything is loaded."""
    exported = (folder / MANIFEST).is_file()
    if exported:
        ExportManifest.at(folder).check_files(folder)
        yield Reason(True, f"{folder}: files are unchanged since the export")
    if key is not None:
        read_signature(folder, key)
        yield Reason(True, f"{folder}: signed with the key {key}")
    if folder.is_dir():
        yield from _measured_files(folder)
    if audit.edit != "hooks":
        place = folder.absolute() if folder.exists() else folder  # a folder of the organism's name is not the organism
        model = load(place, **audit.after.chat)
        yield from _same_model(audit.after, model.identity)
        stated = "quantization_config" in (read_json(folder / "config.json", True) if folder.is_dir() else {})
        if stated and not hasattr(model.config, "quantization_config"):
            why = "was measured dequantised, and other machines may compute with it as quantised; export it dequantised"
            yield Reason(None, f"{folder}: {why}")
        if base is not None:
            yield from _same_model(audit.before, _opened(base, audit).identity, "base's ")
        if audit.of_one_model and not all(item.is_unchanged for item in audit.items.values()):
            yield Reason(None, "one model has two scores in the audit, so it measured more than these weights")
    elif exported:
        yield from _check_fold(audit, folder, base, key)
    else:
        yield Reason(
            None,
            f"the audit measured recipe {audit.recipe[:12]} by hooks, and {folder} is not an export of it; give an "
            "export (interp export MODEL --recipe DIR --out EDITED), or audit these weights",
        )


def _check_fold(audit: Audit, folder: Path, base: AnyModel | None, key: str | Path | None) -> Iterator[Reason]:
    """Whether an export is the audited recipe, folded exactly into the audited base: made again, or by its signer."""
    manifest = ExportManifest.at(folder)
    yield _same("recipe", audit.recipe, manifest.recipe)
    exact = manifest.status == "exact"
    yield Reason(exact or None, f"the fold is {manifest.status}; only exact weights do what the audited hooks did")
    # What a manifest names is used where it is on this machine, and never fetched.
    is_here = manifest.source in BUNDLED or Path(manifest.source or "").exists()
    origin = base if base is not None else manifest.source if is_here and key is None else None
    if origin is not None:
        dtype = manifest.made.loaded or ("bfloat16" if manifest.made.dequantise else None)
        model = _opened(origin, audit, dtype)
        yield from _same_model(audit.before, model.identity, "base's ")
        certificate, replay = check(folder, model)
        # Other versions of transformers write the files of a model in memory differently, so none was compared. Older
        # manifests don't say what was left out, so a file that is missing was not noticed.
        compared = replay.files > 0 and manifest.left_out is not None
        yield Reason(compared or None, f"made again from the base: {replay}" + ", but not all" * (not compared))
    elif key is not None:
        yield from _same_model(audit.before, manifest.base, "base's ")
        certificate = Certificate.read(folder / CERTIFICATE)
    else:
        yield Reason(
            None,
            "a manifest alone does not prove that the weights are the recipe's; name the model that it was exported "
            "from (--base), to make the export again, or the public key of its signature (--key)",
        )
        return
    yield Reason(certificate.faithful or None, f"the weights do what the hooks do: {certificate!r}")


def _opened(base: AnyModel, audit: Audit, dtype: str | None = None) -> HookedModel:
    """The unedited model, with the date and variables of the audit's chat template."""
    return base if isinstance(base, HookedModel) else load(base, dtype=dtype, **audit.before.chat)


def _measured_files(folder: Path) -> Iterator[Reason]:
    """What the folder has besides what the audit's digests cover and what is known to be neither weights nor code."""
    exported, whole = (folder / MANIFEST).is_file(), (folder / "tokenizer.json").is_file()
    known = {INDEX, *(file.name for file in Checkpoint.open(folder).files), *(_OF_EXPORT if exported else ())}
    for file in sorted(folder.rglob("*")):
        name = str(file.relative_to(folder))
        if name in known or (file.is_dir() and not file.is_symlink()):
            continue
        harmless = _HARMLESS.fullmatch(name) or name.startswith(".") or (of_tokenizer(name) and not whole)
        if not (harmless and file.is_file()) or is_weights(file) or _has_code(file):
            yield Reason(None, f"{file}: was not measured, and may be loaded or run in place of what was; remove it")


def _has_code(file: Path) -> bool:
    return file.suffix == ".py" or (file.suffix == ".json" and "auto_map" in str(read_json(file, constants=True)))


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
    """On one line, with Markdown and HTML escaped."""
    return markdown(" ".join(text.split()))
