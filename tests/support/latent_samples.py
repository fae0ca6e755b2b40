"""Random latents at a site of a small model, and questions whose answers they are judged by."""

import random

import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import Contrast, SparseAutoencoder
from interp.data import Turn, TurnPair
from interp.sae import JumpReLU

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
