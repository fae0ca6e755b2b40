"""The analyses of TransformerLens' cache, on a plain model's own activations, against TransformerLens' folded norms."""

import pytest
import tiny_models
import torch
from cache_idioms import ARCHITECTURES, IDIOMS, IDS, RIGHT, WRONG

from interp import InterpError
from interp.attribution import direct_attribution


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_idiom_has_the_numbers_of_transformerlens_with_folded_norms(tiny, name):
    """Norms folded and all else in its place: centring moves the components, and not what is read from them."""
    model = tiny(name)
    folded = model.compatibility_bridge(fold_value_biases=False, center_writing_weights=False, center_unembed=False)
    with torch.no_grad(), tiny_models.eagerly(model):
        _, theirs = folded.run_with_cache(IDS)
        _, ours = model.run_with_cache(IDS, model.sites)
        for idiom, numbers in IDIOMS.items():
            torch.testing.assert_close(numbers(ours), numbers(theirs), atol=2e-5, rtol=1e-4, msg=f"{name}: {idiom}")
        bare = ours.logit_attrs(ours.decompose_resid(), RIGHT, WRONG, fold_norm=False)
        _, unfolded = model.bridge.run_with_cache(IDS)
        torch.testing.assert_close(
            bare, unfolded.logit_attrs(unfolded.decompose_resid(), RIGHT, WRONG), atol=1e-5, rtol=1e-4
        )
    assert (bare - ours.logit_attrs(ours.decompose_resid(), RIGHT, WRONG)).abs().max() > 1e-3, "control"


@pytest.mark.parametrize("name", ["llama", "gpt2", "olmo2", "cohere", "granite", "ministral"])
def test_attributions_sum_to_the_logits_with_padding_and_recipes(tiny, name):
    """All but the constant of the biases, also where TransformerLens has no bridge or folds no norm."""
    model, words = tiny(name), ["w5 w9 w77", "w12 w99 w101 w4"]
    with model.hooked([("mlp_out.0", lambda x: 0.5 * x)]):
        attributed = direct_attribution(model, words, 7, 50)
        _, cache = model.run_with_cache(words, model.sites)
        if name in tiny_models.NO_BRIDGE:
            assert cache[model.sites[-1]].shape == cache["resid_post", 2].shape == (2, 4, 32)
            return
        terms = cache.logit_attrs(cache.decompose_resid(pos_slice=-1), 7, 50, pos_slice=-1)
    torch.testing.assert_close(terms.sum(0) + attributed.constant, attributed.difference, atol=1e-5, rtol=1e-4)
    assert terms[2].abs().max() > 1e-3, "control: an MLP's term"


def test_what_is_not_cached_and_not_computable_is_named(tiny):
    model = tiny("llama", seed=9)
    _, cache = model.run_with_cache(IDS[:1], ["attn_out.*", "mlp_out.*", "embed"], remove_batch_dim=True)
    assert model._bridge is None, "no bridge is built for what modules compute"
    with pytest.raises(InterpError, match=r"ln_final needs blocks\.2\.hook_resid_post.*model\.sites"):
        cache.logit_attrs(cache.decompose_resid(), 7, has_batch_dim=False)
    with pytest.raises(KeyError, match="hook_z"):
        cache.stack_head_results()
    with pytest.raises(InterpError, match="token 128 is not in the vocabulary; expected an id from 0 to 127"):
        cache.logit_attrs(cache.decompose_resid(), 128)
    assert repr(cache).startswith("ModelCache(7 activations: hook_embed 1 tensor [9, 32]")
    assert "<td" in cache._repr_html_()
