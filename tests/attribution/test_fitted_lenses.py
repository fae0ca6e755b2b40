"""Fitted lenses: the Jacobian equals autograd's own, and the tuned lens comes nearer the model on text not seen."""

import pytest
import torch

import interp
from interp import HookedModel, InterpError, organism
from interp.attribution import Lens, fit_jacobian_lens, fit_tuned_lens
from interp.models import Site

WORDS = ["w5 w9 w77 w12 w99 w31 w8", "w20 w30 w40 w50 w60 w70"]
TEXTS = [f"w{n} w{n + 1} w{2 * n} w9 w{n + 3} w5" for n in range(10, 40)]


def full_jacobian(model, text, site, skip):
    """J of one prompt from autograd's full Jacobian, (target, d, source, d), as the definition says."""
    ids = model.tokens(text, beginning="document")
    start = model.capture(ids, site)[site]

    def last(x):
        with model.hooked([(site, lambda _: x)]):
            inputs = ids.model_inputs(model.device)
            return model.forward_to([Site("resid_post", model.n_layers - 1)], inputs, keep_graph=True, copy=False)[
                Site("resid_post", model.n_layers - 1)
            ]

    whole = torch.autograd.functional.jacobian(last, start)[0, :, :, 0]
    stop = whole.shape[0] - 1
    total = torch.zeros(model.d_model, model.d_model)
    for source in range(skip, stop):
        for target in range(source, stop):
            total += whole[target, :, source]
    return total / (stop - skip)


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "gpt_neox"])
def test_the_jacobian_lens_is_the_mean_of_autograds_full_jacobians(tiny, name):
    model = tiny(name)
    texts = WORDS if name == "llama" else WORDS[1:]
    lens = fit_jacobian_lens(model, texts, skip=2, batch_size=5)
    assert [str(site) for site in lens.weights] == ["resid_post.0", "resid_post.1"]
    for site, weight in lens.weights.items():
        expected = sum(full_jacobian(model, text, site, 2) for text in texts) / len(texts)
        torch.testing.assert_close(weight + torch.eye(model.d_model), expected, atol=1e-4, rtol=1e-4)
        assert weight.abs().max() > 0.01, "control: it is not the logit lens"
    assert lens.settings["prompts"] == len(texts)
    assert all(parameter.requires_grad for parameter in model.hf.parameters()), "the weights are as they were"


def test_a_jacobian_from_the_embeddings_and_from_a_write(tiny):
    model = tiny("llama")
    lens = fit_jacobian_lens(model, WORDS[:1], ["resid_pre.0", "mlp_out.1"], skip=0, batch_size=32)
    for site, weight in lens.weights.items():
        expected = full_jacobian(model, WORDS[0], site, 0)
        torch.testing.assert_close(weight + torch.eye(model.d_model), expected, atol=1e-4, rtol=1e-4)


def test_a_lens_without_training_is_the_logit_lens(tiny):
    model = tiny("llama")
    untrained, logit = fit_tuned_lens(model, TEXTS, steps=0).read(model, WORDS[0]), Lens().read(model, WORDS[0])
    assert torch.equal(untrained.probability, logit.probability)
    assert torch.equal(untrained.divergence, logit.divergence)


def test_the_tuned_lens_is_nearer_the_model_at_every_inner_layer_on_text_not_seen():
    model = interp.load("organism")
    texts, held_out = (list(organism.corpus(60, split=split, seed=0)) for split in ("train", "test"))
    tuned = fit_tuned_lens(model, texts, steps=25, batch_size=128, lr=3e-3)
    after, before = (lens.divergence(model, held_out, "resid_post.*", tokens=512) for lens in (tuned, Lens()))
    for site in tuned.weights:
        assert after[site] < 0.9 * before[site], site
    assert len(tuned.weights) == 5


def test_a_store_and_a_stream_give_the_same_lens_and_another_models_is_refused(tiny, tmp_path):
    model = tiny("llama")
    store = interp.harvest(model, TEXTS, ["resid_post.1", "resid_post.2"], tmp_path / "store", context=16)
    settings = {"sites": "resid_post.1-2", "steps": 4, "batch_size": len(store)}
    lens = fit_tuned_lens(model, store, **settings)
    stream = interp.activations.Stream(model, TEXTS, ["resid_post.1", "resid_post.2"], context=16)
    other = fit_tuned_lens(model, stream, **settings)
    site = Site("resid_post", 1)
    torch.testing.assert_close(lens.weights[site], other.weights[site], atol=1e-5, rtol=0)
    assert lens.weights[site].abs().max() > 1e-4, "control: it was trained"
    with pytest.raises(InterpError, match="made for tiny llama 0"):
        fit_tuned_lens(tiny("llama", seed=1), store, "resid_post.1")
    with pytest.raises(InterpError, match=r"resid_post\.0.*is not in store"):
        fit_tuned_lens(model, store)


def test_what_a_lens_can_not_be_fitted_to_is_refused(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match="no prompt has 18 tokens"):
        fit_jacobian_lens(model, WORDS)
    for fit in (fit_jacobian_lens, fit_tuned_lens):
        with pytest.raises(InterpError, match="no tokenizer"):
            fit(HookedModel(model.hf, None), WORDS)
        with pytest.raises(InterpError, match="needs no fit"):
            fit(model, WORDS, "resid_post.2")
        with pytest.raises(InterpError, match=r"resid_post\.9"):
            fit(model, WORDS, "resid_post.9")
        with model.hooked([("mlp_out.0", lambda x: 0 * x)]), pytest.raises(InterpError, match="leave the hooked block"):
            fit(model, WORDS)


def test_a_source_that_holds_nan_is_refused_by_its_sites(tiny, tmp_path, monkeypatch):
    model, sites = tiny("llama"), ["resid_post.1", "resid_post.2"]
    store = interp.harvest(model, TEXTS, sites, tmp_path / "store", context=16)
    monkeypatch.setattr(type(store), "batches", lambda *args, **options: iter([torch.full((4, 64), torch.nan)]))
    with pytest.raises(InterpError, match=r"store: NaN or infinite activations at resid_post\.1, resid_post\.2"):
        fit_tuned_lens(model, store, "resid_post.1")
