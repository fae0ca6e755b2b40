"""A trial of a sweep as a recipe folder, and as a certified checkpoint with an audit of the confirming items.

`recipe_at` reads the recipe of whatever may stand for one: a saved folder, a recipe file, a sweep or its file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from interp.auditing.auditor import audit
from interp.core.config import plain_value
from interp.core.errors import InterpError
from interp.core.files import require_free
from interp.core.inputs import bounded_text
from interp.editing.export.exporter import export
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load
from interp.search.recipe_file import RecipeFile
from interp.search.sweeps.sweep import Workbench, require_same, run_sweep
from interp.search.sweeps.sweep_file import SETTINGS, SweepFile, read_settings
from interp.search.sweeps.sweep_record import SweepRecord

_PROBES = 16  # benign prompts on which the export is compared with the hooked model


def pick(
    folder: str | Path,
    out: str | Path,
    trial: int | None = None,
    checkpoint: str | Path | None = None,
    model: HookedModel | None = None,
) -> dict[str, Any]:
    """Write the recipe of a trial into a folder.

    Args:
        folder: Folder of the sweep.
        out: New folder for the recipe.
        trial: Number of the trial. Default: the knee of the front.
        checkpoint: New folder for the edited checkpoint with its certificate. Its audit on the confirming items is the
            file audit.json beside the recipe.
        model: The unedited model, if it is loaded already.

    Returns:
        The trial's number, the recipe's digest and, of an export, its status and how far it is from the hooked model.

    Raises:
        InterpError: There is no such trial, it has no recipe, the front is empty, an output exists, or the sweep is of
            another model or of files that have changed.
    """
    for path in (out, checkpoint):
        if path is not None:
            require_free(path)
    number, recipe, work = _built(Path(folder), trial, model)
    recipe.save(out)
    result: dict[str, Any] = {"trial": number, "recipe": recipe.digest}
    if checkpoint is None:
        return result
    prompts = [work.model.render(text) for text in next(iter(work.measures.confirm.values())).prompts[:_PROBES]]
    certificate = export(recipe, work.model, checkpoint, prompts=prompts)
    edited = load(checkpoint, dtype=work.settings.dtype, device=work.settings.device)
    behaviours = list(work.measures.confirm.values())
    measured = audit(work.model, edited, behaviours, recipe=recipe, seed=work.settings.seed, cache=work.cache)
    measured.save(Path(out) / "audit.json")
    changes = {f"change of {row.name}": str(row.difference) for row in measured.rows}
    return result | {"status": certificate.status, "kl": certificate.kl, "leak": certificate.leak} | changes


def _built(folder: Path, trial: int | None, model: HookedModel | None) -> tuple[int, Recipe, Workbench]:
    """The number of a trial, by default the knee's, and its recipe, with the sweep's settings and items."""
    record = SweepRecord.read(folder)
    number = record.front[0].number if trial is None and record.front else trial
    if number is None:
        raise InterpError(f"{folder}: the front is empty, since no complete trial keeps every bound; name a trial")
    chosen = next((x for x in record.trials if x.number == number), None)
    if chosen is None or not chosen.recipe:
        raise InterpError(f"{folder}: trial {number} has no recipe; there are trials 0 to {len(record.trials) - 1}")
    work = Workbench.open(record.settings, Path(read_settings(folder)["folder"]), folder, model)
    require_same(folder, work.identity)
    return number, work.build(chosen.recipe), work


def recipe_at(
    path: str | Path,
    model: HookedModel,
    sweeps: str | Path,
    trials: int = 60,
    say: Callable[[str], None] = lambda text: None,
) -> Recipe:
    """The recipe of a saved folder or of a recipe file; of a sweep's folder, its knee; a sweep's file is run first.

    Args:
        path: The folder or file.
        model: The model.
        sweeps: Folder in which a sweep's file is run; one that is there is continued.
        trials: How many trials such a sweep has.
        say: Called with a line of text about each step of it.

    Raises:
        InterpError: The path is none of these, or the recipe is for another model.
    """
    place = Path(path)
    if (place / "recipe.json").is_file():
        recipe = Recipe.load(place)
        recipe.check(model.reference)
        return recipe
    if (place / SETTINGS).is_file():
        return _built(place, None, model)[1]
    if not place.is_file():
        raise InterpError(f"{path} is neither a recipe nor a sweep; expected the folder or the YAML file of one")
    if "measure" not in (plain_value(bounded_text(place, "YAML", "yaml"), str(place)) or {}):
        return RecipeFile.read(place).build(model, folder=place.parent)
    run_sweep(SweepFile.read(place), sweeps, trials, folder=place.parent, model=model, say=say)
    return _built(Path(sweeps), None, model)[1]
