"""Which latents fire: the nonlinearity between an encoder's pre-activations and its latents, as data.

A trained autoencoder has one of two, whatever it was trained as (`kinds`): BatchTopK, gated and plain ReLU autoencoders
are all thresholds of some height. Each is a small frozen record that is saved as it is.

TopK: Gao et al., "Scaling and evaluating sparse autoencoders" (2024), https://arxiv.org/abs/2406.04093.
JumpReLU: Rajamanoharan et al., "Jumping ahead" (2024), https://arxiv.org/abs/2407.14435.
"""

from typing import Annotated, Literal, final

from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from interp.core.config import Config
from interp.core.errors import InterpError
from interp.sae.code import Code
from interp.sae.training.selection import above, largest


@final
class TopK(Config):
    """The k largest pre-activations of each token, those below zero set to zero."""

    kind: Literal["topk"] = "topk"
    k: int

    def code(self, pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, "d_sae"] | None) -> Code:
        """The k chosen latents of each token; those with 0 did not fire."""
        del threshold
        values, latents = largest(pre, self.k)
        return Code.of_rows(values.relu(), latents)


@final
class JumpReLU(Config):
    """Pre-activations above the latent's threshold, which is at least zero; the others are zero."""

    kind: Literal["jumprelu"] = "jumprelu"

    def code(self, pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, "d_sae"] | None) -> Code:
        """The latents that fire."""
        if threshold is None:
            raise InterpError("a jumprelu code needs the thresholds of its latents; expected one for each")
        values, tokens, latents = above(pre, threshold)
        return Code(values, latents, tokens, len(pre))


Nonlinearity = Annotated[TopK | JumpReLU, Field(discriminator="kind")]
