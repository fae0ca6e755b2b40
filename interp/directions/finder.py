"""Find what separates a contrast: every method at every site and position, scored on held-out pairs.

One forward pass over the contrast captures all sites. The contrast is split by group; directions are fitted on one part
and their AUROC and Cohen's d measured on the other, along the direction as fitted (no threshold or sign is chosen on
held-out data). An autoencoder adds its latents: the one whose activation separates the training part best. Methods that
train through the model (`trained`) run if they are named. Baselines are scored beside them. A method that can't be
fitted at one cell is left out there, and named with the reason.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import ContrastActivations, Sides, capture_contrast
from interp.directions.controls import control_scores
from interp.directions.direction import Direction
from interp.directions.findings import Failure, Finding, Findings
from interp.directions.methods.closed_form import FITS
from interp.directions.methods.latents import SAE_LATENT, BySeparation
from interp.directions.methods.trained import TRAINED, TrainedFit
from interp.directions.scores import auroc, cohens_d
from interp.directions.stability import Refit, bootstrap_stability, resamples
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference

if TYPE_CHECKING:
    from interp.sae.coder import SparseAutoencoder

__all__ = ["SAE_LATENT", "Finding", "Findings", "find"]

SHORTLISTED = 12
_CLOSED_FORM = ("diff_means", "diff_means_orthogonal")


def find(
    model: HookedModel,
    contrast: Contrast,
    sites: str | Iterable[str] = "resid_post.*",
    methods: str | Sequence[str] = tuple(FITS),
    positions: int | Sequence[int] = (-1,),
    sae: "SparseAutoencoder | None" = None,
    held_out: float = 0.3,
    seed: int = 0,
    bootstrap: int = 10,
    protected: Mapping[str, Direction] | None = None,
) -> Findings:
    """Fit every method at every site and position. `sae`, if given, adds its best latent at its own site.

    Prompts are rendered with the chat template where the tokenizer has one. Positions count from a prompt's end if
    negative; where the two sides do not differ at all, nothing is fitted. `bootstrap` is how often to fit again for the
    stability: of the differences of means at every cell, and of the other methods, whose refits take as long as their
    fits, in the shortlist of 12 only, and of trained ones not at all. `protected` directions are those that an edit
    must leave alone: each finding says how far it is aligned with them. Raises for an unknown method or site, for a
    protected direction of another model, and where a contrast can't be split or nothing can be fitted.
    """
    methods = tuple(FITS) if methods == "all" else [methods] if isinstance(methods, str) else methods
    if not methods:
        raise InterpError(f"no methods; expected some of {', '.join([*FITS, *TRAINED])}, or all")
    positions = [positions] if isinstance(positions, int) else positions
    for method in methods:
        if method not in FITS and method not in TRAINED:
            raise InterpError(f"unknown method {method!r}; {nearest(method, [*FITS, *TRAINED])}")
    wanted = model.resolve(sites)
    for site in wanted:
        if not site.in_residual_basis:
            raise InterpError(f"{site} is not in the residual stream's basis, so no direction of it can be edited out")
    for name, direction in (protected or {}).items():
        _require_protected(model, name, direction)
    if sae is not None:
        sae.require(model)
    captured = wanted if sae is None or sae.site in wanted else [*wanted, sae.site]
    train, test = contrast.split(held_out, seed)
    samples = resamples(train.groups, bootstrap, seed)
    cells = capture_contrast(model, train, test, captured, positions)
    origin = _FitOrigin(model.reference, contrast.digest)
    jobs = [_job(model, train, cell, method) for cell in cells if cell.site in wanted for method in methods]
    if sae is not None:
        jobs += [_Job(cell, SAE_LATENT, BySeparation(sae)) for cell in cells if cell.site == sae.site]
    tried = [(job, _tried(job, origin)) for job in track(jobs, "fit")]
    failures = tuple(result for _, result in tried if isinstance(result, Failure))
    fitted = [(job, _aligned(result, protected or {})) for job, result in tried if isinstance(result, Finding)]
    if not fitted:
        first = failures[0]
        raise InterpError(f"nothing could be fitted; {first.method} at {first.site}: {first.reason}")
    beside = [baseline for cell in cells for baseline in control_scores(cell, seed)]
    found = Findings(tuple(finding for _, finding in fitted), contrast, len(test), tuple(beside), failures)
    if not samples:
        return found
    listed = {id(finding) for finding in found.shortlist(SHORTLISTED)}
    measured = [
        _repeated(job, finding, samples)
        if job.method in _CLOSED_FORM or (id(finding) in listed and job.method not in TRAINED)
        else finding
        for job, finding in track(fitted, "refit")
    ]
    return replace(found, rows=tuple(measured))


@dataclass(frozen=True)
class _FitOrigin:
    """What a direction was fitted in and on."""

    model: ModelReference
    data: str


class _Job(NamedTuple):
    """One fit to do."""

    cell: ContrastActivations
    method: str
    fit: Refit


def _job(model: HookedModel, train: Contrast, cell: ContrastActivations, method: str) -> _Job:
    trained = TRAINED.get(method)
    return _Job(cell, method, FITS[method] if trained is None else TrainedFit(trained, model, train, cell))


def _require_protected(model: HookedModel, name: str, direction: Direction) -> None:
    direction.model.check(model.reference, f"protected direction {name!r}")
    if not direction.site.in_residual_basis:
        raise InterpError(
            f"protected direction {name!r} is at {direction.site}, not in the residual stream's basis; give one that is"
        )


def _tried(job: _Job, origin: _FitOrigin) -> Finding | Failure:
    try:
        return _best_latent(job.cell, job.fit, origin) if isinstance(job.fit, BySeparation) else _fitted(job, origin)
    except InterpError as problem:
        return Failure(job.method, job.cell.site, job.cell.position, str(problem))


def _fitted(job: _Job, origin: _FitOrigin) -> Finding:
    cell = job.cell
    row = job.fit(*cell.fit)
    means = torch.stack([x.mean(0) for x in cell.fit])
    direction = Direction(row[None], cell.site, cell.position, job.method, origin.model, origin.data, means=means)
    return _scored(direction, cell.held_out.read(lambda x: direction.read(x)[:, 0]))


def _best_latent(cell: ContrastActivations, fit: BySeparation, origin: _FitOrigin) -> Finding:
    latent, sae = fit.latent(cell.fit), fit.sae
    row = sae.W_dec[latent][None].float()
    direction = Direction(row, cell.site, cell.position, SAE_LATENT, origin.model, origin.data)
    return _scored(direction, cell.held_out.read(lambda x: sae.encode(x)[:, latent]), latent)


def _scored(direction: Direction, read: Sides, latent: int | None = None) -> Finding:
    area, effect = auroc(*read), cohens_d(*read)
    scored = replace(direction, scores={"auroc": area, "cohens_d": effect})
    return Finding(scored, area, effect, latent)


def _aligned(finding: Finding, protected: Mapping[str, Direction]) -> Finding:
    rows = finding.direction.rows
    cosines = {name: torch.linalg.matrix_norm(rows @ other.rows.T, ord=2) for name, other in protected.items()}
    return replace(finding, alignment={name: float(cosine) for name, cosine in cosines.items()})


def _repeated(job: _Job, finding: Finding, samples: Sequence[Tensor]) -> Finding:
    return replace(finding, stability=bootstrap_stability(finding.direction.rows[0], job.fit, job.cell.fit, samples))
