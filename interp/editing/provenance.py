"""Provenance: how a checkpoint came to be, as an in-toto Statement with SLSA's provenance predicate.

https://in-toto.io/Statement/v1, https://slsa.dev/spec/v1.0/provenance. Subjects are the weight files by their SHA-256;
dependencies are the base model, by the digest of its weights (`interp.core.records.tensors_digest`), and the recipe.
There are no times in it: the same export gives the same file. What it does not do is sign: tools for in-toto take the
file as it is.
"""

from collections.abc import Mapping
from typing import Any

from interp.core.records import versions
from interp.models.reference import ModelReference

PROVENANCE = "interp_provenance.json"
_BUILD = "interp/export/1"  # a type URI of our own: there is no public one for edits of weights


def statement(
    weights: Mapping[str, str],
    base: ModelReference,
    source: str | None,
    recipe: str,
    parameters: Mapping[str, Any],
    status: str,
) -> dict[str, Any]:
    """Of weight files with these digests, made from `base` by a recipe of this digest."""
    own = versions()
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": name, "digest": {"sha256": digest}} for name, digest in sorted(weights.items())],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD,
                "externalParameters": {"fold": dict(parameters), "status": status},
                "resolvedDependencies": [
                    {"name": base.name, "uri": source or "memory:", "digest": {"weightsSha256": base.digest}},
                    {"name": "recipe", "uri": "interp_recipe/", "digest": {"sha256": recipe}},
                ],
            },
            "runDetails": {"builder": {"id": "interp", "version": own}},
        },
    }
