"""An edit as other tools name it: the folder of a recipe, and a strength."""

from pathlib import Path

from interp.core.errors import InterpError
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel


def recipe_for(model: HookedModel, recipe: Recipe | str | Path | None, strength: float) -> Recipe | None:
    """The recipe at its strength, if one is given.

    Raises:
        InterpError: There is no such recipe, it is of another model, or a strength is given without one.
    """
    if recipe is None:
        if strength != 1:
            raise InterpError(f"strength is {strength}, but there is no recipe; give recipe=FOLDER")
        return None
    scaled = (recipe if isinstance(recipe, Recipe) else Recipe.load(recipe)).scaled(strength)
    scaled.bind(model)
    return scaled
