"""Ways to fit a direction to two sets of activations: each maps (positive, negative) to one row, towards positive.

- `diff_means`: the difference of the two means. Rimsky et al. 2023, "Steering Llama 2 via contrastive activation
  addition"; Marks and Tegmark 2023, "The geometry of truth".
- `diff_means_orthogonal`: that difference without its part along the negative side's mean. Lai 2025, "Projected
  abliteration". Projecting a direction out puts every input at zero along it, and zero is neutral only where the
  negative side's mean has no part along it.
- `logistic`: the weights of an L2-regularised logistic regression in the data's own coordinates, fitted by Newton's
  method in float64. Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".

A probe that reads a behaviour need not be what the model uses: intervene to find out.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError

Fit = Callable[[Tensor, Tensor], Tensor]


def diff_means(
    positive: Float[Tensor, "batch d_model"], negative: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "d_model"]:
    """Mean of the positive side minus mean of the negative side."""
    return (positive.double().mean(0) - negative.double().mean(0)).float()


def diff_means_orthogonal(
    positive: Float[Tensor, "batch d_model"], negative: Float[Tensor, "batch d_model"]
) -> Float[Tensor, "d_model"]:
    """The difference of means, orthogonal to the negative side's mean, which a projection thus leaves where it is.

    Raises where nothing is left, because the two means differ in length alone.
    """
    origin = negative.double().mean(0)
    difference = positive.double().mean(0) - origin
    row = difference - origin * (difference @ origin / origin.square().sum().clamp(min=1e-30))
    if row.norm() <= 1e-9 * difference.norm():
        raise InterpError("the two sides' means differ in length alone; use diff_means, which needs no more than that")
    return row.float()


def logistic(
    positive: Float[Tensor, "batch d_model"],
    negative: Float[Tensor, "batch d_model"],
    penalty: float = 1.0,
    steps: int = 50,
) -> Float[Tensor, "d_model"]:
    """Weights of the logistic regression that minimises mean log loss + penalty / (2 n) |w|², intercept unpenalised.

    Features are divided by one scale, their root mean square deviation, so that the penalty means the same at any site.
    Raises if Newton's method has not converged after `steps`.
    """
    x = torch.cat([positive, negative]).double()
    y = torch.cat([x.new_ones(len(positive)), x.new_zeros(len(negative))])
    x = x - x.mean(0)
    scale = x.square().mean().sqrt().clamp(min=1e-12)
    design = torch.cat([x / scale, x.new_ones(len(x), 1)], dim=1)
    ridge = torch.full((design.shape[1],), penalty / len(x), dtype=x.dtype)
    ridge[-1] = 0
    weights = x.new_zeros(design.shape[1])
    for _ in range(steps):
        p = torch.sigmoid(design @ weights)
        gradient = design.T @ (p - y) / len(x) + ridge * weights
        if gradient.abs().max() < 1e-8:
            return weights[:-1].float()
        curvature = (design.T * (p * (1 - p))) @ design / len(x) + torch.diag(ridge + 1e-12)
        weights = weights - torch.linalg.solve(curvature, gradient)
    raise InterpError(
        f"the logistic probe did not converge in {steps} Newton steps (gradient {gradient.abs().max():.1e}); raise "
        "penalty"
    )


FITS: dict[str, Fit] = {fit.__name__: fit for fit in (diff_means, diff_means_orthogonal, logistic)}
