"""Two models on the same rows of text: their logits and their activations, batch by batch."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.sites import Site

_LOGITS, _ROWS = 25_000_000, 32  # in memory at once, of each model


@dataclass(frozen=True, eq=False)
class ModelPass:
    """What one model computes on a batch of rows: logits, and activations by site, heads side by side, in float32."""

    logits: Float[Tensor, "batch pos d_vocab"]
    activations: dict[Site, Float[Tensor, "batch pos d_in"]]


def paired_passes(
    first: HookedModel, second: HookedModel, rows: PackedRows, sites: Sequence[Site]
) -> Iterator[tuple[PackedRows, ModelPass, ModelPass]]:
    """Batches of rows with what either model computes on them, on the CPU.

    Raises:
        InterpError: A model is inside a hooked block, or gives values that are not finite.

    Example:
        >>> from interp.activations import pack_rows
        >>> from interp.upkeep.drift.paired_passes import paired_passes
        >>> rows = pack_rows(model, ["the baker .", "the doctor ."], context=16)
        >>> ((batch, one, other),) = paired_passes(model, model, rows, model.resolve("resid_post.1"))
        >>> torch.equal(one.logits, other.logits), len(one.activations)
        (True, 1)
    """
    vocabulary = first.hf.get_output_embeddings().weight.shape[0]
    size = max(1, min(_ROWS, _LOGITS // (rows.ids.shape[1] * vocabulary)))
    for batch in track(list(rows.batches(size)), "compare", size=len, unit="rows"):
        yield batch, model_pass(first, batch, sites), model_pass(second, batch, sites)


@torch.no_grad()
def model_pass(model: HookedModel, batch: PackedRows, sites: Sequence[Site]) -> ModelPass:
    """What a model computes on a batch of rows."""
    model.require_unhooked()
    activations: dict[Site, Tensor] = {}

    def keep(site: Site, x: Tensor) -> None:
        activations[site] = x.flatten(2).float().cpu()

    with model.hooked([(site, partial(keep, site)) for site in sites]):
        logits = model.hf(**batch.model_inputs(model.device), use_cache=False).logits.float().cpu()
    for name, x in (("logits", logits), *activations.items()):
        if not torch.isfinite(x[batch.mask]).all():
            raise InterpError(f"{name} of {model.name} are not finite; check its weights, or load it in float32")
    return ModelPass(logits, activations)
