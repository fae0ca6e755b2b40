"""Hooks leave with their block, whatever happens inside."""

import pytest
import torch

from interp import InterpError


def ids(batch=2, pos=9, seed=1):
    return torch.randint(4, 128, (batch, pos), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("problem", [RuntimeError, KeyboardInterrupt])
def test_hooks_are_removed_whatever_happens_inside(tiny, problem):
    model = tiny("llama")
    before = model.logits(ids())
    with pytest.raises(problem), model.hooked([("mlp_out.*", lambda x: 0 * x)]):
        assert not torch.allclose(model.logits(ids()), before), "control: the hook acts inside"
        raise problem
    assert torch.equal(model.logits(ids()), before)


def test_hooks_are_removed_when_one_of_them_fails(tiny):
    model = tiny("llama")
    before = model.logits(ids())
    with model.hooked([("mlp_out.0", lambda x: x[:, :1])]), pytest.raises(InterpError, match="returned shape"):
        model.logits(ids())
    assert torch.equal(model.logits(ids()), before)
