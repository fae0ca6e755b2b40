"""Entanglement: every edit by every behaviour, which shows what else an edit changes along with its target.

Each entry is the paired difference from the unedited model with its interval, and a p-value that is corrected over the
whole matrix (Holm 1979). The baselines of the audits are columns of their own: what a random edit also does to a
behaviour is not evidence for the edit.

Limitations: the matrix does not show how behaviours depend on each other in the model. An edit that lowers two harms
may have removed one cause, or two.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, product
from pathlib import Path
from typing import Any

from interp.auditing.auditor import Audit, audit, audited_conditions
from interp.auditing.baselines import BASELINES
from interp.auditing.behaviours import Behaviour, Kind, Unit
from interp.auditing.conditions import ScoreCache
from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.significance import holm
from interp.core.display import Card, Displayed, displayed, html_table
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import sha256_json, write_json
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

_FULL: dict[Unit, float] = {"rate": 0.5, "margin": 1.0, "nats": 0.25}  # the difference with full colour


@dataclass(frozen=True)
class EditEffect(Displayed):
    """The effect of one edit, or baseline, on one behaviour."""

    difference: Estimate
    p: float
    p_holm: float
    kind: Kind
    unit: Unit

    @property
    def shade(self) -> float:
        """From -1 (worse) to 1 (better), reached when a rate moves by 0.5, a margin by 1 nat, a loss by 0.25 nats."""
        good = -1 if self.kind == "harm" or self.unit == "nats" else 1
        return max(-1.0, min(1.0, good * self.difference.estimate / _FULL[self.unit]))

    def __str__(self) -> str:
        return f"{self.difference.estimate:+.3f}{'*' if self.p_holm < 0.05 else ''}"


@dataclass(frozen=True)
class Entanglement(Displayed):
    """Effects by edit (columns) and behaviour (rows). A star marks p < 0.05, corrected over all effects.

    Attributes:
        columns: The effect by edit or baseline, then by behaviour.

    Example:
        >>> from interp.auditing import Entanglement, text_loss
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> matrix = Entanglement.of({"nothing": interp.audit(model, None, [loss])})
        >>> matrix.rows()
        [{'behaviour': 'loss', 'kind': 'capability', 'nothing': '+0.000'}]
    """

    columns: dict[str, dict[str, EditEffect]]

    @classmethod
    def of(cls, audits: Mapping[str, Audit]) -> "Entanglement":
        """From audits of one model on one suite, by the names of the edits.

        Raises:
            InterpError: The audits differ in model or suite, or an edit has the name of a baseline.
        """
        if not audits:
            raise InterpError("an entanglement matrix needs at least one audit")
        require_names(audits)
        first = next(iter(audits.values()))
        for name, audited in audits.items():
            if (audited.suite, _model(audited)) != (first.suite, _model(first)):
                what = "behaviours" if audited.suite != first.suite else "unedited models"
                raise InterpError(f"audit {name!r} has other {what} than the first; audit all edits on the same ones")
        columns = _columns(audits)
        corrected = iter(holm([p for effects in columns.values() for _, p in effects.values()]))
        kinds = {row.name: (row.kind, row.unit) for row in first.rows}
        return cls(
            {
                column: {name: EditEffect(*effect, next(corrected), *kinds[name]) for name, effect in effects.items()}
                for column, effects in columns.items()
            }
        )

    @property
    def behaviours(self) -> list[str]:
        """The names of the behaviours, harms first."""
        cells = next(iter(self.columns.values()))
        kinds = ("harm", "protected", "capability")
        return sorted(cells, key=lambda name: kinds.index(cells[name].kind))

    def rows(self) -> list[dict[str, str]]:
        """One row per behaviour, one column per edit."""
        kinds = next(iter(self.columns.values()))
        return [
            {"behaviour": name, "kind": kinds[name].kind} | {e: str(cells[name]) for e, cells in self.columns.items()}
            for name in self.behaviours
        ]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {edit: {name: asdict(cell) for name, cell in cells.items()} for edit, cells in self.columns.items()}

    def save(self, file: str | Path) -> None:
        """Write JSON, with the digest of its content."""
        write_json(Path(file), {"columns": self.to_json(), "sha256": sha256_json(self.to_json())})

    def _card(self) -> Card:
        return "", [("edits and baselines", list(self.columns)), ("behaviours", self.behaviours)]

    def _repr_html_(self) -> str:
        rows = self.rows()
        title = "Entanglement: differences from the unedited model, * p < 0.05 (Holm, over the table)"
        return html_table(title, list(rows[0]), [list(row.values()) for row in rows])


def entanglement(
    model: HookedModel,
    recipes: Mapping[str, Recipe],
    behaviours: Sequence[Behaviour],
    seed: int = 0,
    *,
    baselines: Iterable[str] = ("prompt",),
    instruction: str | None = None,
    cache: ScoreCache | str | Path | None = None,
    workers: int | str = 1,
) -> tuple[Entanglement, dict[str, Audit]]:
    """Audit several recipes on one model, whose unedited scores are measured once.

    Args:
        model: The unedited model.
        recipes: The edits by name; `random` and `prompt` are reserved for baselines.
        behaviours: What to measure.
        seed: Seed of the intervals and of random baselines.
        baselines: Names among `random` and `prompt`.
        instruction: Text of the prompt-only baseline. Default: asks for the audited harms to stop.
        cache: A folder (or `ScoreCache`) of scores that are not measured again.
        workers: Processes that measure side by side, or the address of a Ray cluster.

    Returns:
        The matrix, and the audit of each recipe by name.

    Raises:
        InterpError: A recipe has the name of a baseline; further as `audit`.

    Example:
        >>> recipes = {"ones": interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])}
        >>> loss = interp.auditing.text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> matrix, audits = interp.entanglement(model, recipes, [loss], baselines=())
        >>> list(matrix.columns), list(audits)
        (['ones'], ['ones'])
    """
    require_names(recipes)
    kept, names = cache if isinstance(cache, ScoreCache) else ScoreCache(cache), tuple(baselines)
    arms = [audited_conditions(model, x, x, behaviours, names, instruction, seed) for x in recipes.values()]
    with on_interrupt(kept.remedy):
        kept.fill(list(product(chain(*(chain(*each.values()) for each in arms)), behaviours)), workers)
    audits = {
        name: audit(model, recipe, behaviours, seed=seed, baselines=names, instruction=instruction, cache=kept)
        for name, recipe in recipes.items()
    }
    return displayed((Entanglement.of(audits), audits))


def _model(audit: Audit) -> tuple[str, str]:
    return audit.before.digest, audit.before.settings


def require_names(edits: Iterable[str]) -> None:
    """Raise for an edit with the name of a baseline's column, which it would replace."""
    for name in edits:
        if name.partition(" for ")[0] in BASELINES:
            raise InterpError(f"an edit is named {name!r}, like the column of a baseline; rename it (or its folder)")


def _columns(audits: Mapping[str, Audit]) -> dict[str, dict[str, tuple[Estimate, float]]]:
    """Differences and p-values: edits, then baselines. Edits with the same instruction share its column."""
    columns = {name: {row.name: (row.difference, row.p) for row in audited.rows} for name, audited in audits.items()}
    same = len({audited.instruction for audited in audits.values()} - {""}) < 2
    for name, audited in audits.items():
        for baseline in audited.baselines:
            shared = len(audits) == 1 or (same and baseline.name == "prompt")
            column = baseline.name if shared else f"{baseline.name} for {name}"
            columns.setdefault(column, {b: (change, baseline.p[b]) for b, change in baseline.changes.items()})
    return columns
