"""Directions of a sweep, each fitted once; the activations of pairs are captured once, at every site of the space."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from interp.core.errors import located
from interp.core.files import read_tensors, sha256_json, write_tensors
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import Sides, capture_sides
from interp.directions.contrast_source import read_contrast
from interp.directions.direction import Direction
from interp.directions.fitting import FitInput, fit_method
from interp.directions.methods.erasure import Eraser
from interp.models.hooked import HookedModel
from interp.models.loading import ORGANISM
from interp.models.sites import Site
from interp.search.direction_source import DirectionSource
from interp.search.recipe_file import RecipeFile

_FOLDERS, _CHOICES = ("folder", "sae", "lens", "texts"), ("choice", "maybe")
_PAIRS = ("contrast", "columns", "skip_bad", "pairs", "seed")


class Fits:
    """Fitted directions by their description.

    Args:
        model: The model.
        space: The recipe of the sweep, with the values that are left to choose.
        folder: Folder that paths are relative to.
        kept: Folder that keeps activations of pairs.
    """

    def __init__(self, model: HookedModel, space: Mapping[str, Any], folder: Path, kept: Path):
        self.model, self.folder, self.kept = model, folder, kept
        directions = space.get("directions", {})
        named = {name for part in getattr(directions, "values", list)() for name in _sites(part)}
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
            return source.fit(self.model, self.folder)
        contrast, captured = self._capture(source)
        sides = Sides(captured[f"{source.site} positive"], captured[f"{source.site} negative"])
        place = Site.parse(source.site), source.position
        given = FitInput(source.method, self.model, contrast, *place, sides, rank=source.rank, seed=source.seed)
        fitted = fit_method(given)
        return fitted.eraser or fitted.direction

    def _capture(self, source: DirectionSource) -> tuple[Contrast, dict[str, Any]]:
        """The pairs of a source, and both sides' activations at every site."""
        key = sha256_json([source.model_dump(include={*_PAIRS, "position"}), self._sites, self.model.digest])
        if key not in self._captured:
            options: dict[str, Any] = source.model_dump(include={*_PAIRS[1:]})
            file = str(source.contrast)
            contrast = read_contrast(file if file.partition(".")[0] == ORGANISM else self.folder / file, **options)
            saved = self.kept / f"{sha256_json([key, contrast.digest])}.safetensors"
            if not saved.is_file():
                cells = capture_sides(self.model, contrast, self.model.resolve(self._sites), [source.position])
                sides = {site: pair._asdict().items() for (site, _), pair in cells.items()}
                write_tensors(saved, {f"{site} {side}": x.contiguous() for site in sides for side, x in sides[site]})
            self._captured[key] = contrast, read_tensors(saved)
        return self._captured[key]


def files_of(part: Any, folder: Path, key: str = "") -> set[str]:
    """The files that a part of a space names, relative to a folder, and those of the folders that it names."""
    if isinstance(part, Mapping):
        return set().union(
            *(files_of(value, folder, key if name in _CHOICES else name) for name, value in part.items())
        )
    if isinstance(part, list):
        return set().union(*(files_of(value, folder, key) for value in part))
    if not isinstance(part, str) or not 0 < len(part) < 300:
        return set()
    if key in _FOLDERS and (folder / part).is_dir():
        return {f"{part}/{file.name}" for file in (folder / part).iterdir() if file.is_file()}
    return {part} if (folder / part).is_file() else set()


def _sites(part: Any, key: str = "") -> Iterator[str]:
    """Every site that a part of a space may have under the key `site`."""
    if isinstance(part, Mapping) and key == "site" and "text" in part:
        if isinstance(part["low"], int) and isinstance(part["high"], int):
            yield from (str(part["text"]).replace("{}", str(number)) for number in range(part["low"], part["high"] + 1))
    elif isinstance(part, Mapping):
        for name, value in part.items():
            yield from _sites(value, key if name in ("choice", "maybe") or key == "site" else name)
    elif isinstance(part, list):
        for value in part:
            yield from _sites(value, key)
    elif key == "site" and isinstance(part, str):
        yield part
