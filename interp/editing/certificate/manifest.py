"""The manifest of an exported folder: what it was made from, how, and the SHA-256 of each of its files.

The names of the files that an export writes next to the weights are here, too. The settings and the release decision
that the manifest holds are those that the provenance statement and the model card tell.
"""

from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from interp.core import Config, InterpError
from interp.core.files import KEY, read_json, sha256_file, write_json
from interp.editing.approximate.low_rank_factors import FACTORS, Distillation
from interp.editing.export.signatures import SIGNATURE
from interp.editing.fold.plan import MEANS, Plan, Status
from interp.editing.options import ExportOptions, FoldOptions
from interp.models.checkpoints.checkpoint import INDEX
from interp.models.identity import ModelReference
from interp.models.loading import dtype_of

MANIFEST = "interp_manifest.json"
RECIPE = "interp_recipe"
CERTIFICATE = "interp_certificate.json"
PROBES = "interp_probes.safetensors"
PATCH = "interp_undo.safetensors"
PROVENANCE = "interp_provenance.json"
CARD = "README.md"
GGUF = "model.gguf"
# What an export writes next to weights, recipe and what the base has.
WRITTEN = (INDEX, CERTIFICATE, FACTORS, PROVENANCE, CARD, PROBES, PATCH)


class ExportSettings(FoldOptions):
    """How a recipe was folded, and the type that the weights were cast to.

    `loaded` is the type that the base had in memory, where it was not read from its files. `distilled` records how the
    factors were trained that were merged in place of a fold, where there are any.
    """

    dtype: str | None = None
    loaded: str | None = None
    distilled: Distillation | None = None

    @classmethod
    def used(cls, options: ExportOptions, loaded: str | None, distilled: Distillation | None) -> "ExportSettings":
        """The settings of an export; `loaded` is the type that the base had in memory, if it was there."""
        return cls(dtype=options.dtype, loaded=loaded, distilled=distilled, **dict(options.fold))

    @property
    def cast(self) -> torch.dtype | None:
        """The type that weights were cast to, if any."""
        return dtype_of(self.dtype) if self.dtype else None

    def config(self, plan: Plan) -> dict[str, Any]:
        """Keys of config.json that change."""
        return dict(plan.config) | ({"dtype": self.dtype} if self.dtype else {})


class Release(Config):
    """A policy decision under which an export goes out. It holds for one recipe on one base model.

    Whoever decides makes it (`interp.auditing.policy.release_gate`). It names the audit and the policy by their
    SHA-256; whether the audit would still say the same is not checked.

    Attributes:
        outcome: "allow", or it lets nothing out.
        tier: Tier of the policy.
        policy: Name of the policy.
        policy_sha256: Digest of the policy.
        audit_sha256: Digest of the audit.
        base: Digest of the model's weights before the edit.
        settings: Digest of what else decides the model's output.
        recipe: Digest of the recipe.
        reasons: Why it was decided so.
        safeguards: Safeguards that are required in use.
        section: Markdown for the model card, which the manifest does not store.

    Example:
        >>> from interp.editing.certificate import Release
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> digests = {"policy_sha256": "1" * 64, "audit_sha256": "2" * 64, "recipe": recipe.digest}
        >>> base = model.identity
        >>> release = Release(outcome="allow", policy="strict", base=base.digest, settings=base.settings, **digests)
        >>> release.check(recipe.digest, base, "exact")
    """

    outcome: str
    tier: str = ""
    policy: str
    policy_sha256: str
    audit_sha256: str
    base: str
    settings: str = ""
    recipe: str
    reasons: tuple[str, ...] = Field((), strict=False)
    safeguards: tuple[str, ...] = Field((), strict=False)
    section: str = Field("", exclude=True)

    def check(self, recipe: str, base: ModelReference, status: Status) -> None:
        """Raise unless it allows this recipe's exact fold into this model."""
        if self.outcome != "allow":
            raise InterpError(f"the policy's decision is {self.outcome!r}; only what is allowed is exported")
        for what, decided, given, name in (
            ("recipe", self.recipe, recipe, "this recipe is"),
            ("a model with weights", self.base, base.digest, f"{base.name} has weights"),
            ("a model with settings (config, tokenizer, …)", self.settings, base.settings, f"{base.name} has"),
        ):
            if decided != given:
                problem = f"the decision is on {what} {decided[:12] or 'unknown'}, but {name} {given[:12]}"
                raise InterpError(f"{problem}: can't tell; audit the recipe on this model")
        if status != "exact":
            problem = f"the fold into this model is {MEANS[status]}, so what was audited is not what would be written"
            raise InterpError(f"{problem}: can't tell; export without --require, and audit and gate that checkpoint")


class ExportManifest(Config):
    """What an export was made from and how, and the SHA-256 of each of its files.

    Attributes:
        base: The model that was edited.
        source: Where it can be present; None for a model that was only in memory.
        recipe: Digest of the recipe.
        made: How the recipe was folded and written.
        status: How exact the fold is.
        files: SHA-256 of each file, by its path in the folder.
        versions: Versions of Python and of the packages that wrote it.
        release: The policy decision under which it went out, if there was one.
        left_out: Files of the source's folder that did not come along, with reasons; None in older manifests.
        depth: The erasure depth, if it was measured since: main figures, and the SHA-256 of the record.

    Example:
        >>> from interp.editing import ExportManifest, export_streamed
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> manifest = export_streamed(recipe, model, tmp / "edited")
        >>> ExportManifest.at(tmp / "edited") == manifest
        True
    """

    base: ModelReference
    source: str | None
    recipe: str
    made: ExportSettings = ExportSettings()
    status: Status = "exact"
    files: dict[str, str]
    versions: dict[str, str]
    release: Release | None = None
    left_out: dict[str, str] | None = None
    depth: dict[str, Any] | None = None

    @classmethod
    def at(cls, folder: Path) -> "ExportManifest":
        """Read a folder's manifest. Raises where it has none."""
        if not (folder / MANIFEST).is_file():
            raise InterpError(f"{folder}: no {MANIFEST} in it; expected a folder written by interp export")
        return cls.parse(read_json(folder / MANIFEST), str(folder / MANIFEST))

    def check_files(self, folder: Path) -> None:
        """Raise, by its name, for a file that is missing, changed or added."""
        # A link to a folder counts as a file, since nothing inside it would be checked.
        present = {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_symlink() or not f.is_dir()}
        present -= {MANIFEST, SIGNATURE}  # the signature covers the manifest, and is checked on its own (`signatures`)
        for name in sorted({*self.files, *present}):
            if name not in self.files:
                raise InterpError(f"{folder / name}: not in the manifest; it was added after the export")
            if name not in present or not (folder / name).is_file():
                raise InterpError(f"{folder / name}: missing; the export had it")
            if sha256_file(folder / name) != self.files[name]:
                raise InterpError(f"{folder / name}: changed after the export (SHA-256 differs from the manifest)")

    def sealed(self, folder: Path) -> "ExportManifest":
        """Write the manifest into a folder, with the digests of those of its files that are not in it yet."""
        rest = [file for file in folder.rglob("*") if file.is_file() and file.name not in {*self.files, KEY}]
        digests = self.files | {str(file.relative_to(folder)): sha256_file(file) for file in rest}
        sealed = self.model_copy(update={"files": digests})
        write_json(folder / MANIFEST, sealed.model_dump())
        return sealed
