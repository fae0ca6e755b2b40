"""Rounding units: another order of adding is let pass, and a change of a weight is not."""

import pytest
import torch

from interp.editing.fold.affine_maps import MapChange, TensorMap
from interp.editing.fold.plan import Plan
from interp.editing.fold.rounding_units import allowed_gap, rounding_reach, rounding_units_of

WIDTH, COUNT = 512, 600


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_arithmetic_is_within_a_unit_and_what_it_does_to_a_vector(dtype):
    """The same projection in float32 and in float64, each rounded once: as far apart as two processors."""
    draw = torch.Generator().manual_seed(0)
    row = torch.nn.functional.normalize(torch.randn(1, WIDTH, generator=draw), dim=1)
    base = (row.T @ torch.randn(1, COUNT, generator=draw) + 1e-3 * torch.randn(WIDTH, COUNT, generator=draw)).to(dtype)
    plan = Plan({"w": MapChange("out_in", (TensorMap(row, row),))})
    one = plan.apply("w", base.clone())
    other = plan.apply("w", base.double()).to(dtype)
    room = rounding_reach(plan, "w", base, one, dtype)
    assert not torch.equal(one, other)
    assert rounding_units_of(one, other, dtype) > 1, "control: near nothing, entries are many of their own units apart"
    assert rounding_units_of(one, other, dtype, room) <= allowed_gap(plan.changes["w"]) == 1
    assert float(room.max()) < 1e-4 * float(base.float().norm(dim=0).max())
    changed = one.clone()
    changed[3, 5] += 5e-3 * base.float().norm(dim=0).max()
    assert rounding_units_of(changed, other, dtype, room) > 1
    changed[3, 5] = torch.nan
    assert rounding_units_of(changed, other, dtype, room) == torch.inf


def test_tensors_that_are_kept_have_no_room():
    x = torch.tensor([1.0, 2.0])
    assert rounding_reach(Plan({}), "w", x, x, torch.float32) == 0.0
    assert rounding_units_of(x, x + 1e-6, torch.float32) > 1
    assert rounding_units_of(torch.tensor([1]), torch.tensor([2]), torch.int64) == torch.inf
