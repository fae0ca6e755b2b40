"""A transcoder of random tensors, and the recipe that suppresses some of its latents."""

import torch
from torch.nn.functional import normalize

from interp import Recipe, SparseAutoencoder
from interp.activations.columns import SiteColumns
from interp.interventions.latents import Suppress
from interp.sae.nonlinearities import JumpReLU, TopK


def transcoder(model, layer=1, threshold=0.0, reads="mlp_input", writes="mlp_out", topk=False):
    draw = torch.Generator().manual_seed(layer)
    return SparseAutoencoder(
        W_enc=torch.randn(40, 32, generator=draw) / 4,
        b_enc=torch.randn(40, generator=draw) / 10,
        W_dec=normalize(torch.randn(40, 32, generator=draw), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=TopK(k=4) if topk else JumpReLU(),
        threshold=None if topk else torch.full((40,), threshold),
        reads=(SiteColumns(site=f"{reads}.{layer}", model=model.reference, width=32),),
        writes=(SiteColumns(site=f"{writes}.{layer}", model=model.reference, width=32),),
    )


def suppressed(model, latents=(3, 7, 11), factor=0.0, **options):
    return Recipe([(f"mlp_out.{options.get('layer', 1)}", Suppress(transcoder(model, **options), latents, factor))])
