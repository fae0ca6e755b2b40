"""How well an SAE stands in for its site: in the activations, and in what the model predicts.

Three forward passes over held-out text: as it is, with the SAE's reconstruction at the site, with zeros
there. The first token of each document is left as it is in all three.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.activations.rows import rows
from interp.core.errors import InterpError
from interp.core.linalg import StreamingMoments
from interp.data.corpora import Source
from interp.data.packing import Packed
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform
from interp.models.losses import next_token_losses
from interp.sae.coder import SparseAutoencoder
from interp.sae.records import SaeMetrics


def evaluate(
    sae: SparseAutoencoder,
    model: HookedModel,
    texts: Source,
    *,
    tokens: int | None = None,
    context: int = 128,
    batch_size: int = 16,
) -> SaeMetrics:
    """Measure an SAE on its model over a corpus, at most `tokens` of it.

    Raises for another model than the SAE's, and for documents of one token, which predict nothing.
    """
    sae.require(model)
    packed = rows(model, texts, context, tokens)
    if not packed.predicted.any():
        raise InterpError("the corpus has no document of two tokens or more, so there is nothing to predict")
    coder, tally, zeros = sae.to(model.device), _Tally(sae.d_sae), torch.zeros_like
    clean = reconstructed = zeroed = 0.0
    for batch in packed.batches(batch_size):
        inner = batch.inner.to(model.device)
        clean += _loss(model, batch, sae, partial(tally.update, coder, inner))
        reconstructed += _loss(model, batch, sae, _at(inner, coder))
        zeroed += _loss(model, batch, sae, _at(inner, zeros))
    predicted = int(packed.predicted.sum())
    return SaeMetrics(
        tokens=tally.moments.count,
        fvu=tally.error / float(tally.moments.squares.sum()),
        l0=float(tally.fired.sum()) / tally.moments.count,
        dead_share=float((tally.fired == 0).double().mean()),
        loss_clean=clean / predicted,
        loss_reconstructed=reconstructed / predicted,
        loss_zero=zeroed / predicted,
    )


class _Tally:
    """Sums over the activations seen: variance, squared error of reconstruction, firings of each latent."""

    def __init__(self, d_sae: int):
        self.moments = StreamingMoments()
        self.error = 0.0
        self.fired = torch.zeros(d_sae, dtype=torch.long)

    def update(self, sae: SparseAutoencoder, inner: Bool[Tensor, "batch pos"], captured: Tensor) -> None:
        x = captured.flatten(2)[inner].float()
        code = sae.encode_sparse(x)
        self.moments.update(x.cpu())
        self.error += float((sae.decode_sparse(code) - x).double().square().sum())
        self.fired += torch.bincount(code.latents[code.values > 0], minlength=len(self.fired)).cpu()


def _at(inner: Bool[Tensor, "batch pos"], function: Callable[[Tensor], Tensor]) -> Transform:
    """A function applied to each token's whole activation, heads side by side, where `inner` is true."""

    def transform(x: Tensor) -> Tensor:
        whole = x.flatten(2)
        return torch.where(inner[..., None], function(whole), whole).view_as(x)

    return transform


@torch.no_grad()
def _loss(model: HookedModel, batch: Packed, sae: SparseAutoencoder, transform: Transform) -> float:
    """Summed cross-entropy of the batch's predicted tokens with a transform at the SAE's site."""
    with model.hooked([(sae.site, transform)]):
        logits = model.hf(**batch.model_inputs(model.device), use_cache=False).logits
    return float(next_token_losses(logits, batch.ids, batch.predicted).sum())
