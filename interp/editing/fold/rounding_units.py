"""Rounding units: how far two computations of the same edited tensor may be apart, entry by entry.

A map takes (read w) write off each written vector w. Another processor adds the products in another order, which moves
every entry of what comes out by a few units of the type computed in, of the whole vector: far more than a unit of an
entry that the edit brought near nothing. So beside one unit of the entry in the type held, each may be off by

    8 eps |w| growth        eps of the type computed in, growth = product over maps of 1 + sum |read_i| |write_i|

For float32 computed in float64 that is nothing, and for 16 bits computed in float32 a ten-thousandth of a usual entry.
"""

import torch
from jaxtyping import Shaped
from torch import Tensor

from interp.editing.fold.affine_maps import MapChange
from interp.editing.fold.plan import Plan
from interp.editing.fold.rounding import SIXTEEN_BITS

_ROOM = 8.0


def rounding_units_of(
    held: Shaped[Tensor, "*shape"], expected: Shaped[Tensor, "*shape"], dtype: torch.dtype, reach: Tensor | float = 0.0
) -> float:
    """The largest difference in rounding units of a type, beyond `reach`; infinite where one of them is not finite."""
    if torch.equal(held, expected):
        return 0.0
    if not dtype.is_floating_point:
        return torch.inf
    worst = 0.0
    limits = torch.finfo(dtype)
    slack = torch.as_tensor(reach, dtype=torch.float64)
    for start in range(0, max(1, len(held)), step := max(1, (1 << 22) // max(1, held[:1].numel()))):
        one, other = (x[start : start + step].double() for x in (held, expected))
        part = slack[start : start + step] if slack.ndim and len(slack) == len(held) else slack
        unit = limits.eps * torch.maximum(one.abs(), other.abs()).clamp(min=limits.smallest_normal)
        off = ((one - other).abs() - part).clamp(min=0) / unit
        worst = max(worst, float(off.nan_to_num(torch.inf).max()))
    return worst


def rounding_reach(plan: Plan, name: str, base: Tensor, expected: Tensor, dtype: torch.dtype) -> Tensor | float:
    """What another order of adding may move entries of one of a plan's tensors by, in the type that it is made in."""
    change = plan.changes.get(name)
    if change is None or not dtype.is_floating_point:
        return 0.0
    eps = torch.finfo(torch.float32 if dtype in SIXTEEN_BITS else torch.float64).eps
    axis = -2 if change.layout == "out_in" and base.ndim > 1 else -1
    source = expected if name in plan.grown else base
    size = source.double().norm(dim=axis, keepdim=True) + _first(change)
    if change.added is not None:
        left, right = (factor.double() for factor in change.added)
        size = size + left.norm(dim=1)[:, None] * right.norm(dim=0)
    return _ROOM * eps * _growth(change) * size


def allowed_gap(change: MapChange | None) -> float:
    """Units that two machines may be apart: compensated rounding shifts an entry by half a unit before it rounds it."""
    return 2.0 if change is not None and change.compensate else 1.0


def _first(change: MapChange) -> float:
    """Vectors that are added on the way are rounded as well."""
    added = [change.first, *(edit.constant for edit in change.maps if change.holds_constants)]
    return sum((float(vector.double().norm()) for vector in added if vector is not None), 0.0)


def _growth(change: MapChange) -> float:
    grown = 1.0
    for edit in change.maps:
        grown *= 1.0 + float((edit.read.double().norm(dim=-1) * edit.write.double().norm(dim=-1)).sum())
    return grown
