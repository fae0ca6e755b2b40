"""Recipes as plain data: directions by name, and edits that name an op, its sites and its options.

    directions:
      toxic: {contrast: pairs.jsonl, method: diff_means_orthogonal, site: resid_post.12}
    edits:
      - {op: Project, sites: writers, layers: 8-20, direction: toxic, strength: 0.5}

docs/howto/recipe_file.md lists ops and options. The same data is what a trial of a sweep records.
"""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from interp.core.config import Config, InnerProblem
from interp.core.errors import InterpError, located, nearest
from interp.directions.direction import Direction
from interp.directions.methods.erasure import Eraser
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.search.direction_source import Autoencoders, DirectionSource
from interp.search.edit_data import EditData, EditParts
from interp.search.strengths import Number

NamedDirections = Mapping[str, Direction | Eraser]


class RecipeFile(Config):
    """A recipe as a YAML file holds it.

    `RecipeFile.read(path, overrides)` reads a file and applies `key=value` changes; `parse` takes plain values, and
    `model_dump(exclude_unset=True)` gives them back.

    Example:
        >>> recipe = interp.search.RecipeFile.parse({
        ...     "directions": {"rude": {"contrast": "organism.hostility", "site": "resid_post.3", "pairs": 16}},
        ...     "edits": [{"op": "Project", "sites": "writers", "direction": "rude", "strength": 0.5}],
        ... })
        >>> recipe.build(model).edits[0].op.scale
        0.5
    """

    model: str | None = Field(None, description="the model that it is for: organism, a folder or a hub id")
    note: str = Field("", description="what the recipe is for")
    directions: dict[str, DirectionSource] = Field({}, description="directions by name, each fitted or read once")
    edits: tuple[EditData, ...] = Field(strict=False, description="the edits, in order")
    strength: Number = Field(1.0, description="factor of what all the edits do: 1 as they are, 0 nothing")

    @model_validator(mode="after")
    def _known_directions(self) -> "RecipeFile":
        if not self.edits:
            raise InterpError("a recipe needs at least one edit; edits is empty")
        for number, edit in enumerate(self.edits):
            for name in edit.needs:
                if name not in self.directions:
                    hint = nearest(name, self.directions) if self.directions else "directions is empty"
                    raise InnerProblem(("edits", number), f"unknown direction {name!r}; {hint}")
        return self

    def fit(
        self,
        model: HookedModel,
        folder: str | Path = ".",
        known: NamedDirections | None = None,
        autoencoders: Autoencoders | None = None,
    ) -> dict[str, Direction | Eraser]:
        """Fit or read every direction.

        Args:
            model: The model.
            folder: Folder that the paths in the file are relative to.
            known: Directions that are fitted already, by name, which stay as they are.
            autoencoders: Those that are read already.

        Raises:
            InterpError: A direction cannot be fitted or read; the error names it.
        """
        fitted = dict(known or {})
        for name, source in self.directions.items():
            with located(f"direction {name!r}"):
                fitted[name] = fitted[name] if name in fitted else source.fit(model, folder, autoencoders)
        return fitted

    def build(
        self,
        model: HookedModel,
        directions: NamedDirections | None = None,
        folder: str | Path = ".",
        autoencoders: Autoencoders | None = None,
    ) -> Recipe:
        """The recipe for a model.

        Args:
            model: The model.
            directions: Directions that are fitted already, by name, so that several recipes fit each once. Those that
                are not among them are fitted or read.
            folder: Folder that the paths in the file are relative to.
            autoencoders: Those that are read already. Each of the others is read once.

        Returns:
            The recipe, with one edit or several for each of the file's, for this model.

        Raises:
            InterpError: A direction cannot be fitted or read, or an edit does not fit the model; the error names it.
        """
        known = Autoencoders(model, folder) if autoencoders is None else autoencoders
        parts = EditParts(self.fit(model, folder, directions, known), self.directions, known)
        edits = []
        for number, edit in enumerate(self.edits):
            with located(f"edits.{number} ({edit.op})"):
                edits += edit.build(parts)
        recipe = Recipe(edits, model.reference, self.note).scaled(self.strength)
        recipe.bind(model)  # raises where an op cannot act at its sites
        return recipe
