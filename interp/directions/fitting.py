"""The methods that fit a direction, each under one name, as `find`, recipe files and sweeps take them.

| name | fits | from |
|---|---|---|
| diff_means, diff_means_orthogonal, logistic, ridge, lda, pca | a row, in closed form | both sides' activations |
| leace, sal, inlp | an eraser, and the rows that it reads | both sides' activations |
| sae_latent | the latent that separates best | both sides' activations, an autoencoder |
| sae_latent_attribution | the latent with the largest share in the margin | two answers to one prompt, the same |
| steering_vector | a vector trained by preference optimisation | two answers to one prompt |
| steering_margin | a vector trained on the margin of the two sides | answers, or else whole texts |
| reft_r1 | a row that detects and steers, trained | answers, or else whole texts |
| unsupervised | the vector that changes the last layer most, without labels | whole texts |

`CLOSED_FORM` are the six of the first line. `TRAINED` are those that run the model forwards and backwards, for seconds
to minutes at each site.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import Displayed, plural
from interp.core.errors import InterpError, nearest
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import Sides, capture_sides
from interp.directions.direction import Direction, residual_site
from interp.directions.methods.closed_form import FITS, diff_means
from interp.directions.methods.erasure import Eraser, ErasureFitter
from interp.directions.methods.latents import SAE_LATENT, BySeparation, attributions
from interp.directions.methods.nullspace_projection import inlp
from interp.directions.methods.reft import reft_r1
from interp.directions.methods.steering_vectors import steering_vector
from interp.directions.methods.unsupervised_candidates import unsupervised
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder


@dataclass(frozen=True)
class Fitted(Displayed):
    """A direction as a method fitted it.

    Args:
        direction: The direction; after an eraser was fitted, the rows that it reads.
        eraser: The eraser, for leace, sal and inlp.
        latent: The number of the latent, where the direction is a latent's decoder row.

    Example:
        >>> fitted = interp.directions.fit_direction(model, contrast, "sal", "resid_post.3")
        >>> fitted.eraser.method, len(fitted.direction.rows)
        ('sal', 1)
    """

    direction: Direction
    eraser: Eraser | None = None
    latent: int | None = None


class FitInput(NamedTuple):
    """What a method may use: the model, the pairs, and their activations at one site and position.

    The autoencoder is for methods that choose a latent, the rank for those that fit several rows, and the seed for what
    is drawn.
    """

    method: str
    model: HookedModel
    contrast: Contrast
    site: Site
    position: int
    sides: Sides
    sae: SparseAutoencoder | None = None
    rank: int = 1
    seed: int = 0

    @property
    def coder(self) -> SparseAutoencoder:
        """The autoencoder. Raises where there is none, or one of another site."""
        if self.sae is None:
            raise InterpError("it chooses a latent; give an autoencoder of the site (sae)")
        if self.sae.site != self.site:
            raise InterpError(f"the autoencoder is of {self.sae.site}, not of {self.site}")
        return self.sae

    @property
    def norm(self) -> float:
        """How far the two sides' means are apart: the length of vectors that are trained."""
        return float(diff_means(*self.sides).norm())

    def fitted(
        self, rows: Float[Tensor, "k d_model"], eraser: Eraser | None = None, latent: int | None = None
    ) -> Fitted:
        """The rows as a direction with its origin."""
        if len(rows) < self.rank:
            raise InterpError(f"{self.method} has {plural(len(rows), 'row')} here, not {self.rank}; lower the rank")
        means = None if self.method in SAE_METHODS else torch.stack([side.mean(0) for side in self.sides])
        origin = self.site, self.position, self.method, self.model.reference, self.contrast.digest
        return Fitted(Direction(rows, *origin, means=means), eraser, latent)


FitMethod = Callable[[FitInput], Fitted]


def _closed_form(given: FitInput) -> Fitted:
    return given.fitted(FITS[given.method](*given.sides)[None])


def _pca(given: FitInput) -> Fitted:
    differences = (given.sides.positive - given.sides.negative).double()
    rows = torch.linalg.svd(differences, full_matrices=False).Vh[1 : given.rank] if given.rank > 1 else differences[:0]
    return given.fitted(torch.cat([FITS["pca"](*given.sides)[None], rows.float()]))


def _erasing(fit: Callable[[FitInput, Tensor, Tensor], Eraser]) -> FitMethod:
    """An eraser of which side a row is on, its first row towards the positive side."""

    def fitted(given: FitInput) -> Fitted:
        sides = torch.tensor([1, 0]).repeat_interleave(torch.tensor([len(side) for side in given.sides]))
        eraser = fit(given, torch.cat([*given.sides]), sides)
        gap = given.sides.positive.double().mean(0) - given.sides.negative.double().mean(0)
        sign = -1 if eraser.read[0] @ gap < 0 else 1
        eraser = replace(eraser, read=sign * eraser.read, write=sign * eraser.write, model=given.model.reference)
        return given.fitted(eraser.read.float(), eraser)

    return fitted


def _covariance(x: Tensor, sides: Tensor) -> ErasureFitter:
    return ErasureFitter(x.shape[1], 2).update(x, sides)


def _sae_latent(given: FitInput) -> Fitted:
    fit = BySeparation(given.coder)
    latent = fit.latent(given.sides)
    return given.fitted(fit.row(latent)[None], latent=latent)


def _attributed_latent(given: FitInput) -> Fitted:
    shares = attributions(given.model, given.coder, given.contrast)
    best = shares.topk(min(given.rank, len(shares)))
    if best.values[-1] <= 0:
        raise InterpError(f"fewer than {plural(given.rank, 'latent')} favour the positive answers")
    latent = int(best.indices[0]) if given.rank == 1 else None
    return given.fitted(given.coder.W_dec[best.indices].float(), latent=latent)


def _steering(objective: str, texts: bool) -> FitMethod:
    def fitted(given: FitInput) -> Fitted:
        options: dict[str, Any] = {"objective": objective, "texts": texts, "seed": given.seed}
        return given.fitted(
            steering_vector(given.model, given.contrast, given.site, given.norm, **options).direction.rows
        )

    return fitted


def _reft_r1(given: FitInput) -> Fitted:
    return given.fitted(reft_r1(given.model, given.contrast, given.site, seed=given.seed).direction.rows)


def _unsupervised(given: FitInput) -> Fitted:
    model, last = given.model, Site("resid_post", given.model.n_layers - 1)
    texts = [text for side in given.contrast.texts(model.render, model.chat) for text in side]
    candidates = unsupervised(model, texts, given.site, last, given.norm, given.rank, seed=given.seed)
    return given.fitted(torch.cat([candidate.direction.rows for candidate in candidates]))


CLOSED_FORM: tuple[str, ...] = tuple(FITS)
SAE_METHODS = (SAE_LATENT, f"{SAE_LATENT}_attribution")
TRAINED = ("steering_vector", "steering_margin", "reft_r1", "unsupervised")
RANKED = ("pca", "unsupervised", SAE_METHODS[1])
METHODS: dict[str, FitMethod] = dict.fromkeys(CLOSED_FORM, _closed_form) | {
    "pca": _pca,
    "leace": _erasing(lambda given, x, sides: _covariance(x, sides).leace(level=1.0)),
    "sal": _erasing(lambda given, x, sides: _covariance(x, sides).sal(level=1.0)),
    "inlp": _erasing(lambda given, x, sides: inlp(x, sides, level=0.05, seed=given.seed)),
    SAE_METHODS[0]: _sae_latent,
    SAE_METHODS[1]: _attributed_latent,
    "steering_vector": _steering("preference", texts=False),
    "steering_margin": _steering("margin", texts=True),
    "reft_r1": _reft_r1,
    "unsupervised": _unsupervised,
}


def fit_method(given: FitInput) -> Fitted:
    """Fit a method of `METHODS`. Raises where it has no such rank, or the input gives no direction."""
    if given.rank != 1 and given.method not in RANKED:
        choices = ", ".join(RANKED)
        raise InterpError(f"{given.method} fits one row, not {given.rank}; give rank 1, or one of {choices}")
    return METHODS[given.method](given)


def fit_direction(
    model: HookedModel,
    contrast: Contrast,
    method: str,
    site: str | Site | None = None,
    position: int = -1,
    sae: SparseAutoencoder | None = None,
    rank: int = 1,
    seed: int = 0,
) -> Fitted:
    """Fit one method at one site and position to all pairs.

    Args:
        model: The model.
        contrast: The pairs.
        method: One of `METHODS`.
        site: A site in the residual stream's basis. Default: the autoencoder's.
        position: Token of the prompt; negative counts from its end.
        sae: An autoencoder of the site, for methods that choose a latent.
        rank: How many rows to fit, for pca, unsupervised and sae_latent_attribution.
        seed: Draws what the method draws.

    Raises:
        InterpError: The method or site is unknown, has no such rank, or gives no direction on these pairs.

    Example:
        >>> from interp.directions import fit_direction
        >>> print(fit_direction(model, contrast, "lda", "resid_post.3").direction)
        lda at resid_post.3, position -1
    """
    require_methods([method])
    if sae is not None:
        sae.require(model)
    if site is None and sae is None:
        raise InterpError(f"{method} has no site; give one, such as resid_post.12")
    place = residual_site(model, sae.site if site is None and sae is not None else str(site))
    sides = capture_sides(model, contrast, [place], [position])[place, position]
    return fit_method(FitInput(method, model, contrast, place, position, sides, sae, rank, seed))


def require_methods(names: Sequence[str]) -> None:
    """Raise for a name that is no method's."""
    for name in names:
        if name not in METHODS:
            raise InterpError(f"unknown method {name!r}; {nearest(name, METHODS)}")
