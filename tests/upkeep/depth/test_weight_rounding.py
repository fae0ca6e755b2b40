"""Rounding: to the nearest level of each group, by a slow computation, and of the matrices alone."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.upkeep.depth.subject import Subject
from interp.upkeep.depth.weight_rounding import rounded, rounded_copy


def slowly(weights, bits, group):
    out, levels = weights.clone(), 2 ** (bits - 1) - 1
    for row in range(len(weights)):
        for start in range(0, weights.shape[1], group):
            part = weights[row, start : start + group]
            scale = float(part.abs().max()) / levels
            for column, value in enumerate(part.tolist()):
                grid = [scale * level for level in range(-levels, levels + 1)]
                out[row, start + column] = min(grid, key=lambda level: abs(level - value))
    return out


@given(st.integers(2, 8), st.integers(1, 9), st.integers(0, 100))
def test_each_weight_goes_to_the_nearest_level_of_its_group(bits, group, seed):
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(seed)).double()
    result = rounded(weights.float(), bits, group)
    torch.testing.assert_close(result.double(), slowly(weights, bits, group), atol=1e-5, rtol=0)
    torch.testing.assert_close(rounded(result, bits, group), result)
    whole = rounded(weights.float(), bits)
    torch.testing.assert_close(whole, rounded(weights.float(), bits, 7))


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "olmoe"])
def test_matrices_are_rounded_and_tables_norms_and_biases_stay(tiny, architecture):
    model = tiny(architecture)
    before = {name: x.clone() for name, x in model.hf.state_dict().items()}
    after = rounded_copy(Subject("base", model), 4, 16).model.hf.state_dict()
    assert all(torch.equal(x, before[name]) for name, x in model.hf.state_dict().items()), "a copy is rounded"
    changed = {name for name, x in after.items() if not torch.equal(x, before[name])}
    tables = {name for name in after if "embed" in name or "wte" in name or "wpe" in name or "lm_head" in name}
    assert changed == {name for name, x in after.items() if x.ndim > 1} - tables
    name = next(iter(sorted(changed)))
    weight = before[name].T if architecture == "gpt2" else before[name]
    expected = rounded(weight, 4, 16)
    assert torch.equal(after[name], expected.T if architecture == "gpt2" else expected)


@pytest.mark.parametrize(("bits", "group"), [(1, None), (4, 0)])
def test_wrong_numbers_are_refused(bits, group):
    with pytest.raises(InterpError, match="expected at least 2 bits"):
        rounded(torch.zeros(2, 2), bits, group)
