"""How a checkpoint came to be, as an in-toto Statement with SLSA's provenance predicate.

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance. The subjects are the weight files with their
SHA-256. The dependencies are the base model, by the digest of its weights (`interp.core.digests.weight_digests`), the
recipe, and the data that its directions were fitted on, by the digests that they carry. The release decision is among
the parameters. There are no times in it: the same export gives the same file, and `interp verify` makes it again from
the manifest.

Limitations: it does not sign. Tools for in-toto take the file as it is.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from interp.editing.certificate.manifest import ExportManifest
from interp.interventions.recipe import Recipe

_BUILD = "interp/export/2"  # a type URI of our own: there is no public one for edits of weights


def provenance_statement(manifest: ExportManifest, recipe: Recipe, weights: Mapping[str, str]) -> dict[str, Any]:
    """The statement on weight files with these digests, made from the manifest's base by a recipe."""
    base, source = manifest.base, manifest.source
    decision = {"release": manifest.release.model_dump()} if manifest.release else {}
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(weights.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {"fold": manifest.made.model_dump(), "status": manifest.status} | decision,
                "resolvedDependencies": [
                    {"name": base.name, "uri": source or "memory:", "digest": {"weightsSha256": base.digest}},
                    {"name": "recipe", "uri": "interp_recipe/", "digest": {"sha256": recipe.digest}},
                    *(_material(fitted) for fitted in _fitted([edit.op.settings() for edit in recipe.edits])),
                ],
            },
            "runDetails": {"builder": {"id": "interp", "version": manifest.versions}},
        },
    }


def _fitted(settings: Any) -> Iterator[dict[str, Any]]:
    """Settings of ops that say how, where and on what a direction was fitted; ops may hold ops."""
    if isinstance(settings, dict):
        if {"data", "method", "site"} <= set(settings):
            yield settings
        settings = list(settings.values())
    for value in settings if isinstance(settings, list | tuple) else ():
        yield from _fitted(value)


def _material(fitted: Mapping[str, Any]) -> dict[str, Any]:
    how = {name: fitted[name] for name in ("method", "site", "position") if name in fitted}
    return {"name": "data of a direction", "digest": {"dataSha256": str(fitted["data"])}, "annotations": how}
