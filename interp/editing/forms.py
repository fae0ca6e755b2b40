"""The form in which an op can be folded: a map of what is written at its site, or the reason why there is none."""

from interp.core.errors import InterpError
from interp.editing.ablation import replacement
from interp.editing.maps import Map
from interp.interventions.ops import Op
from interp.interventions.replace import Replace
from interp.interventions.wrapped import Wrapped
from interp.models.sites import WRITERS, Site


def map_of(op: Op, site: Site, d_model: int) -> Map:
    """The map of an op at a site. Raises where it has none: gated, nonlinear, or at some tokens only."""
    if isinstance(op, Replace) and site.kind in WRITERS:
        return replacement(op, site, d_model)
    affine = op.affine()
    if affine is None:
        why = "acts at some tokens only" if isinstance(op, Wrapped) else "is not an affine function of the activations"
        raise InterpError(
            f"{type(op).__name__} {why}, so it has no exact fold into weights; project its direction instead "
            "(Project), train factors for it (--distil, interp.editing.distil), or run it with hooks "
            "(model.hooked(recipe))"
        )
    return Map.of(affine)


def is_constant(op: Op) -> bool:
    """Whether it adds a vector and does no more."""
    affine = op.affine()
    return affine is not None and Map.of(affine).is_constant
