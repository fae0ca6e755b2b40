"""Direct attribution: the terms sum to what the model says, and a term follows its writer."""

import pytest
import tiny_models
import torch

from interp import InterpError
from interp.attribution.direct import direct_attribution

WORDS = ["w5 w9 w77", "w12 w99 w101 w4"]


BIASED = {"gpt_neox", "gpt_neox_sequential", "gpt2", "gpt_neo", "gptj", "phi", "stablelm", "stablelm_parallel", "opt"}
BIASED |= {"bloom", "falcon", "falcon_new", "falcon_sequential", "nemotron", "starcoder2"}


@pytest.mark.parametrize("name", sorted(tiny_models.CONFIGS.keys() - {"gemma4"}))
def test_terms_and_the_constant_sum_to_the_logits_before_they_are_capped(name):
    """With every scale and cap that a family has set to a value that shows."""
    model, cap = tiny_models.build(name), 0.5
    for owner, option, value in (
        (model.hf, "logits_scaling", 4.0), (model.hf.model if name == "granite" else None, "embedding_multiplier", 3.0),
        (model.config, "logits_scaling", 4.0), (model.config, "final_logit_softcapping", cap),
    ):  # fmt: skip
        if hasattr(owner, option):
            setattr(owner, option, value)
    logits = model.logits(WORDS)[:, -1].double()
    if hasattr(model.config, "final_logit_softcapping"):
        assert logits.abs().max() < cap, "control: they are capped"
        logits = cap * torch.atanh(logits / cap)
    for token, other in ((7, 50), (7, None)):
        attribution = direct_attribution(model, WORDS, token, other)
        expected = logits[:, token] - (0 if other is None else logits[:, other])
        torch.testing.assert_close(attribution.difference.double(), expected, atol=1e-6, rtol=1e-5)
        total = sum(attribution.terms.values()) + attribution.constant
        torch.testing.assert_close(total.double(), expected, atol=2e-6, rtol=1e-5)
        # The constant comes from biases: the same for every prompt, and none without them.
        torch.testing.assert_close(attribution.constant[0], attribution.constant[1])
        assert bool(attribution.constant.any()) == (name in BIASED)
        assert max(term.abs().max() for term in attribution.terms.values()) > 0.01, "control: the terms matter"
    assert len(attribution.top(3)) == 3


def test_what_is_no_sum_of_direct_terms_is_refused(tiny):
    with pytest.raises(InterpError, match="gemma4_text: its residual stream is not the plain sum"):
        direct_attribution(tiny("gemma4"), WORDS, 7, 50)
    model = tiny("llama")
    refusal = pytest.raises(InterpError, match="llama computes its logits in another way")
    with tiny_models.cubed_logits(model), refusal:
        direct_attribution(model, WORDS, 7, 50)


def test_a_term_follows_its_writer(tiny):
    """Doubling what the last MLP writes, at the scale the norm had, doubles its term."""
    model = tiny("llama")
    site = model.sites[-2]
    before = direct_attribution(model, WORDS, 7, 50).terms[site]
    stream = model.capture(WORDS, "resid_post.2", positions=-1)["resid_post.2"][:, 0]
    with model.hooked([(site, lambda x: 2 * x)]):
        after = direct_attribution(model, WORDS, 7, 50).terms[site]
        moved = model.capture(WORDS, "resid_post.2", positions=-1)["resid_post.2"][:, 0]
    ratio = stream.square().mean(-1).sqrt() / moved.square().mean(-1).sqrt()
    torch.testing.assert_close(after, 2 * before * ratio, atol=1e-4, rtol=1e-4)
