"""Clamp and Suppress change the latents' own contribution and nothing else: what they do not explain stays in place."""

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Clamp, InterpError, Recipe, SparseAutoencoder
from interp.activations.columns import SiteColumns
from interp.interventions.latents import Suppress
from interp.interventions.positions import At
from interp.models.sites import Site
from interp.sae.nonlinearities import JumpReLU, TopK

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


@pytest.mark.parametrize("latents", [40, -1, [], [0, 99], [5, 5], (3, 7, 3)])
def test_latents_that_are_not_there_are_refused(sae, latents):
    with pytest.raises(InterpError, match="expected one or more different ones from 0 to 39"):
        Clamp(sae, latents)


def test_an_autoencoder_of_another_site_is_refused(sae, tiny):
    model, own = tiny("llama"), Recipe([("resid_post.1", Clamp(sae, 3))])
    assert own.bind(model)
    with pytest.raises(InterpError, match=r"Clamp at resid_post\.0: its autoencoder was trained at resid_post\.1"):
        Recipe([("resid_post.*", Clamp(sae, 3))]).bind(model)


def transcoder(model, reads="mlp_input.1", writes="mlp_out.1", threshold=0.1):
    draw = torch.Generator().manual_seed(0)
    return SparseAutoencoder(
        W_enc=torch.randn(40, 32, generator=draw) / 4,
        b_enc=torch.randn(40, generator=draw) / 10,
        W_dec=normalize(torch.randn(40, 32, generator=draw), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=JumpReLU(),
        threshold=torch.full((40,), threshold),
        reads=(SiteColumns(site=reads, model=model.reference, width=32),),
        writes=(SiteColumns(site=writes, model=model.reference, width=32),),
    )


@pytest.mark.parametrize(("name", "factor"), [("llama", 0.0), ("gpt2", 0.25), ("opt", 0.0), ("granite", 2.0)])
def test_the_latents_part_alone_is_taken_away(tiny, name, factor):
    model = tiny(name)
    coder, sites = transcoder(model), [Site("mlp_input", 1), Site("mlp_out", 1)]
    read, written = (model.capture(IDS, site)[site] for site in sites)
    with model.hooked(Recipe([("mlp_out.1", Suppress(coder, range(40), factor))])):
        found = model.capture(IDS, sites[1])[sites[1]]
    pre = read @ coder.W_enc.T + coder.b_enc
    fired = torch.where(pre > 0.1, pre, 0.0)
    assert 0 < (fired > 0).float().mean() < 0.9, "control: some fire, some do not"
    expected = written + (factor - 1) * fired @ coder.W_dec
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert (found - written).abs().max() > 1e-2


def test_it_is_saved_held_and_does_the_same_with_a_cache(tiny, tmp_path):
    model = tiny("llama")
    recipe = Recipe([("mlp_out.1", Suppress(transcoder(model), list(range(20))))])
    recipe.save(tmp_path / "recipe")
    again = Recipe.load(tmp_path / "recipe")
    with model.hooked(recipe):
        expected = model.logits(IDS)
        cached = model.hf.generate(IDS, max_new_tokens=6, do_sample=False, eos_token_id=None)
        whole = model.hf.generate(IDS, max_new_tokens=6, do_sample=False, eos_token_id=None, use_cache=False)
    assert torch.equal(cached, whole)
    with model.hooked(again):
        assert torch.equal(model.logits(IDS), expected)
    assert (model.logits(IDS) - expected).abs().max() > 1e-2
    with model.hooked(Recipe([("mlp_out.1", At(again.edits[0].op, "last"))])):
        late = model.logits(IDS)
    torch.testing.assert_close(late[:, :-1], model.logits(IDS)[:, :-1])
    assert (late[:, -1] - model.logits(IDS)[:, -1]).abs().max() > 1e-3


def test_what_does_not_go_together_is_refused(tiny):
    model = tiny("llama")
    coder = transcoder(model)
    for latents in ([], [40], [3, 3], -1):
        with pytest.raises(InterpError, match="expected one or more different ones from 0 to 39"):
            Suppress(coder, latents)
    with pytest.raises(InterpError, match="hold latents of an autoencoder by Clamp"):
        Suppress(transcoder(model, "mlp_out.1"), 3)
    with pytest.raises(InterpError, match=r"trained at mlp_out\.1; put it there"):
        Recipe([("mlp_out.2", Suppress(coder, 3))]).bind(model)
    with pytest.raises(InterpError, match="comes later in the forward pass"):
        Recipe([("mlp_out.1", Suppress(transcoder(model, "mlp_out.2", "mlp_out.1"), 3))]).bind(model)
    with pytest.raises(InterpError, match="has to know what is at mlp_input"):
        Suppress(coder, 3)(torch.zeros(1, 1, 32))
