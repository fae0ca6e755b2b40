"""Closed-form fits of a direction to two sets of activations: each maps (positive, negative) to one row.

- `diff_means`: the difference of the two means. Rimsky et al. 2023, "Steering Llama 2 via contrastive activation
  addition"; Marks and Tegmark 2023, "The geometry of truth".
- `diff_means_orthogonal`: that difference without its component along the negative side's mean. Lai 2025, "Projected
  abliteration". Projecting a direction out sets every activation to zero along it, and zero is neutral only where the
  negative side's mean is orthogonal to the direction.
- `logistic`: the weights of an L2-regularised logistic regression in the data's own coordinates, fitted by Newton's
  method in float64. Alain and Bengio 2016, "Understanding intermediate layers using linear classifier probes".
- `ridge`: the weights of a least-squares fit of the labels, in closed form. Hoerl and Kennard 1970, "Ridge regression".
- `lda`: the difference of means whitened by the covariance within the sides: Fisher's discriminant, which Marks and
  Tegmark use as the mass-mean probe. Fewer rows than d_model leave the covariance singular, so it is shrunk towards a
  multiple of the identity, by as much as Chen et al. 2010, "Shrinkage algorithms for MMSE covariance estimation" (OAS).
- `pca`: the leading principal component of the differences between pairs, not centred. Zou et al. 2023,
  "Representation engineering".

All rows point towards the positive side. All methods compute in float64, and raise InterpError where the activations
determine no direction: an empty side, two widths, entries that are not finite (`require_sides`), or sides that do not
differ.

Limitations: a probe that reads a behaviour need not be what the model uses. Intervene to find out.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from pydantic import NonNegativeFloat, PositiveInt
from torch import Tensor

from interp.core.errors import InterpError

FitFunction = Callable[[Tensor, Tensor], Tensor]


def require_sides(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m e_model"]) -> None:
    """Raise for an empty side, for sides of two widths, and for entries that are not finite."""
    for name, side in (("positive", positive), ("negative", negative)):
        if not len(side):
            raise InterpError(f"the {name} side has no rows; a direction needs at least one row per side")
        if bad := int((~torch.isfinite(side)).any(dim=1).sum()):
            raise InterpError(f"{bad} of {len(side)} {name} rows have NaN or infinite entries; check the model's dtype")
    if positive.shape[1] != negative.shape[1]:
        raise InterpError(f"the sides have widths {positive.shape[1]} and {negative.shape[1]}; expected one site's")


def diff_means(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Float[Tensor, "d_model"]:
    """The mean of the positive side minus the mean of the negative side.

    Args:
        positive: Activations of the side that shows the behaviour, (n, d_model).
        negative: Activations of the other side, (m, d_model).

    Returns:
        The difference, (d_model,), not normalised.

    Raises:
        InterpError: The means are equal, or a side is empty or not finite.

    Example:
        >>> positive, negative = torch.tensor([[2.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        >>> interp.directions.diff_means(positive, negative)
        tensor([2., 0.])
    """
    return _mean_difference(positive, negative).float()


def diff_means_orthogonal(
    positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]
) -> Float[Tensor, "d_model"]:
    """The difference of means, orthogonal to the negative side's mean, which a projection thus leaves unchanged.

    Raises where nothing is left, because the two means differ in length only.
    """
    difference, mean = _mean_difference(positive, negative), negative.double().mean(0)
    row = difference - mean * (difference @ mean / mean.square().sum().clamp(min=1e-30))
    if row.norm() <= 1e-9 * difference.norm():
        raise InterpError("the two sides' means differ in length alone; use diff_means")
    return row.float()


def logistic(
    positive: Float[Tensor, "n d_model"],
    negative: Float[Tensor, "m d_model"],
    penalty: NonNegativeFloat = 1.0,
    steps: PositiveInt = 50,
) -> Float[Tensor, "d_model"]:
    """The weights of an L2-regularised logistic regression.

    They minimise mean log loss + penalty / (2 n) |w|²; the intercept is not penalised. Features are divided by their
    root mean square deviation, one number, so that a penalty means the same at every site.

    Args:
        positive: Activations of the side that shows the behaviour, (n, d_model).
        negative: Activations of the other side, (m, d_model).
        penalty: Strength of the regularisation.
        steps: Newton steps after which to give up.

    Returns:
        The weights, (d_model,).

    Raises:
        InterpError: Newton's method has not converged, or nothing varies.

    Example:
        >>> positive, negative = torch.tensor([[2.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        >>> weights = interp.directions.logistic(positive, negative)
        >>> bool(weights[0] > 0), round(float(weights[1]), 6) == 0
        (True, True)
    """
    x, y = _scaled_features(positive, negative)
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
        # Where the weights diverge, solve_ex does not raise; the end of the loop does.
        weights = weights - torch.linalg.solve_ex(curvature, gradient).result
    left = float(gradient.abs().max())
    raise InterpError(f"the probe did not converge in {steps} Newton steps (gradient {left:.1e}); raise penalty")


def ridge(
    positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"], penalty: NonNegativeFloat = 1.0
) -> Float[Tensor, "d_model"]:
    """The weights of a ridge regression of the labels, 1 and 0.

    They minimise the squared error + penalty |w|², the intercept unpenalised. Features are scaled as for `logistic`.

    Args:
        positive: Activations of the side that shows the behaviour, (n, d_model).
        negative: Activations of the other side, (m, d_model).
        penalty: Strength of the regularisation, 0 or more.

    Returns:
        The weights, (d_model,).

    Raises:
        InterpError: The penalty is below 0, or is 0 on collinear features, where many solutions are equally good.

    Example:
        >>> positive, negative = torch.tensor([[2.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        >>> [round(weight, 3) for weight in interp.directions.ridge(positive, negative).tolist()]
        [0.4, 0.0]
    """
    if penalty < 0:
        raise InterpError(f"penalty is {penalty}; expected 0 or more")
    x, y = _scaled_features(positive, negative)
    if penalty == 0 and (rank := int(torch.linalg.matrix_rank(x))) < x.shape[1]:
        raise InterpError(f"{x.shape[1]} features are collinear (rank {rank} on {len(x)} rows); give a penalty above 0")
    return solve_ridge(x, x.T @ (y - y.mean()), penalty).float()


def lda(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Float[Tensor, "d_model"]:
    """Fisher's linear discriminant: the inverse of the shrunk covariance within the sides, times the mean difference.

    Args:
        positive: Activations of the side that shows the behaviour, (n, d_model).
        negative: Activations of the other side, (m, d_model).

    Returns:
        The row, (d_model,), not normalised.

    Raises:
        InterpError: Neither side varies, or the means are equal.

    Limitations:
        The shrinkage assumes independent rows. The two rows of a pair are not quite independent, which makes it a
        little too weak.

    Example:
        >>> noise = torch.randn(500, 2) * torch.tensor([1.0, 10.0])
        >>> row = interp.directions.lda(noise[:250] + 1, noise[250:] - 1)
        >>> bool(row[0] > 5 * row[1].abs())
        True
    """
    difference = _mean_difference(positive, negative)
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
    return (per_row * solve_ridge(x, difference, shrinkage * float(mean_variance) * per_row)).float()


def pca(positive: Float[Tensor, "n d_model"], negative: Float[Tensor, "m d_model"]) -> Float[Tensor, "d_model"]:
    """The leading principal component of the differences between pairs, not centred.

    Args:
        positive: Activations of the side that shows the behaviour, (pairs, d_model).
        negative: Activations of the other side, row by row the partners of `positive`.

    Returns:
        A unit vector, (d_model,). The mean difference decides its sign.

    Raises:
        InterpError: The sides have different lengths, all differences are zero, or two components are equally large.

    Example:
        >>> positive, negative = torch.tensor([[2.0, 1.0], [2.0, 3.0]]), torch.tensor([[0.0, 1.0], [0.0, 3.0]])
        >>> interp.directions.pca(positive, negative)
        tensor([1., 0.])
    """
    require_sides(positive, negative)
    if len(positive) != len(negative):
        raise InterpError(f"pca needs pairs; got {len(positive)} positive and {len(negative)} negative rows")
    x = positive.double() - negative.double()
    if not x.any():
        raise InterpError(f"all {len(x)} differences are zero; choose a site and position at which the sides differ")
    values, vectors = torch.linalg.eigh(_small_gram(x))
    if len(values) > 1 and values[-2] >= (1 - 1e-9) * values[-1]:
        raise InterpError("the differences have two leading components of one size; give more pairs, or use diff_means")
    row = vectors[:, -1] if len(values) == x.shape[1] else x.T @ vectors[:, -1]
    row = row / row.norm()
    return (row if x.mean(0) @ row >= 0 else -row).float()


def _mean_difference(positive: Tensor, negative: Tensor) -> Tensor:
    require_sides(positive, negative)
    difference = positive.double().mean(0) - negative.double().mean(0)
    if not difference.any():
        raise InterpError("the two sides have equal means, which give no direction; check how the pairs differ")
    return difference


def _scaled_features(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """Features, centred and divided by their root mean square deviation, and labels."""
    require_sides(positive, negative)
    x = torch.cat([positive, negative]).double()
    y = torch.cat([x.new_ones(len(positive)), x.new_zeros(len(negative))])
    centred = x - x.mean(0)
    scale = centred.square().mean().sqrt()
    if scale <= 1e-12 * x.abs().max():
        raise InterpError(f"every feature is constant over all {len(x)} rows; choose a site where the sides differ")
    return centred / scale, y


def _small_gram(x: Float[Tensor, "n d_model"]) -> Float[Tensor, "k k"]:
    """The Gram matrix of rows or of columns, whichever are fewer: both have the same nonzero eigenvalues."""
    return x @ x.T if len(x) < x.shape[1] else x.T @ x


def solve_ridge(
    x: Float[Tensor, "n d_model"], target: Float[Tensor, "d_model *k"], penalty: float
) -> Float[Tensor, "d_model *k"]:
    """The solution w of (xᵀx + penalty I) w = target; with fewer rows than columns by Woodbury's identity."""
    gram = _small_gram(x)
    gram.diagonal().add_(penalty)
    if len(x) >= x.shape[1]:
        return torch.linalg.solve(gram, target)
    return (target - x.T @ torch.linalg.solve(gram, x @ target)) / penalty


FITS: dict[str, FitFunction] = {
    fit.__name__: fit for fit in (diff_means, diff_means_orthogonal, logistic, ridge, lda, pca)
}
