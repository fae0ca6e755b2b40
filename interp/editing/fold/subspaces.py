"""Subspaces of several edits: joined into one, or kept clear of what has to stay.

Projecting off two directions one after the other brings some of the first back unless they are orthogonal:
P2 P1 x has -(r1·r2)(r2·x) + … along r1. `joint` makes one projection of them, off the span of both.

`preserving` takes a protected subspace (what refusals of dangerous requests are read from, say) out of a direction, so
that the edit leaves every vector of that subspace as it is. The angle says how much of the direction is left: at 0
degrees it was clear of the subspace anyway, near 90 little of what it was fitted for remains.

What it does not know: whether behaviour hangs on the protected subspace alone. The audit measures that.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import acos, degrees

import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.linalg import orthonormal_rows, project_out
from interp.directions.direction import Direction
from interp.interventions.ops import Project
from interp.interventions.recipe import Edit, Recipe

_LEFT = 1e-3  # of a unit row: what is shorter after the protected part is gone has no direction of its own


@dataclass(frozen=True)
class Preserved:
    """A direction clear of a protected subspace.

    `angle` is the largest, in degrees, between the directions before and after; `overlap` the largest cosine between
    the direction and the protected subspace.
    """

    direction: Direction
    angle: float
    overlap: float


def preserving(direction: Direction, protected: Direction) -> Preserved:
    """The direction without its part in the span of the protected rows. Raises where nothing of a row would be left."""
    if direction.model.d_model != protected.model.d_model:
        raise InterpError(
            f"the direction has width {direction.model.d_model}, the protected one {protected.model.d_model}; expected "
            "two of one model"
        )
    rows, kept = direction.rows.double(), protected.rows.double()
    clear = project_out(rows, kept)
    left = torch.linalg.svdvals(clear)
    if float(left[-1]) < _LEFT:
        raise InterpError(
            f"{direction} lies in the protected subspace ({protected}), so an edit that preserves it removes nothing; "
            "fit the direction on other contrasts, or protect fewer rows"
        )
    basis = orthonormal_rows(clear).double()
    angle = degrees(acos(min(1.0, float(torch.linalg.svdvals(rows @ basis.T)[-1]))))
    made = replace(direction, rows=basis.float(), method=f"{direction.method}, clear of {protected.method}")
    return Preserved(made, angle, float(torch.linalg.svdvals(rows @ kept.T)[0]))


def clear_of(recipe: Recipe, protected: Direction) -> tuple[Recipe, list[Preserved]]:
    """The recipe with each projection `preserving` a subspace, which its note tells with the angles; and these.

    Raises for ops that are no projections, and for a subspace of another model.
    """
    found = [_preserved(edit, protected) for edit in recipe.edits]
    edits = [
        Edit(edit.sites, Project(each.direction, getattr(edit.op, "strength", 1.0)))
        for edit, each in zip(recipe.edits, found, strict=True)
    ]
    told = ", ".join(dict.fromkeys(f"{x.angle:.1f} degrees (cosine with it {x.overlap:.2f})" for x in found))
    note = f"Kept clear of {protected}, by which its directions were turned by {told}."
    return Recipe(edits, recipe.model, f"{recipe.note} {note}".strip()), found


def _preserved(edit: Edit, protected: Direction) -> Preserved:
    if not isinstance(edit.op, Project):
        raise InterpError(
            f"{type(edit.op).__name__} at {', '.join(edit.sites)} is no projection, and only of these a protected "
            "subspace is taken out; fit a direction and project it out, or protect nothing"
        )
    made_with = edit.op.model
    if made_with and made_with.digest and protected.model.digest not in ("", made_with.digest):
        raise InterpError(
            f"the recipe was made for {made_with.name}, and the protected direction is of {protected.model.name}; fit "
            "both in one model"
        )
    told = edit.op.settings()["direction"]
    if told:
        return preserving(Direction.from_json(told, edit.op.rows), protected)
    return preserving(
        replace(protected, rows=edit.op.rows, method="given rows", data="", scores={}, means=None), protected
    )


def join_subspaces(recipe: Recipe) -> Recipe:
    """The recipe with full projections that follow each other at the same sites made into one, off the span of all."""
    return Recipe(_joined(recipe), recipe.model, recipe.note)


def _joined(recipe: Recipe) -> Iterator[Edit]:
    for (sites, full), run in groupby(recipe.edits, lambda edit: (edit.sites, _rows(edit) is not None)):
        edits = list(run)
        if full and len(edits) > 1:
            stacked = torch.cat([rows for edit in edits if (rows := _rows(edit)) is not None])
            yield Edit(sites, Project(orthonormal_rows(_independent(stacked))))
        else:
            yield from edits


def _rows(edit: Edit) -> Tensor | None:
    return edit.op.rows if isinstance(edit.op, Project) and edit.op.strength == 1 else None


def _independent(rows: Tensor) -> Tensor:
    """Rows of the same span, as many as it has dimensions: the same direction may be in a recipe twice."""
    values, basis = torch.linalg.svd(rows.double(), full_matrices=False)[1:]
    return basis[values > _LEFT * values[0]].float()
