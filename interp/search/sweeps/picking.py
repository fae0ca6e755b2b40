"""A trial of a sweep as a recipe folder, and as a certified checkpoint with an audit of the confirming items."""

from pathlib import Path
from typing import Any

from interp.auditing.auditor import audit
from interp.core.errors import InterpError
from interp.core.files import read_json, require_free
from interp.editing.export.exporter import export
from interp.models.hooked import HookedModel
from interp.models.loading import load
from interp.search.sweeps.sweep import SETTINGS, Workbench
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
        InterpError: There is no such trial, it has no recipe, the front is empty, or an output exists.
    """
    record = SweepRecord.read(folder)
    for path in (out, checkpoint):
        if path is not None:
            require_free(path)
    number = record.front[0].number if trial is None and record.front else trial
    if number is None:
        raise InterpError(
            f"{folder}: no trial keeps every constraint and is complete, so there is no front; name a trial"
        )
    chosen = next((x for x in record.trials if x.number == number), None)
    if chosen is None or not chosen.recipe:
        raise InterpError(f"{folder}: trial {number} has no recipe; there are trials 0 to {len(record.trials) - 1}")
    known = read_json(Path(folder) / SETTINGS)
    work = Workbench.open(record.settings, Path(known["folder"]), Path(folder), model)
    recipe = work.build(chosen.recipe)
    recipe.save(out)
    result: dict[str, Any] = {"trial": number, "recipe": recipe.digest}
    if checkpoint is None:
        return result
    prompts = [work.model.render(text) for text in next(iter(work.measures.confirm.values())).prompts[:_PROBES]]
    certificate = export(recipe, work.model, checkpoint, prompts=prompts)
    edited = load(checkpoint, dtype=record.settings.dtype, device=record.settings.device)
    behaviours = list(work.measures.confirm.values())
    measured = audit(work.model, edited, behaviours, recipe=recipe, seed=record.settings.seed, cache=work.cache)
    measured.save(Path(out) / "audit.json")
    changes = {row.name: str(row.difference) for row in measured.rows}
    return result | {"status": certificate.status, "kl": certificate.kl, "leak": certificate.leak} | changes
