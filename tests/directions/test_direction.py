"""A direction survives saving, whatever found it."""

import random

import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Contrast, Direction, SparseAutoencoder
from interp.data._pairs import Turn, TurnPair
from interp.directions.methods.latents import by_attribution
from interp.sae.nonlinearities import JumpReLU

SITE = "resid_post.1"


def choices(n=10, seed=0):
    """One prompt of some length with two answers, of two tokens and of one."""
    rng = random.Random(seed)
    prompts = [" ".join(f"w{rng.randint(20, 127)}" for _ in range(rng.randint(3, 6))) for _ in range(n)]
    return Contrast(tuple(TurnPair(Turn(p, " w5 w6"), Turn(p, " w9")) for p in prompts))


def dictionary(model, rows=40, seed=0):
    """Random latents, about half of which fire."""
    draw = torch.Generator().manual_seed(seed)
    encoder, decoder = (normalize(torch.randn(rows, model.d_model, generator=draw), dim=1) for _ in range(2))
    parts = encoder, torch.zeros(rows), decoder, torch.randn(model.d_model, generator=draw)
    place = one_site(model.d_model, SITE, model.reference)
    return SparseAutoencoder(*parts, JumpReLU(), threshold=torch.full((rows,), 0.1), **place)


def test_a_latents_direction_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    sae, pairs = dictionary(model), choices()
    latent = by_attribution(model, sae, pairs, count=1)[0]
    direction = latent.direction(sae, pairs.digest)
    torch.testing.assert_close(direction.rows[0], sae.W_dec[latent.latent])
    direction.save(tmp_path / "direction")
    kept = Direction.load(tmp_path / "direction")
    assert torch.equal(kept.rows, direction.rows)
    assert (str(kept.site), kept.method, kept.data) == (SITE, "sae_latent_attribution", pairs.digest)
