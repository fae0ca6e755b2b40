"""Block by block, a model computes what it computes in one pass, changes in between included."""

import pytest
import torch
from tiny_models import CONFIGS

from interp import InterpError
from interp.directions.methods._blockwise import Blockwise

PROMPTS = ["w5 w6 w7 w8 w9 w10 w11", "w20 w21 w22", "w30 w31 w32 w33 w34", "w40 w41 w42 w43 w44 w45"]


@pytest.mark.parametrize("architecture", CONFIGS)
def test_each_block_is_computed_as_in_one_pass_with_hooks(tiny, architecture):
    model = tiny(architecture)
    batch = model.tokens(PROMPTS)
    batches = [batch.rows(0, 2), batch.rows(2, 4)]
    double = lambda x: 2 * x + 1  # noqa: E731
    changes = [(f"resid_post.{layer}", double) for layer in (0, 1)]
    walk = Blockwise(model, batches)
    for layer in range(model.n_layers):
        site = f"resid_post.{layer}"
        states = walk.to(layer)
        for rows, state in zip(batches, states, strict=True):
            with model.hooked(changes[:layer]):
                expected = model.capture(rows, site)[site]
            torch.testing.assert_close(state[rows.mask], expected[rows.mask], atol=1e-5, rtol=1e-5)
            plain = model.capture(rows, site)[site]
            assert layer == 0 or (expected - plain)[rows.mask].abs().max() > 0.1, "control: the changes matter"
        walk.replace([double(state) for state in states])
    assert all("forward" not in vars(block) for block in walk._blocks), "nothing is left behind"


def test_layers_are_skipped_forward_and_never_back(tiny):
    model = tiny("llama")
    batch = model.tokens(PROMPTS)
    walk = Blockwise(model, [batch])
    expected = model.capture(batch, "resid_post.2")["resid_post.2"]
    walk.to(0)
    torch.testing.assert_close(walk.to(2)[0][batch.mask], expected[batch.mask])
    with pytest.raises(InterpError, match="layer is 1; expected 3 to 2"):
        walk.to(1)
    block = model.hf.model.layers[0]
    forward = block.forward
    calls = []
    block.forward = lambda *args, **kwargs: calls.append(1) or forward(*args, **kwargs)  # as accelerate's hooks do
    try:
        again = Blockwise(model, [batch])
        again.to(0)
        again.to(1)
        model.logits(batch)
        assert len(calls) == 2, "once when it was computed, and again: it is still there"
    finally:
        del block.forward
    with model.hooked([("resid_post.0", lambda x: x)]), pytest.raises(InterpError, match="is hooked"):
        Blockwise(model, [batch])
