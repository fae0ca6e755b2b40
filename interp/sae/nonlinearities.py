"""Which latents fire: the nonlinearity between an encoder's pre-activations and its latents, as data.

A trained autoencoder has TopK or JumpReLU. Every other kind of training (`interp.sae.training.kinds`) ends in one of
them: BatchTopK, gated and plain ReLU autoencoders have thresholds, as JumpReLU has. Both are small frozen records.

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
from interp.sae.compiled.selection import above, largest


@final
class TopK(Config):
    """Keep the k largest pre-activations of each token; negative ones become zero.

    Example:
        >>> from interp.sae import TopK
        >>> TopK(k=2).code(torch.tensor([[1.0, -1.0, 3.0, 2.0]]), None).dense(4)
        tensor([[0., 0., 3., 2.]])
    """

    kind: Literal["topk"] = "topk"
    k: int = Field(ge=0, description="number of latents chosen per token")

    def code(self, pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, "d_sae"] | None) -> Code:
        """The k chosen latents of each token; those of value 0 did not fire."""
        values, latents = largest(pre, self.k)
        return Code.of_rows(values.relu(), latents)


@final
class JumpReLU(Config):
    """Keep pre-activations above the latent's threshold, which is at least zero; the others become zero.

    Example:
        >>> from interp.sae import JumpReLU
        >>> JumpReLU().code(torch.tensor([[1.0, 0.5, 3.0]]), torch.tensor([0.0, 1.0, 1.0])).dense(3)
        tensor([[1., 0., 3.]])
    """

    kind: Literal["jumprelu"] = "jumprelu"

    def code(self, pre: Float[Tensor, "token d_sae"], threshold: Float[Tensor, "d_sae"] | None) -> Code:
        """The latents that fire."""
        if threshold is None:
            raise InterpError("a jumprelu code needs thresholds; expected one for each latent")
        return Code(*above(pre, threshold), len(pre))


Nonlinearity = Annotated[TopK | JumpReLU, Field(discriminator="kind")]
