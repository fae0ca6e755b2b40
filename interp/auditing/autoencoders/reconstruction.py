"""What an autoencoder's reconstruction costs the model, and how sparse it is: several dictionaries on the same text.

The plain model is run once per batch, then with each dictionary's reconstruction at the site, with zeros there, and
with the mean of the activations. Every measure is a mean over rows of text, so that dictionaries are compared row by
row; rows count by their tokens. The first token of each document keeps its activations.

- loss recovered: 1 where the reconstruction costs no loss, 0 where it costs as much as zeros (or the mean).
- KL: from the plain model's next-token distribution to that with the reconstruction, in nats per token.
- FVU: squared error by variance about the mean. SAEBench's `explained_variance` takes the variance about zero.
- cosine: of activation and reconstruction.
- L0: latents that fire per token. Dead: never fired here. Dense: fired on more than a tenth of the tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity

from interp.activations.token_rows import CorpusPasses
from interp.core.errors import InterpError
from interp.core.moments import StreamingMoments
from interp.core.progress import track
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence, next_token_losses
from interp.sae.coder import SparseAutoencoder
from interp.sae.splice import spliced_logits, unspliced_pass

_DENSE = 0.1
Measures = dict[str, list[float]]  # scores by measure, one per item


@torch.no_grad()
def reconstruction_measures(
    saes: Mapping[str, SparseAutoencoder], model: HookedModel, packed: PackedRows, batch_size: int = 4
) -> dict[str, Measures]:
    """The measures of this module's docstring, of dictionaries that read and write one site of the model.

    Args:
        saes: The dictionaries by name.
        model: Their model.
        packed: Rows of held-out text.
        batch_size: Rows per forward pass.

    Returns:
        For each dictionary and measure the score of each row of text; for dead and dense that of each latent.

    Raises:
        InterpError: There are fewer than two rows that predict tokens.
    """
    first = next(iter(saes.values()))
    first.require(model)
    counted = packed.predicted.any(1)
    if int(counted.sum()) < 2:
        raise InterpError(
            "the text has fewer than two rows of tokens that are predicted; give more text, or raise tokens"
        )
    packed = packed.part(counted.nonzero()[:, 0], slice(None))
    moments = StreamingMoments()
    for batch, acts in CorpusPasses(model, [first.site], batch_size).over(packed):
        moments.update(acts[first.site][batch.inner])
    mean = moments.mean.float().to(model.device)
    coders = {name: sae.to(model.device) for name, sae in saes.items()}
    sums: dict[str, dict[str, list[Tensor]]] = {name: {} for name in saes}
    fixed: dict[str, list[Tensor]] = {}
    fired = {name: torch.zeros(sae.d_sae) for name, sae in saes.items()}
    batches = list(packed.batches(batch_size))
    for batch in track(batches, "reconstruction", size=lambda batch: batch.ids.numel(), unit="tokens"):
        plain = unspliced_pass(first, model, batch)
        x, predicted = plain.written, batch.predicted.to(model.device)
        for name, values in (("clean", None), ("zero", torch.zeros_like(x)), ("mean", mean.expand_as(x))):
            logits = plain.logits if values is None else spliced_logits(first, model, batch, values)
            _keep(fixed, **{name: _by_row(next_token_losses(logits, batch.ids, predicted), predicted)})
        for name, sae in coders.items():
            code = sae.encode_sparse(plain.read)
            values = sae.decode_sparse(code, plain.read)
            logits = spliced_logits(sae, model, batch, values)
            active = code.values > 0
            fired[name] += torch.bincount(code.latents[active], minlength=sae.d_sae).cpu()
            per_token = torch.bincount(code.tokens[active], minlength=code.count)
            divergence = kl_divergence(plain.logits[:, :-1][predicted].float(), logits[:, :-1][predicted].float())
            _keep(
                sums[name],
                loss=_by_row(next_token_losses(logits, batch.ids, predicted), predicted),
                kl=_by_row(divergence, predicted),
                error=_by_row((values - x).square().sum(1), batch.inner),
                cosine=_by_row(cosine_similarity(values, x, dim=1), batch.inner),
                l0=_by_row(per_token, batch.inner),
            )
    rows = {name: {key: torch.cat(parts) for key, parts in part.items()} for name, part in sums.items()}
    inner, tokens, variance = int(packed.inner.sum()), int(packed.predicted.sum()), float(moments.squares.sum())
    losses = {name: torch.cat(parts) for name, parts in fixed.items()}

    def recovered(loss: Tensor, worst: str) -> Tensor:
        return (losses[worst] - loss) / (losses[worst] - losses["clean"]).sum()

    measured = {
        name: {
            "loss recovered (zero)": recovered(rows[name]["loss"], "zero"),
            "loss recovered (mean)": recovered(rows[name]["loss"], "mean"),
            "KL": rows[name]["kl"] / tokens,
            "FVU": rows[name]["error"] / variance,
            "cosine": rows[name]["cosine"] / inner,
            "L0": rows[name]["l0"] / inner,
        }
        for name in saes
    }
    latents = {name: {"dead": count == 0, "dense": count > _DENSE * inner} for name, count in fired.items()}
    return {
        name: {key: (x * len(packed)).tolist() for key, x in measured[name].items()}
        | {key: x.double().tolist() for key, x in latents[name].items()}
        for name in saes
    }


def _keep(parts: dict[str, list[Tensor]], **values: Tensor) -> None:
    for key, x in values.items():
        parts.setdefault(key, []).append(x)


def _by_row(values: Float[Tensor, "token"] | Any, where: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    """Sums of one value per token that counts, row by row."""
    row = where.nonzero()[:, 0].cpu()
    return torch.zeros(len(where), dtype=torch.double).index_add(0, row, values.double().cpu())
