"""interp: find what makes a language model behave harmfully, remove it, export the edited weights, prove what changed.

The whole surface, in the order of the road:

>>> model = interp.load("organism")                                           # doctest: +SKIP
>>> found = interp.find(model, contrast).best()[0].direction                  # doctest: +SKIP
>>> recipe = interp.Recipe([("writers", interp.Project(found))])              # doctest: +SKIP
>>> model.generate(prompts, recipe=recipe)                                    # doctest: +SKIP
>>> interp.export(recipe, model, "edited")                                    # doctest: +SKIP
>>> interp.audit(model, interp.load("edited"), behaviours)                    # doctest: +SKIP

Importing it loads nothing: each name is imported when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from interp.activations.harvest import harvest
    from interp.auditing.runner import audit
    from interp.core.errors import InterpError
    from interp.data.contrast import Contrast
    from interp.directions.direction import Direction
    from interp.directions.find import find
    from interp.editing.export import export
    from interp.editing.verify import verify
    from interp.interventions.clamp import Clamp
    from interp.interventions.ops import Add, Project
    from interp.interventions.recipe import Recipe
    from interp.models.hooked import HookedModel
    from interp.models.load import load
    from interp.sae.coder import SparseAutoencoder

__all__ = [
    "Add",
    "Clamp",
    "Contrast",
    "Direction",
    "HookedModel",
    "InterpError",
    "Project",
    "Recipe",
    "SparseAutoencoder",
    "audit",
    "export",
    "find",
    "harvest",
    "load",
    "verify",
]

_HOME = {
    "Add": "interp.interventions.ops",
    "Clamp": "interp.interventions.clamp",
    "Contrast": "interp.data.contrast",
    "Direction": "interp.directions.direction",
    "HookedModel": "interp.models.hooked",
    "InterpError": "interp.core.errors",
    "Project": "interp.interventions.ops",
    "Recipe": "interp.interventions.recipe",
    "SparseAutoencoder": "interp.sae.coder",
    "audit": "interp.auditing.runner",
    "export": "interp.editing.export",
    "find": "interp.directions.find",
    "harvest": "interp.activations.harvest",
    "load": "interp.models.load",
    "verify": "interp.editing.verify",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'interp' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
