"""The verbs `interp recipe build` and `recipe show`: recipes from YAML, without Python, and what a saved one does."""

from pathlib import Path
from typing import Annotated

import typer

from interp.cli._options import Device, Json
from interp.core.display import brief, plural, print_table, print_values, say
from interp.core.errors import InterpError
from interp.core.files import require_free


def build_command(
    file: Annotated[Path, typer.Argument(help="recipe (YAML)")],
    overrides: Annotated[list[str] | None, typer.Argument(help="settings, such as note=half")] = None,
    out: Annotated[Path, typer.Option(help="new folder for the recipe")] = Path("recipe"),
    model: Annotated[
        str | None, typer.Option(help=r"organism, a local folder, or a hub id \[default: the file's]")
    ] = None,
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Build a recipe from a YAML file of directions and edits, for a model."""
    from interp.models.loading import load, model_beside
    from interp.search.recipe_file import RecipeFile

    require_free(out)
    data = RecipeFile.read(file, overrides or [])
    if model is None and data.model is None:
        raise InterpError(f"{file} names no model; give one (--model)")
    name = model or model_beside(str(data.model), file.parent)
    recipe = data.build(load(name, device=device), folder=file.parent)
    recipe.save(out)
    if as_json:
        print_values(True, {"folder": str(out), "edits": len(recipe.edits), "digest": recipe.digest})
    else:
        say(f"{out}: {plural(len(recipe.edits), 'edit')}; interp recipe show {out}")


def show_recipe(folder: Annotated[Path, typer.Argument(help="folder of the recipe")], as_json: Json = False) -> None:
    """Show a saved recipe: its model, its note, and its edits in order."""
    from interp.interventions.recipe import Recipe

    recipe = Recipe.load(folder)
    model = recipe.model and recipe.model.name
    if as_json:
        rows = [{"sites": e.sites, "op": type(e.op).__name__, "settings": e.op.settings()} for e in recipe.edits]
        print_values(True, {"model": model, "note": recipe.note, "digest": recipe.digest, "edits": rows})
        return
    print_values(False, {"model": model or "any", "note": recipe.note, "digest": recipe.digest})
    edits = [
        {"sites": brief(edit.sites), "op": type(edit.op).__name__, "options": _options(edit.op.summary())}
        for edit in recipe.edits
    ]
    print_table(False, edits, plural(len(edits), "edit"), narrow=True)


def _options(summary: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in summary.items() if name != "model")
