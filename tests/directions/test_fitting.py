"""Every method under its name: it finds what separates the sides, and says why where it cannot."""

import pytest
import torch
from sae_samples import autoencoder
from word_contrasts import choices, last_words, sentences

from interp import InterpError
from interp.directions import ErasureFitter, fit_direction
from interp.directions.contrast_activations import Sides
from interp.directions.fitting import CLOSED_FORM, METHODS, SAE_METHODS, TRAINED
from interp.directions.methods.closed_form import FITS


@pytest.fixture
def sides(tiny):
    texts = last_words().texts(str)
    captured = [tiny("llama").capture(list(side), "resid_post.1", positions=-1)["resid_post.1"] for side in texts]
    return Sides(*(acts[:, 0] for acts in captured))


def test_the_names():
    assert tuple(FITS) == CLOSED_FORM
    assert [*METHODS] == [*CLOSED_FORM, "leace", "sal", "inlp", *SAE_METHODS, *TRAINED]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in (*SAE_METHODS, *TRAINED)])
def test_methods_on_activations_point_to_the_positive_side(tiny, sides, method):
    fitted = fit_direction(tiny("llama"), last_words(), method, "resid_post.1")
    reading = sides.read(lambda x: fitted.direction.read(x)[:, 0])
    assert reading.positive.min() > reading.negative.max() - 1e-6
    assert fitted.direction.method == method
    assert (fitted.eraser is not None) == (method in ("leace", "sal", "inlp"))


def test_an_eraser_is_the_fitters(tiny, sides):
    fitter = ErasureFitter(32, 2).update(torch.cat([*sides]), torch.tensor([1, 0]).repeat_interleave(60))
    for method in ("leace", "sal"):
        fitted = fit_direction(tiny("llama"), last_words(), method, "resid_post.1")
        x = sides.positive[:9]
        torch.testing.assert_close(fitted.eraser(x), getattr(fitter, method)(level=1.0)(x), atol=1e-4, rtol=1e-4)


def test_ranks(tiny, sides):
    model = tiny("llama")
    fitted = fit_direction(model, sentences(), "pca", "resid_post.1", rank=3).direction.rows
    assert fitted.shape == (3, 32)
    one = fit_direction(model, sentences(), "pca", "resid_post.1").direction.rows
    torch.testing.assert_close(fitted[:1], one)
    assert len(fit_direction(model, sentences(4), "unsupervised", "resid_post.0", rank=2).direction.rows) == 2
    with pytest.raises(InterpError, match="pca has 32 rows here, not 40; lower the rank"):
        fit_direction(model, sentences(), "pca", "resid_post.1", rank=40)
    with pytest.raises(InterpError, match="expected one site"):
        fit_direction(model, sentences(), "lda", "resid_post.*")
    with pytest.raises(InterpError, match="lda fits one row, not 2; give rank 1, or one of pca"):
        fit_direction(model, sentences(), "lda", "resid_post.1", rank=2)


def test_latents_and_trained_vectors(tiny):
    model, sae, few = tiny("llama"), autoencoder(tiny("llama")), choices(4)
    for method in SAE_METHODS:
        fitted = fit_direction(model, few, method, sae=sae)
        torch.testing.assert_close(fitted.direction.rows[0], sae.W_dec[fitted.latent])
        with pytest.raises(InterpError, match="it chooses a latent; give an autoencoder"):
            fit_direction(model, few, method, "resid_post.1")
    with pytest.raises(InterpError, match=r"is of resid_post\.1, not of resid_post\.2"):
        fit_direction(model, few, "sae_latent", "resid_post.2", sae=sae)
    with pytest.raises(InterpError, match="has no answers"):
        fit_direction(model, sentences(6), "steering_vector", "resid_post.1")
    with pytest.raises(InterpError, match="unknown method 'ladder'"):
        fit_direction(model, few, "ladder", "resid_post.1")
