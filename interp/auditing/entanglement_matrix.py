"""Entanglement: every edit by every behaviour, so that what an edit takes along with its target is seen at a glance.

A cell is the paired difference from the unedited model, with its interval, and a p-value corrected over the whole
matrix (Holm 1979). The audits' baselines stand beside the edits as columns of their own: what a random edit does to a
behaviour is not the edit's insight.

What it does not know: how behaviours hang together in the model. An edit that lowers two harms may have found one
cause, or two.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from interp.auditing.auditor import Audit, audit
from interp.auditing.baselines import BASELINES
from interp.auditing.behaviours import Behaviour, Kind, Unit
from interp.auditing.conditions import ScoreCache
from interp.auditing.statistics.comparison import Estimate, holm
from interp.core.display import html_table
from interp.core.errors import InterpError
from interp.core.files import sha256_json, write_json
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel

_FULL: dict[Unit, float] = {"rate": 0.5, "margin": 1.0, "nats": 0.25}  # a difference that gets the full colour


@dataclass(frozen=True)
class EditEffect:
    """What one edit, or baseline, does to one behaviour."""

    difference: Estimate
    p: float
    p_holm: float
    kind: Kind
    unit: Unit

    @property
    def shade(self) -> float:
        """From -1 (much worse) to 1 (much better): a rate moved by a half, a margin by 1 nat, a loss by a quarter."""
        good = -1 if self.kind == "harm" or self.unit == "nats" else 1
        return max(-1.0, min(1.0, good * self.difference.estimate / _FULL[self.unit]))

    def __str__(self) -> str:
        return f"{self.difference.estimate:+.3f}{'*' if self.p_holm < 0.05 else ''}"


@dataclass(frozen=True)
class Entanglement:
    """Columns of cells by edit and behaviour. A star marks p < .05, corrected over all cells."""

    columns: dict[str, dict[str, EditEffect]]

    @classmethod
    def of(cls, audits: Mapping[str, Audit]) -> "Entanglement":
        """From audits of one model on one suite, by the names of the edits.

        Raises where they differ in either, and for an edit that has a baseline's name.
        """
        if not audits:
            raise InterpError("an entanglement matrix needs at least one audit")
        require_names(audits)
        first = next(iter(audits.values()))
        for name, one in audits.items():
            if (one.suite, _model(one)) != (first.suite, _model(first)):
                what = "behaviours" if one.suite != first.suite else "unedited models"
                raise InterpError(f"audit {name!r} has other {what} than the first; audit all edits alike")
        found = {
            column: {
                row.name: EditEffect(*cells[row.name], 1.0, row.kind, row.unit)
                for row in first.rows
                if row.name in cells
            }
            for column, cells in _columns(audits)
        }
        corrected = iter(holm([cell.p for cells in found.values() for cell in cells.values()]))
        return cls(
            {
                column: {name: replace(cell, p_holm=next(corrected)) for name, cell in cells.items()}
                for column, cells in found.items()
            }
        )

    @property
    def behaviours(self) -> list[str]:
        """Their names, harms first."""
        cells = next(iter(self.columns.values()))
        kinds = ("harm", "protected", "capability")
        return sorted(cells, key=lambda name: kinds.index(cells[name].kind))

    def rows(self) -> list[dict[str, str]]:
        """A row a behaviour, a column an edit."""
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

    def _repr_html_(self) -> str:
        rows = self.rows()
        return html_table("Entanglement", list(rows[0]), [list(row.values()) for row in rows])


def entanglement(
    model: HookedModel,
    recipes: Mapping[str, Recipe],
    behaviours: Sequence[Behaviour],
    seed: int = 0,
    *,
    baselines: Iterable[str] = ("prompt",),
    instruction: str | None = None,
    cache: ScoreCache | str | Path | None = None,
) -> tuple[Entanglement, dict[str, Audit]]:
    """Audit several recipes on one model; the matrix, and each audit. The unedited model is measured once."""
    require_names(recipes)
    kept, names = cache if isinstance(cache, ScoreCache) else ScoreCache(cache), tuple(baselines)
    audits = {
        name: audit(model, recipe, behaviours, seed=seed, baselines=names, instruction=instruction, cache=kept)
        for name, recipe in recipes.items()
    }
    return Entanglement.of(audits), audits


def _model(audit: Audit) -> tuple[str, str]:
    return audit.before.digest, audit.before.settings


def require_names(edits: Iterable[str]) -> None:
    """Raise for an edit with the name of a baseline's column, which would take its place."""
    for name in edits:
        if name.partition(" for ")[0] in BASELINES:
            raise InterpError(
                f"an edit is named {name!r}, as a baseline's column is; give it (its folder) another name"
            )


_Found = dict[str, tuple[Estimate, float]]


def _columns(audits: Mapping[str, Audit]) -> Iterator[tuple[str, _Found]]:
    """Edits first; then baselines, an instruction once, random ones for each edit."""
    for name, one in audits.items():
        yield name, {row.name: (row.difference, row.p) for row in one.rows}
    told = set()
    for name, one in audits.items():
        for baseline in one.baselines:
            if baseline.name == "prompt" and one.instruction in told:
                continue
            told |= {one.instruction} if baseline.name == "prompt" else set()
            of = baseline.name if baseline.name == "prompt" or len(audits) == 1 else f"{baseline.name} for {name}"
            yield of, {b: (change, baseline.p[b]) for b, change in baseline.changes.items()}
