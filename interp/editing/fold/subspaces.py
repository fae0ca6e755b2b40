"""Subspaces of several edits: joined into one, or kept clear of a protected one.

Projecting out two directions one after the other restores some of the first unless they are orthogonal: P2 P1 x has
-(r1·r2)(r2·x) + … along r1. `join_subspaces` makes one projection of them, which removes the span of both.

`preserving` takes a protected subspace (such as the one that refusals of dangerous requests are read from) out of a
direction, so that the edit does not change any vector of that subspace. The angle says how much the direction
changed: at 0 degrees it was already clear of the subspace, and near 90 little remains of what it was fitted for.

Limitations: behaviour may depend on more than the protected subspace. The audit measures that. Where a norm follows the
writers, the edit acts before it and changes its scale, so that what is protected keeps its direction only roughly.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from math import acos, degrees

import torch
from torch import Tensor

from interp.core.display import Displayed, displayed
from interp.core.errors import InterpError
from interp.core.linalg import orthonormal_rows, project_out
from interp.directions.direction import Direction
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Edit, Recipe

_LEFT = 1e-3  # of a unit row: what is shorter without its protected part has no direction left


@dataclass(frozen=True)
class Preserved(Displayed):
    """A direction that was made clear of a protected subspace.

    Attributes:
        direction: The new direction.
        angle: The largest angle between the directions before and after, in degrees.
        overlap: The largest cosine between the direction before and the protected subspace.

    Example:
        >>> from interp.editing import Preserved
        >>> site = interp.models.Site.parse("resid_post.1")
        >>> direction = interp.Direction(torch.eye(model.d_model)[:1], site, -1, "rows", model.reference, "")
        >>> Preserved(direction, angle=45.0, overlap=0.71).angle
        45.0
    """

    direction: Direction
    angle: float
    overlap: float


def preserving(direction: Direction, protected: Direction) -> Preserved:
    """The direction without its part in the span of the protected rows. Raises where nothing would be left of a row."""
    if direction.rows.shape[1] != protected.rows.shape[1]:
        names = " and ".join(each.model.name if each.model else str(each) for each in (direction, protected))
        raise InterpError(f"{names} differ in width; fit both directions in one model")
    rows, kept = direction.rows.double(), protected.rows.double()
    clear = project_out(rows, kept)
    left = torch.linalg.svdvals(clear)
    if float(left[-1]) < _LEFT:
        problem = f"{direction} lies in the protected subspace ({protected})"
        raise InterpError(f"{problem}, so nothing of it is left; fit it on other contrasts, or protect fewer rows")
    basis = orthonormal_rows(clear).double()
    angle = degrees(acos(min(1.0, float(torch.linalg.svdvals(rows @ basis.T)[-1]))))
    moved = replace(direction, rows=basis.float(), method=f"{direction.method}, clear of {protected.method}")
    return Preserved(moved, angle, float(torch.linalg.svdvals(rows @ kept.T)[0]))


def clear_of(recipe: Recipe, protected: Direction) -> tuple[Recipe, list[Preserved]]:
    """Take a protected subspace out of every projection of a recipe.

    Args:
        recipe: A recipe that only has projections.
        protected: The subspace that the edit must not change, of the same model.

    Returns:
        The new recipe, whose note gives the angles, and what became of each direction.

    Raises:
        InterpError: An op is not a projection, a direction lies in the protected subspace, or the models differ.

    Example:
        >>> from interp.editing import clear_of
        >>> rows = torch.eye(model.d_model)
        >>> site = interp.models.Site.parse("resid_post.1")
        >>> protected = interp.Direction(rows[:1], site, -1, "rows", model.reference, "")
        >>> recipe = interp.Recipe([("writers", interp.Project(rows[:1] + rows[1:2]))])
        >>> edited, (preserved,) = clear_of(recipe, protected)
        >>> round(preserved.angle), round(preserved.overlap, 2)
        (45, 0.71)
    """
    preserved, edits = list[Preserved](), list[Edit]()
    for edit in recipe.edits:
        preserved.append(_preserved(edit, protected))
        edits.append(replace(edit, op=Project(preserved[-1].direction, getattr(edit.op, "scale", 1.0))))
    angles = ", ".join(dict.fromkeys(f"{x.angle:.1f} degrees (cosine with it {x.overlap:.2f})" for x in preserved))
    note = f"Kept clear of {protected}, which turned its directions by {angles}."
    return displayed((Recipe(edits, recipe.model, f"{recipe.note} {note}".strip()), preserved))


def _preserved(edit: Edit, protected: Direction) -> Preserved:
    if not isinstance(edit.op, Project):
        op = f"{type(edit.op).__name__} at {', '.join(edit.sites)}"
        raise InterpError(f"{op} is not a projection, of which alone a protected subspace is taken out; use Project")
    made_with, other = edit.op.model, protected.model
    if made_with and made_with.fits and other and other.fits not in ("", made_with.fits):
        models = f"the recipe was made for {made_with.name}, and the protected direction is of {other.name}"
        raise InterpError(f"{models}; fit both in one model")
    if record := edit.op.settings()["direction"]:
        return preserving(Direction.from_json(record, edit.op.rows), protected)
    rows_alone = replace(protected, rows=edit.op.rows, method="given rows", data="", scores={}, means=None)
    return preserving(rows_alone, protected)


def join_subspaces(recipe: Recipe) -> Recipe:
    """Join full projections that follow each other at the same sites into one, which removes the span of all.

    Args:
        recipe: Any recipe; other ops, and partial projections, are kept as they are.

    Returns:
        The recipe with joined projections. It removes every direction completely, in whatever order they were.

    Example:
        >>> from interp.editing import join_subspaces
        >>> rows = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
        >>> recipe = interp.Recipe([("writers", interp.Project(row[None])) for row in rows])
        >>> (edit,) = join_subspaces(recipe).edits
        >>> tuple(edit.op.rows.shape)
        (2, 3)
    """
    return Recipe(_joined(recipe), recipe.model, recipe.note)


def _joined(recipe: Recipe) -> Iterator[Edit]:
    for (*_, full), run in groupby(recipe.edits, lambda edit: (edit.sites, edit.format, _rows(edit) is not None)):
        edits = list(run)
        if full and len(edits) > 1:
            stacked = torch.cat([rows for edit in edits if (rows := _rows(edit)) is not None])
            yield replace(edits[0], op=Project(orthonormal_rows(_independent(stacked))))
        else:
            yield from edits


def _rows(edit: Edit) -> Tensor | None:
    return edit.op.rows if isinstance(edit.op, Project) and edit.op.scale == 1 else None


def _independent(rows: Tensor) -> Tensor:
    """Rows of the same span, as many as it has dimensions: the same direction may be in a recipe twice."""
    values, basis = torch.linalg.svd(rows.double(), full_matrices=False)[1:]
    return basis[values > _LEFT * values[0]].float()
