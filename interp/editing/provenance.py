"""Provenance: how a checkpoint came to be, as an in-toto Statement with SLSA's provenance predicate.

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance. Subjects are the weight files by their SHA-256;
dependencies are the base model, by the digest of its weights (`interp.core.records.tensors_digest`), the recipe, and
the data that its directions were fitted on, by the digests that they carry. The decision that let it go out is among
the parameters. There are no times in it: the same export gives the same file, and `interp verify` makes it again from
the manifest. What it does not do is sign: tools for in-toto take the file as it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from interp.core.records import versions
from interp.editing.release import Release
from interp.interventions.recipe import Recipe
from interp.models.reference import ModelReference

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
