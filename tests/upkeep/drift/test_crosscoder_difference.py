"""A latent of one model alone is confirmed where the other has nothing of it, not where the crosscoder left it out."""

import pytest
import torch
from drifted import TEXTS

from interp import InterpError
from interp.activations import SiteColumns
from interp.sae import SaeConfig, SparseAutoencoder, TopK
from interp.upkeep.drift.crosscoder_difference import crosscoder_config, crosscoder_difference, exclusive_latents

WIDTH, TOKENS = 32, 600


def activations(first, second):
    """Three concepts on different tokens: axes 0 and 2 of both models, axis 1 as the arguments say."""
    generator = torch.Generator().manual_seed(0)
    fires = torch.randint(3, (TOKENS,), generator=generator)
    strength = 1 + torch.rand(TOKENS, generator=generator)
    x = torch.zeros(TOKENS, 2 * WIDTH)
    for concept in range(3):
        there = (fires == concept) * strength
        x[:, concept] = there * (first if concept == 1 else 1.0)
        x[:, WIDTH + concept] = there * (second if concept == 1 else 1.0)
    return x


def coder(model, first_row, extra=()):
    """A crosscoder with a latent a concept, whose second has this row in the first model; and further rows."""
    rows = torch.zeros(3, 2 * WIDTH)
    for concept in range(3):
        rows[concept, concept], rows[concept, WIDTH + concept] = (first_row if concept == 1 else 1.0), 1.0
    rows = torch.cat([rows, *extra]) if extra else rows
    encoder = rows.clone()
    encoder[:3, :WIDTH] = 0.0  # reads the second model
    places = tuple(SiteColumns(site="resid_post.1", model=x.reference, width=WIDTH) for x in (model, model))
    zeros = torch.zeros(2 * WIDTH)
    return SparseAutoencoder(encoder, torch.zeros(len(rows)), rows, zeros, TopK(k=1 + bool(extra)), places, places)


def sort(model, sae, x):
    return exclusive_latents(sae, x.split(100), (model, model))


def test_a_concept_of_the_second_model_alone_is_confirmed_and_shared_ones_are_not_exclusive(tiny):
    fires, exclusive = sort(tiny("llama"), coder(tiny("llama"), 0.0), activations(0.0, 1.0))
    assert fires == 3
    ((latent),) = exclusive
    assert (latent.latent, latent.model, latent.confirmed, latent.norms) == (1, "second", True, 0.0)
    assert abs(latent.error) < 1e-6
    assert len(latent.promoted) == 10
    assert 0.2 < latent.firing < 0.5


def test_a_row_that_shrank_though_the_first_model_has_the_concept_is_not_confirmed(tiny):
    """Complete shrinkage: the error of the first model's reconstruction holds what the row leaves out."""
    _, (latent,) = sort(tiny("llama"), coder(tiny("llama"), 0.0), activations(1.0, 1.0))
    assert (latent.latent, latent.confirmed) == (1, False)
    assert latent.error == pytest.approx(1.0, abs=1e-6)


def test_a_concept_that_another_latent_carries_in_the_first_model_is_not_confirmed(tiny):
    """Latent decoupling: two latents of one concept, one a model."""
    other = torch.zeros(1, 2 * WIDTH)
    other[0, 1] = 1.0
    _, exclusive = sort(tiny("llama"), coder(tiny("llama"), 0.0, (other,)), activations(1.0, 1.0))
    by_model = {latent.model: latent for latent in exclusive}
    assert set(by_model) == {"first", "second"}
    assert not any(latent.confirmed for latent in exclusive)
    assert by_model["second"].error == pytest.approx(0.0, abs=1e-6)
    assert by_model["second"].reconstruction == pytest.approx(1.0, abs=1e-6)


def test_it_is_trained_on_the_text_of_both_models_and_a_model_has_nothing_alone_against_itself(tiny):
    config = SaeConfig(kind="batchtopk", d_sae=16, k=2, batch_size=64, tokens=2000)
    same = crosscoder_difference(tiny("llama"), tiny("llama"), TEXTS, "resid_post.1", config, context=16)
    assert (same.site, same.exclusive) == ("resid_post.1", ())
    assert same.unexplained[0] == pytest.approx(same.unexplained[1], abs=0.01)
    assert 0 < same.latents <= 16


def test_the_config_is_that_of_the_text_and_too_little_of_it_is_refused():
    config = crosscoder_config(64, 1000, 3)
    assert (config.kind, config.d_sae, config.k, config.tokens, config.seed) == ("batchtopk", 64, 8, 10_000, 3)
    with pytest.raises(InterpError, match="511 tokens; a crosscoder needs 512"):
        crosscoder_config(64, 511, 0)
