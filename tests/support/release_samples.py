"""A recipe, and a decision that lets it out on a model."""

import torch

from interp import Project, Recipe
from interp.editing.certificate.manifest import Release

RECIPE = Recipe([("writers", Project(torch.eye(32)[3:4]))], note="Removes nothing in particular.")


def release(model, **changed):
    values = {
        "outcome": "allow",
        "policy": "release",
        "policy_sha256": "1" * 64,
        "audit_sha256": "2" * 64,
        "base": model.digest,
        "settings": model.identity.settings,
        "recipe": RECIPE.digest,
        "reasons": ("refusal: drops by at most 0.012, limit 0.030",),
        "section": "Decision: **allow**.",
    }
    return Release(**(values | changed))
