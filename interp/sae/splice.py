"""Splicing: a forward pass with other values at the sites that an autoencoder writes.

Reading and writing take two passes, so that any shape works: the plain model is read at all sites, then all sites are
written at once. The first token of each document keeps its activations.
"""

from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder


@dataclass(frozen=True)
class UnsplicedPass:
    """A pass of the plain model: its logits, and the activations read and written, sites side by side."""

    logits: Float[Tensor, "batch pos d_vocab"]
    read: Float[Tensor, "token d_in"]
    written: Float[Tensor, "token d_out"]


@torch.no_grad()
def unspliced_pass(sae: SparseAutoencoder, model: HookedModel, batch: PackedRows) -> UnsplicedPass:
    """Run the plain model over the rows."""
    activations: dict[Site, Tensor] = {}
    reads, writes = ([Site.parse(place.site) for place in side] for side in (sae.reads, sae.writes))

    def keep(site: Site, x: Tensor) -> None:
        activations[site] = x.flatten(2)[batch.inner.to(x.device)].float()

    logits = _logits(model, batch, [(site, partial(keep, site)) for site in {*reads, *writes}])
    return UnsplicedPass(logits, *(torch.cat([activations[site] for site in side], dim=1) for side in (reads, writes)))


def spliced_logits(
    sae: SparseAutoencoder, model: HookedModel, batch: PackedRows, values: Float[Tensor, "token d_out"]
) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits with these values at the sites that the autoencoder writes; gradients flow into the values."""
    parts = values.split([place.width for place in sae.writes], dim=1)
    pairs = zip(sae.writes, parts, strict=True)
    return _logits(model, batch, [(Site.parse(place.site), _put(batch.inner, part)) for place, part in pairs])


def _put(inner: Bool[Tensor, "batch pos"], values: Tensor) -> Transform:
    def transform(x: Tensor) -> Tensor:
        whole = x.flatten(2).clone()
        whole[inner.to(x.device)] = values.to(x.dtype)
        return whole.view_as(x)

    return transform


def _logits(model: HookedModel, batch: PackedRows, transforms: list[tuple[Site, Transform]]) -> Tensor:
    with model.hooked(transforms):
        logits: Tensor = model.hf(**batch.model_inputs(model.device), use_cache=False).logits
    return logits
