"""Method comparison: edits, tuned models and an instruction by their effects on the same items, with their cost.

Each is audited against the unedited model on one suite; the effects are an entanglement matrix, whose p-values are
corrected over all of them (`interp.auditing.entanglement_matrix`). Doing nothing and an instruction in the prompt are
columns of their own. The cost is the seconds that it took to make each: of a tuned model, those in its folder.

Limitations: the seconds are of the machines that they were measured on. Whether the items are held out of what edits
were fitted on, and models trained on, is for who calls it to see to.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from interp.auditing.auditor import Audit, audit
from interp.auditing.behaviours import Behaviour
from interp.auditing.conditions import ScoreCache
from interp.auditing.entanglement_matrix import Entanglement, require_names
from interp.auditing.statistics.comparison import Estimate
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError
from interp.core.files import new_folder, require_free, write_json
from interp.core.progress import track
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load
from interp.upkeep._records import read_record
from interp.upkeep.tuning.tuned_checkpoint import RECORD as TUNED
from interp.upkeep.tuning.tuned_checkpoint import TuningRecord, tuning_seconds

RECORD, NOTHING, PROMPT = "comparison.json", "nothing", "prompt"
Edit = Recipe | HookedModel | str | Path


@dataclass(frozen=True)
class MethodComparison(Displayed):
    """What each way to change a model does to its behaviours, and what it costs.

    Attributes:
        before: The behaviours of the unedited model.
        matrix: The effects by column and behaviour.
        seconds: What it took to make each; None where that is not known.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.upkeep import compare_methods
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> list(compare_methods(model, {"edit": recipe}, [loss], tmp / "compared").matrix.columns)
        ['nothing', 'edit', 'prompt']
    """

    before: Mapping[str, Estimate]
    matrix: Entanglement
    seconds: Mapping[str, float | None]

    @classmethod
    def read(cls, folder: str | Path) -> "MethodComparison":
        """Read the record of a folder that `compare_methods` wrote. Raises where there is none, or a damaged one."""
        return read_record(cls, Path(folder) / RECORD, "a comparison")

    def rows(self) -> list[dict[str, str]]:
        """A row for each behaviour with its score and each difference from it, and one for the seconds."""
        scores = {name: f"{estimate.estimate:.3f}" for name, estimate in self.before.items()}
        rows = [row | {NOTHING: scores[row["behaviour"]]} for row in self.matrix.rows()]
        costs = {name: "" if cost is None else f"{cost:.0f} s" for name, cost in self.seconds.items()}
        return [*rows, {"behaviour": "made in", "kind": "", **{name: costs[name] for name in self.matrix.columns}}]

    def _card(self) -> Card:
        return "", [("compared", list(self.matrix.columns)), ("behaviours", list(self.before))]


def compare_methods(
    model: HookedModel,
    edits: Mapping[str, Edit],
    behaviours: Sequence[Behaviour],
    out: str | Path,
    seconds: Mapping[str, float] | None = None,
    seed: int = 0,
    *,
    instruction: str | None = None,
    cache: ScoreCache | str | Path | None = None,
) -> MethodComparison:
    """Audit several ways to change a model on the same items, next to nothing and an instruction.

    Args:
        model: The unedited model.
        edits: By name: a recipe, which runs with hooks; an edited or tuned model; or the folder of either, which is
            opened when its turn comes.
        behaviours: What is measured, on items that nothing was fitted on.
        out: New folder: `comparison.json`, and an audit for each edit.
        seconds: What it took to make edits, where their folders do not say.
        seed: Seed of the intervals.
        instruction: Text of the prompt. Default: asks for the audited harms to stop.
        cache: A folder (or `ScoreCache`) of scores that are not measured again.

    Raises:
        InterpError: There are no edits, a name is that of another column, a folder holds neither, a model was tuned
            from another one, or what `interp.audit` raises.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.upkeep import compare_methods
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> compare_methods(model, {"edit": recipe}, [loss], tmp / "compared", {"edit": 2.0}).rows()[-1]
        {'behaviour': 'made in', 'kind': '', 'nothing': '0 s', 'edit': '2 s', 'prompt': '0 s'}
    """
    require_free(out)
    require_names(edits)
    if not edits or NOTHING in edits:
        raise InterpError(f"edits are {', '.join(edits) or 'none'}; expected at least one, and {NOTHING!r} for none")
    costs: dict[str, float | None] = {NOTHING: 0.0, **dict.fromkeys(edits), PROMPT: 0.0}
    for name, edit in edits.items():  # before anything is measured
        costs[name] = (seconds or {}).get(name, _seconds(edit, model))
    if unknown := set(seconds or {}) - set(edits):
        raise InterpError(f"seconds are of {unknown.pop()!r}, which is not compared; known: {', '.join(edits)}")
    scores = cache if isinstance(cache, ScoreCache) else ScoreCache(cache)
    audits: dict[str, Audit] = {NOTHING: audit(model, None, behaviours, seed=seed, baselines=(), cache=scores)}
    for name, edit in track(edits.items(), "compare", unit="edits"):
        settings: dict[str, Any] = {"seed": seed, "instruction": instruction, "cache": scores}
        audits[name] = audit(model, _opened(edit, model), behaviours, baselines=(PROMPT,), **settings)
    matrix = Entanglement.of(audits)
    before = {row.name: row.before for row in audits[NOTHING].rows}
    comparison = MethodComparison(before, matrix, costs)
    with new_folder(out) as staging:
        for name, record in audits.items():
            record.save(staging / f"{name}.json")
        write_json(staging / RECORD, json.loads(json.dumps(asdict(comparison))))
    return comparison


def _seconds(edit: Edit, model: HookedModel) -> float | None:
    """What a tuned model's folder says; raises for a folder of neither kind, and for a model tuned from another."""
    if not isinstance(edit, str | Path):
        return None
    if (Path(edit) / TUNED).is_file():
        TuningRecord.read(edit).base.check(model.reference, f"{edit}")
        return tuning_seconds(edit)
    if not any((Path(edit) / name).is_file() for name in ("recipe.json", "config.json")):
        raise InterpError(f"{edit} holds neither a recipe nor a model; expected the folder of one")
    return None


def _opened(edit: Edit, model: HookedModel) -> Recipe | HookedModel:
    if not isinstance(edit, str | Path):
        return edit
    if (Path(edit) / "recipe.json").is_file():
        return Recipe.load(edit)
    return load(str(edit), dtype=model.dtype, device=model.device)
