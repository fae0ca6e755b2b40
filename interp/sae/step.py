"""One gradient of the TopK objective, by hand, at the cost of the encoder's product and little else.

    loss = |x - x_hat|^2 / |x - mean(x)|^2 + aux_weight |e - e_hat|^2 / |e|^2,   e = x - x_hat held constant

where e_hat is decoded from the `aux_k` largest dead latents alone (Gao et al. 2024, section 2.2), so that
dead latents learn what the living leave unexplained. Sums run over the batch.

1. Pre-activations are dense and are made a few hundred rows at a time; only the chosen values outlive their
   rows.
2. Decoding and every gradient touch chosen latents alone. A weight's gradient is a bag of tokens for each
   latent, the transposed incidence, so each latent's row is written once.
3. `compute` may be bfloat16 for the products; errors and the weights themselves stay float32.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import embedding_bag, linear, normalize

_ROWS = 512


@dataclass(frozen=True)
class Weights:
    """The trained tensors, or their gradients. Inputs are standardised, so the encoder subtracts nothing."""

    W_enc: Float[Tensor, "d_sae d_in"]
    b_enc: Float[Tensor, "d_sae"]
    W_dec: Float[Tensor, "d_sae d_in"]
    b_dec: Float[Tensor, "d_in"]

    @classmethod
    def initial(cls, d_sae: int, d_in: int, seed: int) -> "Weights":
        """Random unit rows, the same in encoder and decoder; no biases."""
        rows = normalize(torch.randn(d_sae, d_in, generator=torch.Generator().manual_seed(seed)), dim=1)
        return cls(rows.clone(), torch.zeros(d_sae), rows, torch.zeros(d_in))

    @property
    def tensors(self) -> list[Tensor]:
        """The four tensors."""
        return [self.W_enc, self.b_enc, self.W_dec, self.b_dec]


@dataclass(frozen=True)
class Auxiliary:
    """The auxiliary loss: the dead latents, how many of them decode the residual, and its weight."""

    dead: Int[Tensor, "n_dead"]
    k: int
    weight: float


@dataclass(frozen=True)
class Step:
    """A batch's fraction of variance unexplained, loss, gradients, and tokens that each latent fired on."""

    fvu: Float[Tensor, ""]
    loss: Float[Tensor, ""]
    gradients: Weights
    fired: Int[Tensor, "d_sae"]


@dataclass(frozen=True)
class _Code:
    values: Float[Tensor, "batch k"]
    latents: Int[Tensor, "batch k"]


@torch.no_grad()
def gradients(
    weights: Weights,
    x: Float[Tensor, "batch d_in"],
    k: int,
    aux: Auxiliary | None = None,
    compute: torch.dtype = torch.float32,
) -> Step:
    """Loss and gradients for a batch of standardised activations."""
    low = Weights(*(tensor.to(compute) for tensor in weights.tensors))
    inputs = x.to(compute)
    main, dead = _encode(low, inputs, k, aux)
    scale = 1 / (x - x.mean(0)).square().sum()
    error, found = _branch(low, inputs, main, x - weights.b_dec, float(scale))
    fvu = loss = scale * error.square().sum()
    if aux is not None and dead is not None:
        scale = aux.weight / error.square().sum()
        missed, extra = _branch(low, inputs, dead, -error, float(scale))
        loss = fvu + scale * missed.square().sum()
        found = Weights(found.W_enc + extra.W_enc, found.b_enc + extra.b_enc, found.W_dec + extra.W_dec, found.b_dec)
    fired = torch.bincount(main.latents[main.values > 0], minlength=len(weights.b_enc))
    return Step(fvu, loss, found, fired)


def _encode(low: Weights, x: Tensor, k: int, aux: Auxiliary | None) -> tuple[_Code, _Code | None]:
    """The k largest latents of each row, and the largest dead ones if they are asked for."""
    main, dead = [], []
    for rows in x.split(_ROWS):
        pre = linear(rows, low.W_enc, low.b_enc)
        main.append(pre.topk(k, sorted=False))
        if aux is not None:
            values, index = pre[:, aux.dead].topk(min(aux.k, len(aux.dead)), sorted=False)
            dead.append((values, aux.dead[index]))
    return _code(main), _code(dead) if dead else None


def _code(parts: Sequence[tuple[Tensor, Tensor]]) -> _Code:
    values, latents = zip(*parts, strict=True)
    return _Code(torch.cat(values).relu_(), torch.cat(latents))


def _branch(low: Weights, x: Tensor, code: _Code, target: Tensor, scale: float) -> tuple[Tensor, Weights]:
    """The error of decoding a code towards a target, and the gradients of scale * |error|^2."""
    with torch.enable_grad():
        values = code.values.requires_grad_()
        decoded = embedding_bag(code.latents, low.W_dec, per_sample_weights=values, mode="sum")
    error = decoded.detach().float() - target
    pull = 2 * scale * error
    (d_values,) = torch.autograd.grad(decoded, values, pull.to(low.W_dec.dtype))
    d_values *= values > 0
    return error, _weight_gradients(code, d_values, x, pull, len(low.b_enc))


def _weight_gradients(code: _Code, d_values: Tensor, x: Tensor, pull: Tensor, d_sae: int) -> Weights:
    latents, k = code.latents.flatten(), code.latents.shape[1]
    order = latents.argsort(stable=True)
    tokens = order.div(k, rounding_mode="floor")
    counts = torch.bincount(latents, minlength=d_sae)
    bags = counts.cumsum(0) - counts

    def bag(rows: Tensor, per_code: Tensor) -> Tensor:
        return embedding_bag(tokens, rows, bags, per_sample_weights=per_code.flatten()[order], mode="sum").float()

    return Weights(
        W_enc=bag(x, d_values),
        b_enc=torch.zeros(d_sae).index_add_(0, latents, d_values.flatten().float()),
        W_dec=bag(pull.to(x.dtype), code.values.detach()),
        b_dec=pull.sum(0),
    )
