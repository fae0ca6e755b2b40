"""Which latents fire: the nonlinearity between an encoder's pre-activations and its latents, as data.

A kind is a small frozen record that is saved as it is. Each gives the code densely by a call, and sparsely.

TopK: Gao et al., "Scaling and evaluating sparse autoencoders" (2024), https://arxiv.org/abs/2406.04093.
"""

from typing import Literal, final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.config import Config


@final
class TopK(Config):
    """The k largest pre-activations of each token, those below zero set to zero."""

    kind: Literal["topk"] = "topk"
    k: int

    def sparse(self, pre: Float[Tensor, "*batch d_sae"]) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"]]:
        """Values of the k chosen latents, in no order, and which they are."""
        values, latents = pre.topk(self.k, dim=-1, sorted=False)
        return values.relu(), latents

    def __call__(self, pre: Float[Tensor, "*batch d_sae"]) -> Float[Tensor, "*batch d_sae"]:
        """All latents, zeros included."""
        values, latents = self.sparse(pre)
        return torch.zeros_like(pre).scatter(-1, latents, values)
