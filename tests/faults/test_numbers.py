"""Faults of numbers and of the code around a model: no edit and no mean is made of nothing."""

import pytest
import torch
from fault_cases import fault

import interp
from interp import InterpError


@fault(
    "a direction that is zero, NaN, infinite or subnormal",
    "a subnormal one is scaled to length 1; the others are refused",
)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_directions(value):
    row = torch.zeros(1, 32)
    row[0, 3] = value
    with pytest.raises(InterpError):
        interp.Project(row)
    row[0, 3] = 1e-42
    assert interp.Project(row).rows.tolist() == torch.eye(32)[3:4].tolist()


@fault("a batch that is all padding", "refused; the error gives the index of the prompt")
def test_all_padding(tiny):
    model = tiny("llama")
    for ids in (torch.zeros(2, 0, dtype=torch.long), [[5, 6], []], [""]):
        with pytest.raises(InterpError, match="prompt"):
            model.tokens(ids)


def hooks_of(model):
    """The hooks of each module; transformers leaves some of its own on a model that has once returned its attention."""
    return {name: [*x._forward_hooks, *x._forward_pre_hooks] for name, x in model.hf.named_modules()}


@fault("an exception inside a hook", "it reaches the caller, and every hook is removed")
def test_exception_in_a_hook(tiny):
    model = tiny("llama")
    ids = torch.arange(4, 12)[None]
    before, hooks = model(ids), hooks_of(model)

    def fail(x):
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        model.run_with_hooks(ids, fwd_hooks=[("resid_post.1", fail)])
    assert torch.equal(model(ids), before)
    assert hooks_of(model) == hooks
