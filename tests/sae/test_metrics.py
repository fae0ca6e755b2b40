"""Metrics agree with a slow count by document, and with what is known of a perfect and an empty SAE."""

import random

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import cross_entropy, normalize

from interp.core.errors import InterpError
from interp.sae.coder import SparseAutoencoder
from interp.sae.metrics import evaluate
from interp.sae.nonlinearities import TopK


@pytest.fixture(scope="module")
def corpus():
    draw = random.Random(0)
    return [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(0, 25))) for _ in range(6)]


def _sae(model, site, W_dec, k, b_enc=0.0, b_dec=None):
    b_dec = torch.zeros(W_dec.shape[1]) if b_dec is None else b_dec
    own = one_site(W_dec.shape[1], site, model.reference)
    return SparseAutoencoder(W_dec, torch.full((len(W_dec),), b_enc), W_dec, b_dec, TopK(k=k), **own)


def _slow(sae, model, corpus, width):
    """Errors and losses of each document alone, its first token left as it is."""
    xs, errors, fired, losses = [], [], [], {"clean": 0.0, "reconstructed": 0.0, "zero": 0.0}
    count = 0

    def swapped(function):
        def transform(x):
            whole = x.flatten(2).clone()
            whole[:, 1:] = function(whole[:, 1:])
            return whole.view_as(x)

        return transform

    for text in corpus:
        ids = torch.tensor([1, *model.tokenizer(text, add_special_tokens=False)["input_ids"]])[:width]
        x = model.capture(ids, sae.site)[sae.site][0, 1:].flatten(1)
        xs.append(x)
        errors.append((sae(x) - x).square().sum())
        fired.append(sae.encode(x) > 0)
        transforms = {
            "clean": lambda x: None,
            "reconstructed": swapped(sae),
            "zero": swapped(torch.zeros_like),
        }
        for name, transform in transforms.items():
            with model.hooked([(sae.site, transform)]):
                logits = model.logits(ids)[0, :-1]
            losses[name] += float(cross_entropy(logits, ids[1:], reduction="sum"))
        count += len(ids) - 1
    x, fires = torch.cat(xs), torch.cat(fired)
    return {
        "tokens": len(x),
        "fvu": float(sum(errors) / (x - x.mean(0)).square().sum()),
        "l0": float(fires.sum(1).float().mean()),
        "dead_share": float((~fires.any(0)).float().mean()),
    } | {f"loss_{name}": loss / count for name, loss in losses.items()}


@pytest.mark.parametrize(("architecture", "site"), [("llama", "resid_post.1"), ("gpt2", "mlp_out.0"), ("llama", "z.2")])
def test_metrics_are_those_of_a_slow_count(tiny, corpus, architecture, site):
    model = tiny(architecture)
    rows = normalize(torch.randn(90, 32, generator=torch.Generator().manual_seed(0)), dim=1)
    sae = _sae(model, site, rows, k=3)
    found = evaluate(sae, model, corpus, context=32, batch_size=3).model_dump()
    expected = _slow(sae, model, corpus, 32)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=1e-4), name


def test_a_perfect_sae_costs_nothing_and_an_empty_one_explains_nothing(tiny, corpus):
    model = tiny("llama")
    basis = torch.cat([torch.eye(32), -torch.eye(32)])
    perfect = evaluate(_sae(model, "resid_post.1", basis, k=32), model, corpus, context=64)
    assert perfect.fvu < 1e-10
    assert perfect.loss_reconstructed == pytest.approx(perfect.loss_clean, abs=1e-5)
    assert perfect.loss_zero != pytest.approx(perfect.loss_clean, abs=1e-3)
    assert perfect.loss_recovered == pytest.approx(1, abs=1e-3)
    empty = evaluate(_sae(model, "resid_post.1", basis, k=32, b_enc=-1e6), model, corpus, context=64)
    assert (empty.l0, empty.dead_share) == (0, 1)
    assert empty.fvu > 1
    assert empty.loss_recovered == pytest.approx(0, abs=1e-6)


def test_what_cannot_be_measured_is_refused(tiny, corpus):
    model = tiny("llama")
    sae = _sae(model, "resid_post.1", torch.eye(32), k=4)
    with pytest.raises(InterpError, match="no document of two tokens"):
        evaluate(sae, model, ["", ""], context=64)
    with pytest.raises(InterpError, match="was made for tiny llama 0"):
        evaluate(sae, tiny("llama", seed=1), corpus, context=64)
    with pytest.raises(InterpError, match="context is 128 but the model's is 64"):
        evaluate(sae, model, corpus)


def test_an_autoencoder_of_other_activations_is_told(tiny, corpus):
    model = tiny("llama")
    sae = _sae(model, "resid_post.1", normalize(torch.randn(40, 32), dim=1), k=3, b_dec=torch.full((32,), 50.0))
    with pytest.warns(UserWarning, match="more than their mean would: was it trained on other activations"):
        evaluate(sae, model, corpus, context=32)
