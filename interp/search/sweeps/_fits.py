"""Directions of a sweep, each fitted once; the activations of pairs are captured once, at every site of the space."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.core.errors import located
from interp.core.files import read_tensors, sha256_json, write_tensors
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import Sides, capture_sides
from interp.directions.direction import Direction
from interp.directions.fitting import FitInput, fit_method
from interp.directions.methods.erasure import Eraser
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.search.direction_source import Autoencoders, DirectionSource
from interp.search.recipe_file import RecipeFile

_FOLDERS, _CHOICES = ("folder", "sae", "book", "lens", "texts"), ("choice", "maybe")
_PAIRS = ("contrast", "columns", "skip_bad", "pairs", "seed", "position")


class Fits:
    """Fitted directions by their description, and the autoencoders of a sweep, each read once.

    Args:
        model: The model.
        space: The recipe of the sweep, with the values that are left to choose.
        folder: Folder that paths are relative to.
        kept: Folder that keeps activations of pairs.
    """

    def __init__(self, model: HookedModel, space: Mapping[str, Any], folder: Path, kept: Path):
        self.model, self.folder, self.kept = model, folder, kept
        self.autoencoders = Autoencoders(model, folder)
        named = {text for key, text in _texts(space.get("directions")) if key == "site"}
        self._sites = sorted(str(site) for site in model.sites if str(site) in named)
        self._fitted: dict[str, Direction | Eraser] = {}
        self._captured: dict[str, tuple[Contrast, dict[str, Any]]] = {}

    def of(self, recipe: RecipeFile) -> dict[str, Direction | Eraser]:
        """The directions of a recipe, by name."""
        directions = {}
        for name, source in recipe.directions.items():
            key = sha256_json(source.model_dump(mode="json"))
            if key not in self._fitted:
                with located(f"direction {name!r}"):
                    self._fitted[key] = self._fit(source)
            directions[name] = self._fitted[key]
        return directions

    def _fit(self, source: DirectionSource) -> Direction | Eraser:
        if source.contrast is None or source.sae is not None or source.site not in self._sites:
            return source.fit(self.model, self.folder, self.autoencoders)
        contrast, captured = self._capture(source)
        sides = Sides(captured[f"{source.site} positive"], captured[f"{source.site} negative"])
        place = Site.parse(source.site), source.position
        given = FitInput(source.method, self.model, contrast, *place, sides, rank=source.rank, seed=source.seed)
        fitted = fit_method(given)
        return fitted.eraser or fitted.direction

    def _capture(self, source: DirectionSource) -> tuple[Contrast, dict[str, Any]]:
        """The pairs of a source, and both sides' activations at every site."""
        key = sha256_json([source.model_dump(include={*_PAIRS}), self._sites, self.model.digest])
        if key not in self._captured:
            contrast = source.read_pairs(self.folder)
            saved = self.kept / f"{sha256_json([key, contrast.digest])}.safetensors"
            if not saved.is_file():
                cells = capture_sides(self.model, contrast, self.model.resolve(self._sites), [source.position])
                sides = {site: pair._asdict().items() for (site, _), pair in cells.items()}
                write_tensors(saved, {f"{site} {side}": x.contiguous() for site in sides for side, x in sides[site]})
            self._captured[key] = contrast, read_tensors(saved)
        return self._captured[key]


def files_of(part: Any, folder: Path) -> set[str]:
    """The files that a part of a space names, relative to a folder, and those of the folders that it names."""
    files = set[str]()
    for key, text in _texts(part):
        if 0 < len(text) < 300:
            if key in _FOLDERS and (folder / text).is_dir():
                files |= {f"{text}/{file.name}" for file in (folder / text).iterdir() if file.is_file()}
            elif (folder / text).is_file():
                files.add(text)
    return files


def _texts(part: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text that a recipe of a space may have, and the key that it has it under."""
    if isinstance(part, Mapping) and "text" in part:
        if isinstance(part.get("low"), int) and isinstance(part.get("high"), int):
            for number in range(part["low"], part["high"] + 1):
                yield key, str(part["text"]).replace("{}", str(number))
    elif isinstance(part, Mapping):
        for name, value in part.items():
            if name == "choice" and isinstance(value, Mapping):  # whose keys are names of the choices
                value = list(value.values())
            yield from _texts(value, key if name in _CHOICES else name)
    elif isinstance(part, list):
        for value in part:
            yield from _texts(value, key)
    elif isinstance(part, str):
        yield key, part
