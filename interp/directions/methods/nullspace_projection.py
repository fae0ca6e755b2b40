"""Iterative nullspace projection: fit a probe, project its directions out, and repeat until no probe reads the concept.

Ravfogel et al. 2020, "Null it out: guarding protected attributes by iterative nullspace projection",
https://arxiv.org/abs/2004.07667. The probe is a ridge regression, in closed form. Whether it still reads the concept is
measured on held-out rows, by the AUROC of each class: by accuracy, no probe of a rare class would be above chance.

Limitations: other information goes with the directions. `ErasureFitter` erases the same concept with one direction per
concept; this method removes many, and is meant for comparison.
"""

from math import erfc, sqrt

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.linalg import project_out
from interp.directions.methods.closed_form import solve_ridge
from interp.directions.methods.erasure import LEVEL, Eraser, NothingToErase, concept_columns, finite_rows
from interp.directions.scores import auroc


def inlp(
    x: Float[Tensor, "batch d_model"],
    z: Int[Tensor, "rows"],
    rounds: int = 50,
    penalty: float = 1e-3,
    held_out: float = 0.3,
    level: float = LEVEL,
    seed: int = 0,
) -> Eraser:
    """Project out the directions of ridge probes, round by round, until held-out rows are read at chance.

    Args:
        x: Activations, (batch, d_model).
        z: The class of each row, (batch,) integers from 0.
        rounds: Rounds after which to give up.
        penalty: Of the ridge probe, as a share of the mean variance.
        held_out: Share of the rows that is kept for the test.
        level: Rows are read at chance where no class's AUROC is above 0.5, significant at this level over all classes.
        seed: Draws the split.

    Returns:
        An orthogonal projection.

    Raises:
        NothingToErase: Held-out rows are read at chance from the start.
        InterpError: They are still read after `rounds`, a setting is out of range, or a part has only one class.

    Example:
        >>> z = torch.arange(200) % 2
        >>> x = torch.randn(200, 4) + 3 * z[:, None]
        >>> eraser = interp.directions.inlp(x, z)
        >>> eraser.method, eraser.statistics["p_after"] > 0.001
        ('inlp', True)
    """
    if rounds < 0 or not penalty > 0 or not 0 < level <= 1:
        settings = f"rounds is {rounds}, penalty {penalty}, level {level}"
        raise InterpError(f"{settings}; expected 0 or more, above 0, and above 0 to 1")
    n_classes = int(z.max()) + 1 if z.numel() else 1
    wide, onehot = finite_rows(x, "activations").cpu(), concept_columns(z, len(x), n_classes).cpu()
    fit, test = _split(onehot, held_out, seed)
    mean, rows = wide[fit].mean(0), wide.new_zeros(0, x.shape[1])
    for done in range(rounds + 1):
        remainder = _remainder(wide - mean, rows)
        probe = _ridge_weights(remainder[fit], onehot[fit], penalty)
        area, p = _best_read_class(remainder[test] @ probe, onehot[test])
        if p > level:
            break
        if done < rounds:
            rows = _with_span(rows, probe)
    if p <= level:
        raise InterpError(f"after {rounds} rounds held-out rows are still read (p = {p:.1g}); raise rounds")
    if not len(rows):
        raise NothingToErase(f"held-out rows are read at chance (p = {p:.2g}); give more rows, or a weaker level")
    displaced = float(((wide - mean) @ rows.T).square().sum() / (wide - mean).square().sum())
    statistics = {"level": level, "p_after": p, "auroc": area, "displaced": displaced}
    return Eraser(rows, rows, mean, "inlp", len(fit), statistics)


def _split(onehot: Float[Tensor, "batch classes"], held_out: float, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of rows to fit on and to hold out. Raises unless each part has rows of two classes."""
    order = torch.randperm(len(onehot), generator=torch.Generator().manual_seed(seed))
    cut = round(len(onehot) * (1 - held_out))
    parts = order[:cut], order[cut:]
    for part in parts:
        if int(onehot[part].any(0).sum()) < 2:
            raise InterpError(f"the {len(part)} rows to fit on or to hold out are not of two classes; give more rows")
    return parts


def _remainder(
    centred: Float[Tensor, "batch d_model"], rows: Float[Tensor, "k d_model"]
) -> Float[Tensor, "batch d_model"]:
    """The part orthogonal to the rows; zero where it is rounding error, from which a probe could still read."""
    remainder = project_out(centred, rows)
    return remainder if remainder.norm() > 1e-9 * centred.norm() else torch.zeros_like(remainder)


def _ridge_weights(
    x: Float[Tensor, "batch d_model"], z: Float[Tensor, "batch k"], penalty: float
) -> Float[Tensor, "d_model k"]:
    """The weights of a ridge regression of z on x, which is centred."""
    scatter = max(float(x.square().sum()) / x.shape[1], 1e-30)
    return solve_ridge(x, x.T @ (z - z.mean(0)), penalty * scatter)


def _best_read_class(scores: Float[Tensor, "batch k"], z: Float[Tensor, "batch k"]) -> tuple[float, float]:
    """AUROC of the class that is read best, and its p-value among k classes (Mann-Whitney test, Bonferroni)."""
    tests = []
    for score, is_class in zip(scores.T, z.T.bool(), strict=True):
        n, m = int(is_class.sum()), int((~is_class).sum())
        if n and m:
            area = auroc(score[is_class], score[~is_class])
            tests.append((erfc((area - 0.5) / sqrt((n + m + 1) / (6 * n * m))) / 2, area))
    p, area = min(tests)
    return area, min(1.0, p * len(tests))


def _with_span(rows: Float[Tensor, "k d_model"], probe: Float[Tensor, "d_model c"]) -> Float[Tensor, "more d_model"]:
    """Orthonormal rows that span the probe's directions as well."""
    new, size, _ = torch.linalg.svd(project_out(probe.T, rows).T, full_matrices=False)
    return torch.cat([rows, new[:, size > 1e-9 * size[0]].T])
