"""Ways to fit a direction to two sets of activations: each maps (positive, negative) to one row, towards positive.

- `diff_means`: the difference of the two means. Rimsky et al. 2023, "Steering Llama 2 via contrastive activation
  addition"; Marks and Tegmark 2023, "The geometry of truth".
- `diff_means_orthogonal`: that difference without its part along the negative side's mean. Lai 2025, "Projected
  abliteration". Projecting a direction out puts every input at zero along it, and zero is neutral only where the
  negative side's mean has no part along it.
- `logistic`: the weights of an L2-regularised logistic regression in the data's own coordinates, fitted by Newton's
  method in float64. Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
- `ridge`: the weights of a least-squares fit of the labels, in closed form. Hoerl and Kennard 1970, "Ridge regression".
- `lda`: the difference of means whitened by the covariance within the sides: Fisher's discriminant, which Marks and
  Tegmark use as the mass-mean probe. Fewer rows than d_model leave the covariance singular, so it is shrunk towards a
  multiple of the identity, by as much as Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation" (OAS).
- `pca`: the leading principal component of the differences between pairs, not centred. Zou et al. 2023,
  "Representation engineering".

All compute in float64 and raise where the activations determine no direction: `require_sides` says where that is so for
every method. A probe that reads a behaviour need not be what the model uses: intervene to find out.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError

FitFunction = Callable[[Tensor, Tensor], Tensor]


def require_sides(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m e_model"]) -> None:
    """Raise for an empty side, two widths, and entries that are not finite."""
    for name, side in (("positive", positive), ("negative", negative)):
        if not len(side):
            raise InterpError(f"the {name} side has no rows; a direction needs at least one a side")
        if bad := int((~torch.isfinite(side)).any(dim=1).sum()):
            raise InterpError(
                f"{bad} of {len(side)} {name} rows have NaN or infinite entries; check the model's dtype and its input"
            )
    if positive.shape[1] != negative.shape[1]:
        raise InterpError(f"the sides have widths {positive.shape[1]} and {negative.shape[1]}; expected one site's")


def diff_means(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Float[Tensor, "d_model"]:
    """Mean of the positive side minus mean of the negative side."""
    return _gap(positive, negative).float()


def diff_means_orthogonal(
    positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]
) -> Float[Tensor, "d_model"]:
    """The difference of means, orthogonal to the negative side's mean, which a projection thus leaves where it is.

    Raises where nothing is left, because the two means differ in length alone.
    """
    difference, origin = _gap(positive, negative), negative.double().mean(0)
    row = difference - origin * (difference @ origin / origin.square().sum().clamp(min=1e-30))
    if row.norm() <= 1e-9 * difference.norm():
        raise InterpError("the two sides' means differ in length alone; use diff_means, which needs no more than that")
    return row.float()


def logistic(
    positive: Float[Tensor, "n d_model"],
    negative: Float[Tensor, "m d_model"],
    penalty: float = 1.0,
    steps: int = 50,
) -> Float[Tensor, "d_model"]:
    """Weights of the logistic regression that minimises mean log loss + penalty / (2 n) |w|², intercept unpenalised.

    Features are divided by one scale, their root mean square deviation, so that the penalty means the same at any site.
    Raises if Newton's method has not converged after `steps`.
    """
    x, y = _labelled(positive, negative)
    design = torch.cat([x, x.new_ones(len(x), 1)], dim=1)
    ridge = torch.full((design.shape[1],), penalty / len(x), dtype=x.dtype)
    ridge[-1] = 0
    weights = x.new_zeros(design.shape[1])
    for _ in range(steps):
        p = torch.sigmoid(design @ weights)
        gradient = design.T @ (p - y) / len(x) + ridge * weights
        if gradient.abs().max() < 1e-8:
            return weights[:-1].float()
        curvature = (design.T * (p * (1 - p))) @ design / len(x) + torch.diag(ridge + 1e-12)
        # solve_ex does not raise where the weights have run off to infinity: the loop's end does.
        weights = weights - torch.linalg.solve_ex(curvature, gradient).result
    raise InterpError(
        f"the logistic probe did not converge in {steps} Newton steps (gradient {gradient.abs().max():.1e}); raise "
        "penalty"
    )


def ridge(
    positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"], penalty: float = 1.0
) -> Float[Tensor, "d_model"]:
    """Weights that minimise the squared error of the labels (1 and 0) + penalty |w|², intercept unpenalised.

    Features are scaled as for `logistic`. Raises for a penalty of 0 on collinear features, which leaves many solutions.
    """
    if penalty < 0:
        raise InterpError(f"penalty is {penalty}; expected 0 or more")
    x, y = _labelled(positive, negative)
    if penalty == 0 and (rank := int(torch.linalg.matrix_rank(x))) < x.shape[1]:
        raise InterpError(
            f"the {x.shape[1]} features are collinear (rank {rank} on {len(x)} rows), so least squares has many "
            "solutions; give a penalty above 0"
        )
    return _solved(x, x.T @ (y - y.mean()), penalty).float()


def lda(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Float[Tensor, "d_model"]:
    """The difference of means times the inverse of the shrunk covariance within the sides.

    The shrinkage takes the rows to be independent; those of a pair are not quite, which makes it a little too weak.
    Raises where neither side varies.
    """
    difference = _gap(positive, negative)
    x = torch.cat([side.double() - side.double().mean(0) for side in (positive, negative)])
    n, d = x.shape
    mean_variance = x.square().sum() / (n * d)
    if mean_variance <= 1e-24 * difference.square().mean():
        raise InterpError("neither side varies, so there is no covariance to whiten by; use diff_means")
    square = (_small_gram(x) / n).square().sum() / d**2  # the mean squared entry of the covariance
    excess = (n + 1) * (square - mean_variance.square() / d)
    shrinkage = min(1.0, float((square + mean_variance.square()) / excess)) if excess > 0 else 1.0  # eq. 23
    if shrinkage == 1:
        return difference.float()
    per_row = n / (1 - shrinkage)
    return (per_row * _solved(x, difference, shrinkage * float(mean_variance) * per_row)).float()


def pca(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Float[Tensor, "d_model"]:
    """The unit vector with the largest mean squared product with the pairs' differences; their mean gives its sign.

    Raises for sides that are not paired, differences that are all zero, and two components that are equally large.
    """
    require_sides(positive, negative)
    if len(positive) != len(negative):
        raise InterpError(f"pca needs pairs; got {len(positive)} positive and {len(negative)} negative rows")
    x = positive.double() - negative.double()
    if not x.any():
        raise InterpError(f"all {len(x)} differences are zero; choose a site and position at which the sides differ")
    values, vectors = torch.linalg.eigh(_small_gram(x))
    if len(values) > 1 and values[-2] >= (1 - 1e-9) * values[-1]:
        raise InterpError(
            "the differences have two leading components of one size, so none leads; give more pairs, or use diff_means"
        )
    row = vectors[:, -1] if len(values) == x.shape[1] else x.T @ vectors[:, -1]
    row = row / row.norm()
    return (row if x.mean(0) @ row >= 0 else -row).float()


def _gap(positive: Tensor, negative: Tensor) -> Tensor:
    require_sides(positive, negative)
    difference = positive.double().mean(0) - negative.double().mean(0)
    if not difference.any():
        raise InterpError(
            "the two sides have equal means, so their difference gives no direction; check that the pairs differ in "
            "what the contrast is about"
        )
    return difference


def _labelled(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Features, centred and divided by their root mean square deviation, and labels."""
    require_sides(positive, negative)
    x = torch.cat([positive, negative]).double()
    y = torch.cat([x.new_ones(len(positive)), x.new_zeros(len(negative))])
    centred = x - x.mean(0)
    scale = centred.square().mean().sqrt()
    if scale <= 1e-12 * x.abs().max():
        raise InterpError(
            f"every feature is constant over all {len(x)} rows, so nothing can be fitted; choose a site and position "
            "at which the sides differ"
        )
    return centred / scale, y


def _small_gram(x: Float[Tensor, "n d_model"]) -> Float[Tensor, "k k"]:
    """Products of rows or of columns, whichever are fewer: both have the same eigenvalues but for zeros."""
    return x @ x.T if len(x) < x.shape[1] else x.T @ x


def _solved(x: Float[Tensor, "n d_model"], target: Float[Tensor, "d_model"], add: float) -> Float[Tensor, "d_model"]:
    """w for which (xᵀx + add I) w = target; with fewer rows than columns by Woodbury's identity."""
    gram = _small_gram(x)
    gram.diagonal().add_(add)
    if len(x) >= x.shape[1]:
        return torch.linalg.solve(gram, target)
    return (target - x.T @ torch.linalg.solve(gram, x @ target)) / add


FITS: dict[str, FitFunction] = {
    fit.__name__: fit for fit in (diff_means, diff_means_orthogonal, logistic, ridge, lda, pca)
}
