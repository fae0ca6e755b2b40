"""What a latent's contribution is worth to the model: the loss of the text around, with and without it.

On rows in which a latent fires, value times decoder row is taken off at the sites that the autoencoder writes, wherever
the latent fires; the rest of the activations stays, the part that the autoencoder does not explain too. The effect is
the increase of the loss, summed over the rows and divided by the number of firings: nats per firing, later tokens
included.
"""

from collections.abc import Sequence

import torch

from interp.core.progress import track
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.sae.coder import SparseAutoencoder
from interp.sae.splice import spliced_logits, unspliced_pass


@torch.no_grad()
def measure_ablation_effects(
    sae: SparseAutoencoder, model: HookedModel, packed: PackedRows, latents: Sequence[int], rows: int = 8
) -> list[float | None]:
    """The increase of the loss, in nats per firing, where each of some latents is removed by itself.

    Args:
        sae: The autoencoder.
        model: Its model.
        packed: Rows of text.
        latents: The latents.
        rows: Most rows for a latent: the first in which it fires.

    Returns:
        The effect of each latent; None for one that fires on no token of these rows.

    Example:
        >>> from interp.activations import SiteColumns, pack_rows
        >>> from interp.features import measure_ablation_effects
        >>> from interp.sae import SparseAutoencoder, TopK
        >>> basis, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(basis, torch.zeros(4), basis, torch.zeros(192), TopK(k=2), (site,), (site,))
        >>> len(measure_ablation_effects(sae, model, pack_rows(model, ["the baker ."], 16), [0, 3]))
        2
    """
    sae, slot = sae.to(model.device), torch.full((sae.d_sae,), -1)
    slot[list(latents)] = torch.arange(len(latents))
    fires = torch.zeros(len(latents), len(packed), dtype=torch.bool)
    for start in range(0, len(packed), 16):
        batch = packed.rows(start, start + 16)
        code = sae.encode_sparse(unspliced_pass(sae, model, batch).read)
        row = start + batch.inner.nonzero()[:, 0][code.tokens.cpu()]
        chosen = slot[code.latents.cpu()]
        firing = (code.values.cpu() > 0) & (chosen >= 0)
        fires[chosen[firing], row[firing]] = True
    effects: list[float | None] = []
    for latent, where in track(list(zip(latents, fires, strict=True)), "ablations", unit="latents"):
        found = where.nonzero().flatten()[:rows]
        effects.append(_effect(sae, model, packed.part(found, slice(None)), latent) if len(found) else None)
    return effects


def _effect(sae: SparseAutoencoder, model: HookedModel, batch: PackedRows, latent: int) -> float:
    plain = unspliced_pass(sae, model, batch)
    code = sae.encode_sparse(plain.read)
    code = code.pick(((code.latents == latent) & (code.values > 0)).nonzero().flatten())
    without = plain.written - code.decode(sae.W_dec).to(plain.written.dtype)
    ids, predicted = batch.ids.to(model.device), batch.predicted.to(model.device)
    losses = [
        next_token_losses(x, ids, predicted).double().sum()
        for x in (spliced_logits(sae, model, batch, without), plain.logits)
    ]
    return float(losses[0] - losses[1]) / len(code.values)
