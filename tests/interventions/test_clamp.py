"""Clamp changes the latents' own contribution and nothing else: the autoencoder's error stays in place."""

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Clamp, InterpError, Recipe, SparseAutoencoder
from interp.sae.nonlinearities import TopK

IDS = torch.randint(4, 128, (2, 9), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def sae(tiny):
    draw = torch.Generator().manual_seed(0)
    return SparseAutoencoder(
        W_enc=torch.randn(40, 32, generator=draw),
        b_enc=torch.zeros(40),
        W_dec=normalize(torch.randn(40, 32, generator=draw), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=TopK(k=5),
        **one_site(32, "resid_post.1", tiny("llama").reference),
    )


def test_only_the_latents_contribution_changes(sae):
    x = torch.randn(50, 32, generator=torch.Generator().manual_seed(2))
    fired = sae.encode(x)[:, [3, 7]]
    assert (fired > 0).any(), "control: the latents fire"
    expected = x + (2.0 - fired) @ sae.W_dec[[3, 7]]
    torch.testing.assert_close(Clamp(sae, [3, 7], value=2.0)(x), expected)
    silent = (fired == 0).all(1)
    assert torch.equal(Clamp(sae, [3, 7])(x)[silent], x[silent]), "ablating a silent latent does nothing at all"
    assert not torch.allclose(sae(x)[silent], x[silent]), "control: the reconstruction has an error"


def test_it_is_saved_with_its_autoencoder_and_refused_elsewhere(sae, tiny, tmp_path):
    model = tiny("llama")
    recipe = Recipe([("resid_post.1", Clamp(sae, 3, value=4.0))])
    recipe.save(tmp_path / "recipe")
    again = Recipe.load(tmp_path / "recipe")
    with model.hooked(recipe):
        expected = model.logits(IDS)
    with model.hooked(again):
        assert torch.equal(model.logits(IDS), expected)
    assert not torch.allclose(model.logits(IDS), expected)
    with pytest.raises(InterpError, match="made for tiny llama 0"), tiny("llama", seed=1).hooked(again):
        pass
    with pytest.raises(InterpError, match="no exact fold"):
        import interp

        interp.export(recipe, model, tmp_path / "out")


@pytest.mark.parametrize("latents", [40, -1, [], [0, 99]])
def test_latents_that_are_not_there_are_refused(sae, latents):
    with pytest.raises(InterpError, match="expected one or more from 0 to 39"):
        Clamp(sae, latents)


def test_an_autoencoder_of_another_site_is_refused(sae, tiny):
    model, own = tiny("llama"), Recipe([("resid_post.1", Clamp(sae, 3))])
    assert own.bind(model)
    with pytest.raises(InterpError, match=r"Clamp at resid_post\.0: its autoencoder was trained at resid_post\.1"):
        Recipe([("resid_post.*", Clamp(sae, 3))]).bind(model)
