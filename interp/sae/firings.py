"""Where latents fire in a corpus: for each of them, the tokens and the values."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.places import parsed
from interp.core.progress import track
from interp.data.packing import Packed
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder


@dataclass(frozen=True, eq=False)
class Firings:
    """The tokens on which a latent fires, as places in the flattened rows of a corpus, and its values."""

    places: Int[Tensor, "firing"]
    values: Float[Tensor, "firing"]

    def dense(self, packed: Packed) -> Float[Tensor, "batch pos"]:
        """The latent's value at every token of the corpus."""
        return torch.zeros(packed.ids.numel()).scatter(0, self.places, self.values).view_as(packed.ids)


def firings(
    sae: SparseAutoencoder, model: HookedModel, packed: Packed, latents: list[int], batch_size: int
) -> list[Firings]:
    """The firings of each latent, all in one pass over the corpus; first tokens of documents do not count."""
    coder, context, sites = sae.to(model.device), packed.ids.shape[1], parsed([place.site for place in sae.reads])
    slot = torch.full((sae.d_sae,), -1)
    slot[latents] = torch.arange(len(latents))
    parts = []
    for start in track(range(0, len(packed), batch_size), "features"):
        batch = packed.rows(start, start + batch_size)
        found = model.forward_to(sites, batch.model_inputs(model.device))
        x = torch.cat([found[site].flatten(2) for site in sites], dim=2)
        code = coder.encode_sparse(x)
        slots, tokens, values = slot[code.latents.cpu()], code.tokens.cpu(), code.values.cpu()
        wanted = (slots >= 0) & (values > 0) & batch.inner.flatten()[tokens]
        row, column = tokens.div(x.shape[1], rounding_mode="floor"), tokens % x.shape[1]
        parts.append((slots[wanted], ((start + row) * context + column)[wanted], values[wanted]))
    slots, places, values = (torch.cat(part) for part in zip(*parts, strict=True))
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots, minlength=len(latents)).tolist()
    return [Firings(*pair) for pair in zip(places[order].split(counts), values[order].split(counts), strict=True)]
