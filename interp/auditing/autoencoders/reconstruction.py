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

import torch

from interp.activations.token_rows import CorpusPasses
from interp.core.errors import InterpError
from interp.core.moments import StreamingMoments
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder
from interp.sae.metrics import StandIn, spliced_sums

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
    mean = moments.mean.float()
    sums = spliced_sums(saes, model, packed, {"zero": torch.zeros_like(mean), "mean": mean}, batch_size)
    predicted = int(packed.predicted.sum())

    def measures(own: StandIn) -> Measures:
        recovered = {
            f"loss recovered ({name})": (worst - own.loss) / (worst - sums.clean).sum()
            for name, worst in sums.constants.items()
        }
        rows = recovered | {
            "KL": own.kl / predicted,
            "FVU": own.error / sums.variance,
            "cosine": own.cosine / sums.tokens,
            "L0": own.l0 / sums.tokens,
        }
        latents = {"dead": own.fired == 0, "dense": own.fired > _DENSE * sums.tokens}
        return {key: (x * len(packed)).tolist() for key, x in rows.items()} | {
            key: x.double().tolist() for key, x in latents.items()
        }

    return {name: measures(own) for name, own in sums.saes.items()}
