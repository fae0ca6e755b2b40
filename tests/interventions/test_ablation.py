"""Ablation changes the units that it names, and nothing else."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.interventions import Replace, Resample

D = 8
seeds = st.integers(0, 10**6)


@given(seeds, st.sets(st.integers(0, 3), min_size=1), st.integers(1, 6))
def test_replacing_touches_the_units_alone(seed, units, pos):
    x = torch.randn(2, pos, 4, D, generator=torch.Generator().manual_seed(seed))
    bank = torch.randn(3, 4, D, generator=torch.Generator().manual_seed(seed + 1))
    others = [unit for unit in range(4) if unit not in units]
    for op in (Replace(units=sorted(units)), Replace(bank[0], sorted(units)), Resample(bank, sorted(units), seed)):
        y = op(x)
        assert torch.equal(y[:, :, others], x[:, :, others])
        if isinstance(op, Replace):
            value = torch.zeros(4, D) if op.value is None else op.value
            assert torch.equal(y, Replace(value, sorted(units))(x))
            assert torch.equal(y[:, :, sorted(units)], value[sorted(units)].expand(2, pos, -1, -1))
        else:
            drawn = (y[:, :, None, sorted(units)] == bank[:, sorted(units)]).flatten(3).all(3)
            assert drawn.any(2).all(), "each token's is a row of the bank"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Replace(units=[]), "units of Replace are \\[\\]; expected one or more"),
        (lambda: Replace(units=[1, 1]), "different numbers"),
        (lambda: Replace(units=[D])(torch.ones(1, 2, D)), "unit 8 does not exist: these activations have 8"),
        (lambda: Replace(torch.ones(D + 1))(torch.ones(1, 2, D)), r"shape \(9,\) can't replace activations of \(8,\)"),
        (lambda: Resample(torch.zeros(0, D)), "one row or more"),
    ],
)
def test_bad_values_and_units_are_refused(make, message):
    with pytest.raises(InterpError, match=message):
        make()
