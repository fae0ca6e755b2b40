"""The verbs `interp recipe build` and `recipe show`: recipes from YAML, without Python, and what a saved one does."""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any

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
        rows: list[dict[str, Any]] = [
            {"sites": e.sites, "op": type(e.op).__name__, "settings": e.op.settings()} for e in recipe.edits
        ]
        for row, edit in zip(rows, recipe.edits, strict=True):
            row["named"] = [label.model_dump() for label in edit.named]
        print_values(True, {"model": model, "note": recipe.note, "digest": recipe.digest, "edits": rows})
        return
    print_values(False, {"model": model or "any", "note": recipe.note, "digest": recipe.digest})
    edits = [dict(zip(("op", "sites", "options"), _words(edit), strict=True)) for edit in recipe.edits]
    print_table(False, edits, plural(len(edits), "edit"), narrow=True)


def _words(edit: Any) -> tuple[str, str, str]:
    """The op that acts, its sites, and its options, with those of each op that holds it."""
    noun = {"z": "head", "mlp_post": "neuron"}.get(edit.sites[0].partition(".")[0], "coordinate")
    op, holders = edit.op, list[str]()
    while hasattr(op, "op"):
        holders.insert(0, f"; {type(op).__name__}: {_fields(op, noun)}")
        op = op.op
    labels = (f"; book:{label.label}: {brief(label.latents)}" for label in edit.named)
    return type(op).__name__, brief(edit.sites), "".join([_fields(op, noun), *holders, *labels])


def _fields(record: Any, noun: str) -> str:
    """The fields of an op in words, without its model, the op that it holds, and what is not set."""
    values = [(each.name, getattr(record, each.name)) for each in fields(record) if each.name not in ("op", "model")]
    return ", ".join(_field(name, x, noun) for name, x in values if x is not None and x is not False and x != [])


def _field(name: str, value: Any, noun: str) -> str:
    import torch

    from interp.directions.direction import Direction

    if isinstance(value, Direction):
        return f"{value}, rank {len(value.rows)}"
    if name == "factors":  # of a Scale
        units = (value != 1).nonzero().flatten().tolist()
        factors = ", ".join(f"{factor:.4g}" for factor in sorted({*value[units].tolist()}))
        return f"{_numbered(units, noun)} (of {len(value):,}), factor {factors}"
    if isinstance(value, torch.Tensor):
        norms = value.norm(dim=-1).flatten()
        low, high = f"{norms.min():.3g}", f"{norms.max():.3g}"
        rank = f" rank {len(value)}," if value.ndim == 2 else ""
        return f"{name}{rank} norm {low if low == high else f'{low} to {high}'}"
    if name in ("units", "heads", "latents"):
        return _numbered(value, "latent" if name == "latents" else noun)
    if is_dataclass(value) and hasattr(value, "settings"):
        return f"{name} {_fields(value, noun)}"
    if name == "names":  # of positions
        return brief(value)
    return f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {brief(value)}"


def _numbered(units: Sequence[int], noun: str) -> str:
    return f"{plural(len(units), noun)}: {brief(sorted(units))}"
