"""A small autoencoder of random numbers at a site of a tiny model."""

import torch
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import SparseAutoencoder
from interp.sae import TopK


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def autoencoder(model):
    return SparseAutoencoder(
        W_enc=draw(40, 32),
        b_enc=torch.zeros(40),
        W_dec=normalize(draw(40, 32, seed=1), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=TopK(k=5),
        **one_site(32, "resid_post.1", model.reference),
    )
