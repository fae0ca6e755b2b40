"""Direct attribution: the terms sum to what the model says, and a term follows its writer."""

import pytest
import torch

from interp import InterpError
from interp.attribution.direct import direct_attribution

WORDS = ["w5 w9 w77", "w12 w99 w101 w4"]


@pytest.mark.parametrize("name", ["llama", "granite", "gpt2", "gpt_neox", "gemma3", "olmo2", "falcon"])
def test_terms_sum_to_the_difference_up_to_a_constant_of_the_model(tiny, name):
    model = tiny(name)
    attribution = direct_attribution(model, WORDS, 7, 50)
    logits = model.logits(WORDS)[:, -1]
    torch.testing.assert_close(attribution.difference, logits[:, 7] - logits[:, 50])
    total = sum(attribution.terms.values())
    torch.testing.assert_close(total + attribution.constant, attribution.difference, atol=1e-5, rtol=1e-5)
    # The constant comes from biases: the same for every prompt, and none without them.
    torch.testing.assert_close(attribution.constant[0], attribution.constant[1])
    assert bool(attribution.constant.any()) == (name in ("gpt2", "gpt_neox", "falcon"))
    assert total.abs().max() > 0.01
    assert len(attribution.top(3)) == 3


def test_scaled_writes_and_capped_logits_are_refused(tiny):
    with pytest.raises(InterpError, match="gemma2 caps or scales its logits"):
        model = tiny("gemma2")
        with model.hooked([("embed", lambda x: 50 * x)]):
            model.config.final_logit_softcapping = 1.0
            direct_attribution(model, WORDS, 7, 50)
    with pytest.raises(InterpError, match="gemma4_text: its residual stream is not the plain sum"):
        direct_attribution(tiny("gemma4"), WORDS, 7, 50)


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
