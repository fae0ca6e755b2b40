"""Hooks on names of the bridge alone do what they do on the bridge; where they can't, the error says so."""

import pytest
import tiny_models
import torch

from interp import InterpError

IDS = torch.randint(4, 128, (2, 9), generator=torch.Generator().manual_seed(1))
PATTERN = "blocks.1.attn.hook_pattern"


def even(x, hook):
    return 0 * x + 1 / x.shape[-1]


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
def test_every_name_of_a_cache_takes_a_hook(tiny, name):
    model = tiny(name)
    with tiny_models.eagerly(model):
        theirs = model.bridge.run_with_hooks(IDS, fwd_hooks=[(PATTERN, even), ("blocks.0.hook_mlp_out", even)])
    ours = model.run_with_hooks(IDS, [(PATTERN, even), ("mlp_out.0", lambda x: 0 * x + 1 / x.shape[-1])])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(ours, model.logits(IDS), atol=1e-3), "control: the hooks act"
    assert torch.equal(model.run_with_hooks(IDS, [(PATTERN, lambda x: None)], last=2), model.bridge(IDS)[:, -2:])
    fired = []
    model.run_with_hooks(IDS, [(lambda name: "hook_pattern" in name, lambda x, hook: fired.append(hook.name))])
    assert fired == [PATTERN.replace("1", str(layer)) for layer in range(3)]


def test_gradients_on_the_bridge_are_those_of_the_cache(tiny):
    model, gradients = tiny("llama"), []
    model.run_with_hooks(IDS, bwd_hooks=[(PATTERN, gradients.append)], return_type="loss").backward()
    model.hf.zero_grad()
    _, cache = model.run_with_cache(IDS, PATTERN, incl_bwd=True, return_type="loss")
    torch.testing.assert_close(gradients[0], cache[f"{PATTERN}_grad"])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.hooks([(PATTERN, even)]).__enter__(), "of the bridge alone; run_with_hooks and bridge.hooks take"),
        (lambda m: m.run_with_hooks(["w5 w9", "w8"], [(PATTERN, even)]), "does not mask padding"),
        (lambda m: m.run_with_hooks(IDS, [(PATTERN, even)], stop_at_layer=1), "never fires in llama"),
        (lambda m: m.run_with_hooks(IDS, [(PATTERN, even)], stop_at_layer=3), "stop_at_layer=3 .* has no output"),
        (lambda m: m.run_with_hooks(IDS, [(PATTERN, lambda a, b, c: a)]), "takes other arguments"),
    ],
)
def test_what_the_bridge_cannot_do_is_said(tiny, call, message):
    with pytest.raises(InterpError, match=message):
        call(tiny("llama"))


def test_a_recipe_does_not_reach_the_bridge(tiny):
    model = tiny("llama")
    with model.hooked([("mlp_out.0", torch.zeros_like)]), pytest.raises(InterpError, match="does not reach"):
        model.run_with_hooks(IDS, [(PATTERN, even)])
