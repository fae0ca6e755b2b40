"""Carried: which recipe an edited model was made by, and whether an audit of the model is one of that recipe.

A recipe may be named for the baselines' sake. An audit says that it is of a recipe only where that is established: the
recipe's own hooks were measured, or a checkpoint whose manifest tells that it is the recipe's exact fold into the model
before the edit, and whose files are as they were exported.

What it does not know: whether weights were changed in memory after they were loaded.
"""

from pathlib import Path

from interp.core.errors import InterpError
from interp.editing.replay import MANIFEST, RECIPE, Manifest
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel


def edit_of(after: HookedModel | Recipe | None, stated: Recipe | None) -> Recipe | None:
    """The edit: itself, the one that the checkpoint carries, or the one stated. Raises where two of these differ."""
    if not isinstance(after, HookedModel):
        if stated is not None:
            raise InterpError("a recipe= tells what an edited model was made by; without such a model leave it out")
        return after
    carried = _carried(after)
    if stated is not None and carried is not None and stated.digest != carried.digest:
        raise InterpError(
            f"{after.name} carries the recipe that it was made by, {carried.digest[:12]}, and the one given is "
            f"another, {stated.digest[:12]}; leave it out, or give the checkpoint that it made"
        )
    return stated or carried


def established(before: HookedModel, after: HookedModel | Recipe | None) -> str:
    """The digest of the recipe that an audit of the two is of; "" where that can't be told."""
    if not isinstance(after, HookedModel):
        return after.digest if after else ""
    folder = Path(after.source or "")
    if not after.source or not (folder / MANIFEST).is_file():
        return ""
    manifest, base = Manifest.at(folder), before.identity
    same = (manifest.base.digest, manifest.base.settings) == (base.digest, base.settings)
    return manifest.recipe if same and manifest.status == "exact" and _is_whole(manifest, folder) else ""


def _is_whole(manifest: Manifest, folder: Path) -> bool:
    try:
        manifest.check_files(folder)
    except InterpError:
        return False
    return True


def _carried(model: HookedModel) -> Recipe | None:
    folder = Path(model.source) / RECIPE if model.source else None
    return Recipe.load(folder) if folder is not None and folder.is_dir() else None
