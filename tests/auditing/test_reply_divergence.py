"""KL along the unedited model's replies is that of whole forward passes, also for edits that act on replies alone."""

import pytest
import torch

import interp
from interp import InterpError, Recipe
from interp.auditing import reply_kl

PROMPTS = ["w4 w5 w6", "w40 w7", "w9 w10 w11 w12"]


def _slowly(model, recipe, prompt, reply):
    """The full distributions of two forward passes over prompt and reply."""
    whole, alone = model.tokens(prompt + reply).ids, model.tokens(prompt).ids[0].tolist()
    start = next((n for n, token in enumerate(alone) if token != whole[0, n]), len(alone))
    with torch.no_grad():
        before = model.hf(whole).logits[0, start - 1 : -1].double().log_softmax(-1)
        with model.hooked(recipe, prompt=start):
            after = model.hf(whole).logits[0, start - 1 : -1].double().log_softmax(-1)
    return float((before.exp() * (before - after)).sum(-1).mean())


@pytest.mark.parametrize("architecture", ["llama", "gemma2"])
@pytest.mark.parametrize("positions", [None, ["generated"]])
def test_it_is_the_mean_divergence_over_the_tokens_of_the_reply(tiny, architecture, positions):
    model = tiny(architecture)
    torch.manual_seed(0)
    op = interp.Add(torch.randn(model.d_model), scale=2.0)
    recipe = Recipe([("resid_post.1", op if positions is None else interp.At(op, positions))])
    kl = reply_kl("kl", model, PROMPTS, max_new_tokens=4)
    assert kl.scores(model).values == pytest.approx([0.0] * len(kl), abs=1e-6)
    with model.hooked(recipe):
        scores = kl.scores(model).values
        assert kl.pick([1]).scores(model).values == pytest.approx(scores[1:2], rel=1e-4)
    replies = [reply for (reply,) in kl.spec["answers"]]
    slowly = [_slowly(model, recipe, *pair) for pair in zip(kl.prompts, replies, strict=True)]
    assert scores == pytest.approx(slowly, rel=1e-3)
    assert min(scores) > 0.01


def test_a_hooked_model_is_no_base(tiny):
    model = tiny("llama")
    with model.hooked([("mlp_out.1", lambda x: 0 * x)]), pytest.raises(InterpError, match="inside a hooked block"):
        reply_kl("kl", model, PROMPTS)
