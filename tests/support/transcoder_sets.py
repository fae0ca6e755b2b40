"""Sets of random transcoders: one per layer, of several kinds, or one cross-layer transcoder."""

from dataclasses import replace

import torch
from transcoders import transcoder

from interp import SparseAutoencoder
from interp.activations.columns import SiteColumns
from interp.sae.nonlinearities import JumpReLU


def per_layer(model, **options):
    """Three transcoders: of thresholds, of the k largest, and with a skip connection."""
    skip = torch.randn(32, 32, generator=torch.Generator().manual_seed(9)) / 20
    first, second, third = (transcoder(model, layer, topk=layer == 1, **options) for layer in range(3))
    return [replace(first, b_dec=skip[0]), second, replace(third, W_skip=skip)]


def cross_layer(model, reads="mlp_input", size=20):
    """A cross-layer transcoder: latents of a layer write to it and to later ones."""
    draw, layers = torch.Generator().manual_seed(3), range(3)
    decoder = torch.randn(3, size, 3, 32, generator=draw) / 6
    for layer in layers:
        decoder[layer, :, :layer] = 0
    return SparseAutoencoder(
        W_enc=torch.randn(3 * size, 32, generator=draw) / 4,
        b_enc=torch.randn(3 * size, generator=draw) / 10,
        W_dec=decoder.flatten(0, 1).flatten(1),
        b_dec=torch.randn(96, generator=draw) / 10,
        nonlinearity=JumpReLU(),
        threshold=torch.full((3 * size,), 0.05),
        reads=tuple(SiteColumns(site=f"{reads}.{layer}", model=model.reference, width=32) for layer in layers),
        writes=tuple(SiteColumns(site=f"mlp_out.{layer}", model=model.reference, width=32) for layer in layers),
    )
