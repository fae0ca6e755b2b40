"""Provenance: how a checkpoint came to be, as an in-toto Statement with SLSA's provenance predicate.

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance. Subjects are the weight files by their SHA-256;
dependencies are the base model, by the digest of its weights (`interp.core.digests.tensors_digest`), the recipe, and
the data that its directions were fitted on, by the digests that they carry. The decision that let it go out is among
the parameters. There are no times in it: the same export gives the same file, and `interp verify` makes it again from
the manifest. What it does not do is sign: tools for in-toto take the file as it is.

Release: the decision that let an export go out, as the manifest and the model card tell it.

It is made by whoever decides (`interp.auditing.policy.release_gate`) and holds for one recipe on one base model. What
it does not know: whether the audit still says so. It names the audit and the policy by their SHA-256.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field

from interp.core.config import Config
from interp.core.digests import versions
from interp.core.errors import InterpError
from interp.editing.fold.plan import MEANS, Status
from interp.interventions.recipe import Recipe
from interp.models.identity import ModelReference


class Release(Config):
    """What was decided, on what.

    `base` is the digest of the model's weights before the edit, `settings` that of what else decides its output.
    `section` is for the model card: Markdown, not kept in the manifest.
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
        """Raise unless it lets this recipe's exact fold into this model go out."""
        if self.outcome != "allow":
            raise InterpError(f"the policy's decision is {self.outcome!r}; only what is allowed is exported")
        if self.recipe != recipe:
            raise InterpError(
                f"the decision is on recipe {self.recipe[:12] or 'unknown'}, but this one is {recipe[:12]}: can't "
                "tell; audit this recipe"
            )
        if self.base != base.digest:
            raise InterpError(
                f"the decision is on a model with weights {self.base[:12]}, but {base.name} has weights "
                f"{base.digest[:12]}: can't tell; audit the recipe on this model"
            )
        if self.settings != base.settings:
            raise InterpError(
                f"the decision is on a model with settings {self.settings[:12] or 'unknown'} (config, tokenizer, chat "
                f"template), but {base.name} has {base.settings[:12]}: can't tell; audit the recipe on this model"
            )
        if status != "exact":
            raise InterpError(
                f"the recipe folds into this model {MEANS[status]}, so what was audited is not what would be written: "
                "can't tell; export without --require, audit that checkpoint, and put it to interp gate --checkpoint"
            )


PROVENANCE = "interp_provenance.json"
_BUILD = "interp/export/2"  # a type URI of our own: there is no public one for edits of weights


def statement(
    weights: Mapping[str, str],
    base: ModelReference,
    source: str | None,
    recipe: Recipe,
    parameters: Mapping[str, Any],
    status: str,
    release: Release | None = None,
) -> dict[str, Any]:
    """Of weight files with these digests, made from `base` by a recipe."""
    own, decided = versions(), {"release": release.model_dump()} if release else {}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(weights.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {"fold": dict(parameters), "status": status} | decided,
                "resolvedDependencies": [
                    {"name": base.name, "uri": source or "memory:", "digest": {"weightsSha256": base.digest}},
                    {"name": "recipe", "uri": "interp_recipe/", "digest": {"sha256": recipe.digest}},
                    *(_material(fitted) for fitted in _fitted([edit.op.settings() for edit in recipe.edits])),
                ],
            },
            "runDetails": {"builder": {"id": "interp", "version": own}},
        },
    }


def _fitted(settings: Any) -> Iterator[dict[str, Any]]:
    """What settings of ops tell of directions: how, where and on what they were fitted; ops may hold ops."""
    if isinstance(settings, dict):
        if {"data", "method", "site"} <= set(settings):
            yield settings
        for value in settings.values():
            yield from _fitted(value)
    elif isinstance(settings, list | tuple):
        for value in settings:
            yield from _fitted(value)


def _material(fitted: Mapping[str, Any]) -> dict[str, Any]:
    how = {name: fitted[name] for name in ("method", "site", "position") if name in fitted}
    return {"name": "data of a direction", "digest": {"dataSha256": str(fitted["data"])}, "annotations": how}
