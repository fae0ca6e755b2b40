"""End-to-end fine-tuning makes the model's output with the autoencoder in it more like the plain model's."""

import random

import pytest
import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp.activations.stream import Stream
from interp.core.errors import InterpError
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.metrics import evaluate
from interp.sae.nonlinearities import TopK
from interp.sae.training.fine_tuning import finetune
from interp.sae.training.trainer import train


def _texts(count, seed):
    draw = random.Random(seed)
    return [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(10, 40))) for _ in range(count)]


def _divergence(sae, model, texts):
    """KL from the plain model, summed over batches: what fine-tuning at a rate of nothing starts from."""
    return sum(step.kl for step in finetune(sae, model, texts, context=48, lr=1e-12).history)


@pytest.fixture(scope="module")
def model(tiny):
    return tiny("llama")


@pytest.mark.parametrize("kind", ["topk", "jumprelu"])
def test_the_output_comes_nearer_on_text_that_was_not_seen(model, kind):
    texts, held_out = _texts(800, 0), _texts(60, 1)
    config = SaeConfig(kind=kind, d_sae=48, k=4, batch_size=256, tokens=15_000, lr=3e-3)
    sae = train(Stream(model, texts, "resid_post.1", context=48), "resid_post.1", config).sae
    before = evaluate(sae, model, held_out, context=48)
    tuned = finetune(sae, model, texts, context=48, tokens=20_000, lr=3e-3, batch_size=8)
    after = evaluate(tuned.sae, model, held_out, context=48)
    gap = (after.loss_reconstructed - after.loss_clean) - (before.loss_reconstructed - before.loss_clean)
    old, new = (_divergence(one, model, held_out) for one in (sae, tuned.sae))
    assert new < 0.9 * old
    assert gap < 0 or after.loss_reconstructed == pytest.approx(before.loss_reconstructed, abs=0.01)
    assert after.fvu < 1.5 * before.fvu
    torch.testing.assert_close(tuned.sae.W_dec.norm(dim=1), torch.ones(48), atol=0.2, rtol=0)
    # A rate of nothing changes nothing, and the model's own weights never change.
    still = finetune(sae, model, texts, context=48, tokens=2_000, lr=1e-12)
    torch.testing.assert_close(still.sae.W_enc, sae.W_enc, atol=1e-5, rtol=1e-5)
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.hf.parameters())


def test_a_transcoder_is_tuned_where_it_writes(model):
    texts = _texts(200, 0)
    stream = Stream(model, texts, ["resid_mid.1", "mlp_out.1"], context=48)
    config = SaeConfig(d_sae=48, k=4, batch_size=256, tokens=20_000, lr=3e-3, skip=True)
    sae = train(stream, "resid_mid.1", config, writes="mlp_out.1").sae
    tuned = finetune(sae, model, texts, context=48, tokens=8_000, lr=3e-3)
    assert sum(step.kl for step in tuned.history[-5:]) < sum(step.kl for step in tuned.history[:5])
    assert not torch.equal(tuned.sae.W_skip, sae.W_skip)


def test_another_models_autoencoder_is_refused(model, tiny):
    rows = normalize(torch.randn(30, 32), dim=1)
    own = one_site(32, "resid_post.1", tiny("llama", seed=1).reference)
    sae = SparseAutoencoder(rows, torch.zeros(30), rows, torch.zeros(32), TopK(k=4), **own)
    with pytest.raises(InterpError, match="this SAE was made for tiny llama 1"):
        finetune(sae, model, _texts(5, 0))
