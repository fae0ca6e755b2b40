"""Similar latents: the nearest by the cosine of rows, within an autoencoder and between two."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from interp.core.errors import InterpError
from interp.sae.coder import SparseAutoencoder

SHARED = 0.7  # the cosine from which latents of two autoencoders count as shared, as in Paulo and Belrose 2025
_BLOCK = 256  # rows whose cosines with all others are held at a time


def nearest_rows(
    rows: Float[Tensor, "row d"],
    others: Float[Tensor, "other d"],
    count: int = 1,
    own: Int[Tensor, "row"] | None = None,
    among: Bool[Tensor, "other"] | None = None,
) -> tuple[Float[Tensor, "row k"], Int[Tensor, "row k"]]:
    """The largest cosines of each row with others, and which these are, the largest first.

    Args:
        rows: The rows.
        others: What they are compared with.
        count: How many of each; fewer where there are fewer others.
        own: Where each row stands among the others itself, which does not count.
        among: Which of the others count; the cosine with one that does not is -inf.

    Example:
        >>> from interp.sae.similarity import nearest_rows
        >>> rows = torch.tensor([[1.0, 0.0], [2.0, 0.0], [1.0, 1.0]])
        >>> nearest_rows(rows, rows, own=torch.arange(3))[1].flatten().tolist()
        [1, 0, 0]
    """
    count, columns, parts = min(count, len(others) - (own is not None)), normalize(others.float(), dim=1), []
    for start in range(0, len(rows), _BLOCK):
        cosine = normalize(rows[start : start + _BLOCK].float(), dim=1) @ columns.T
        if own is not None:
            cosine.scatter_(1, own[start : start + _BLOCK, None], -torch.inf)
        if among is not None:
            cosine.masked_fill_(~among, -torch.inf)
        parts.append(cosine.topk(count, dim=1))
    return torch.cat([part.values for part in parts]), torch.cat([part.indices for part in parts])


@dataclass(frozen=True)
class DecoderMatch:
    """For each latent of two autoencoders its nearest of the other by the cosine of decoder rows.

    Latents that do not fire are nobody's nearest, and are neither shared nor alone. A cosine counts as reaching a bound
    if it is below it by no more than `rounding`, the most that the rounding of two norms and of a product of so many
    entries can take from it (Higham 2002, section 3.1): the cosine of a row with itself may be below 1 by that.
    """

    cosines: tuple[Float[Tensor, "first"], Float[Tensor, "second"]]
    nearest: tuple[Int[Tensor, "first"], Int[Tensor, "second"]]
    fires: tuple[Bool[Tensor, "first"], Bool[Tensor, "second"]]
    rounding: float = 0.0

    def shared(self, least: float = SHARED) -> list[tuple[int, int, float]]:
        """Pairs that are each other's nearest, with at least this cosine, the most similar first."""
        there, back = self.nearest
        mutual = (back[there] == torch.arange(len(there))) & (self.cosines[0] >= least - self.rounding) & self.fires[0]
        pairs = [
            (first, int(there[first]), float(self.cosines[0][first])) for first in mutual.nonzero().flatten().tolist()
        ]
        return sorted(pairs, key=lambda pair: -pair[2])

    def alone(self, side: int, least: float = SHARED) -> list[tuple[int, float]]:
        """The latents of a side whose nearest has a lower cosine, with that cosine, the lowest first."""
        cosines = self.cosines[side]
        latents: list[int] = ((cosines < least - self.rounding) & self.fires[side]).nonzero().flatten().tolist()
        return sorted(((latent, float(cosines[latent])) for latent in latents), key=lambda pair: pair[1])


def match_decoders(
    first: SparseAutoencoder,
    second: SparseAutoencoder,
    first_fires: Bool[Tensor, "first"] | None = None,
    second_fires: Bool[Tensor, "second"] | None = None,
) -> DecoderMatch:
    """The nearest latents of two autoencoders, among those that fire, by default all.

    Raises where decoder rows have different widths.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, match_decoders
        >>> place, zero = (SiteColumns(site="resid_post.1", model=model.reference, width=192),), torch.zeros(192)
        >>> first, second = (
        ...     SparseAutoencoder(rows, zero[:4], rows, zero, TopK(k=1), place, place)
        ...     for rows in (torch.eye(192)[:4], torch.eye(192)[2:6])
        ... )
        >>> match_decoders(first, second).shared()
        [(2, 0, 1.0), (3, 1, 1.0)]
    """
    if first.d_out != second.d_out:
        raise InterpError(
            f"decoder rows have {first.d_out} and {second.d_out} entries; compare autoencoders of one model's site"
        )
    those, others = (
        torch.ones(x.d_sae, dtype=torch.bool) if fires is None else fires
        for x, fires in ((first, first_fires), (second, second_fires))
    )
    there = nearest_rows(first.W_dec, second.W_dec, among=others)
    back = nearest_rows(second.W_dec, first.W_dec, among=those)
    rounding = first.d_out * torch.finfo(there[0].dtype).eps
    return DecoderMatch((there[0][:, 0], back[0][:, 0]), (there[1][:, 0], back[1][:, 0]), (those, others), rounding)
