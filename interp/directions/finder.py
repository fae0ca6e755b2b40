"""Find what separates a contrast: every method at every site and position, scored on held-out pairs.

1. Split the contrast by group, and capture all sites in one forward pass per prompt.
2. Fit each method on one part. An autoencoder adds the latent whose activation separates that part best. Methods that
   train through the model (`TRAINED`) run only if they are named.
3. Measure AUROC and Cohen's d on the other part, along the direction as fitted: neither a threshold nor a sign is
   chosen on held-out data. Baselines are scored alongside.
4. Fit again on resampled pairs for the stability.

A method that cannot be fitted at one site and position is left out there, and listed with the reason.

Limitations: a direction that separates two sides need not be what the model uses. Ablate it to find out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import ContrastActivations, Sides, capture_contrast
from interp.directions.controls import control_scores
from interp.directions.direction import Direction, residual_sites
from interp.directions.findings import Failure, Finding, Findings
from interp.directions.methods.closed_form import FITS, diff_means
from interp.directions.methods.latents import SAE_LATENT, BySeparation
from interp.directions.methods.reft import reft_r1
from interp.directions.methods.steering_vectors import steering_vector
from interp.directions.scores import auroc, cohens_d
from interp.directions.stability import Refit, bootstrap_stability, resamples
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.sae.coder import SparseAutoencoder

SHORTLISTED = 12
_CLOSED_FORM = ("diff_means", "diff_means_orthogonal")


def find(
    model: HookedModel,
    contrast: Contrast,
    sites: str | Iterable[str] = "resid_post.*",
    methods: str | Sequence[str] = tuple(FITS),
    positions: int | Sequence[int] = (-1,),
    sae: SparseAutoencoder | None = None,
    held_out: float = 0.3,
    seed: int = 0,
    bootstrap: int = 10,
    protected: Mapping[str, Direction] | None = None,
    chat: bool = True,
) -> Findings:
    """Fit every method at every site and position, and score each direction on held-out pairs.

    Args:
        model: The model.
        contrast: Pairs of prompts that differ in the behaviour.
        sites: Names or patterns of sites in the residual stream's basis.
        methods: Names of methods, or "all" for those in closed form: diff_means, diff_means_orthogonal, logistic,
            ridge, lda and pca. steering_vector and reft_r1, which train for minutes per site, only run if they
            are named.
        positions: Tokens to read, counted from a prompt's end if negative. Where the two sides of every pair have
            equal activations, nothing is fitted.
        sae: An autoencoder of the model, which adds its best latent at its own site.
        held_out: Share of the groups that is kept for the scores.
        seed: Draws the split, the baselines and the bootstrap samples.
        bootstrap: How often to fit again for the stability, or 0. Differences of means are refitted at every site and
            position, the other closed forms in the shortlist of 12 only, and trained methods never.
        protected: Directions, by name, that an edit must leave alone; each finding reports its alignment with them.
        chat: Render prompts with the chat template, where the tokenizer has one. False takes them as they are, as
            `capture` does by default; conversations are always rendered.

    Returns:
        The findings, with baselines and failures.

    Raises:
        InterpError: A method or site is unknown; a protected direction or the autoencoder belongs to another model;
            the contrast cannot be split; or nothing can be fitted.

    Example:
        >>> findings = interp.find(model, contrast, sites="resid_post.3", methods="diff_means", bootstrap=0)
        >>> findings.best()[0].auroc
        1.0
    """
    if not isinstance(contrast, Contrast):
        raise InterpError(f"contrast is a {type(contrast).__name__}; expected an interp.Contrast (Contrast.read)")
    methods = _known_methods(methods)
    if not chat and (trained := [name for name in methods if name in TRAINED]):
        raise InterpError(f"{trained[0]} trains on prompts with the chat template; leave chat=False or the method out")
    positions = [positions] if isinstance(positions, int) else positions
    searched = residual_sites(model, sites)
    for name, direction in (protected or {}).items():
        _require_protected(model, name, direction)
    if sae is not None:
        sae.require(model)
    captured = searched if sae is None or sae.site in searched else [*searched, sae.site]
    train, test = contrast.split(held_out, seed)
    samples = resamples(train.groups, bootstrap, seed)
    cells = capture_contrast(model, train, test, captured, positions, chat)
    fits = [(cell, name, _fit(name, model, train, cell)) for cell in cells if cell.site in searched for name in methods]
    if sae is not None:
        fits += [(cell, SAE_LATENT, BySeparation(sae)) for cell in cells if cell.site == sae.site]
    jobs = [_Job(*fit, model.reference, contrast.digest) for fit in fits]
    results = [(job, job.run()) for job in track(jobs, "fit", unit="directions")]
    failures = tuple(result for _, result in results if isinstance(result, Failure))
    fitted = [(job, _aligned(result, protected or {})) for job, result in results if isinstance(result, Finding)]
    if not fitted:
        first = failures[0]
        raise InterpError(f"nothing could be fitted; {first.method} at {first.site}: {first.reason}")
    baselines = tuple(baseline for cell in cells for baseline in control_scores(cell, seed))
    findings = Findings(tuple(finding for _, finding in fitted), contrast, len(test), baselines, failures)
    return _with_stability(findings, [job for job, _ in fitted], samples)


def _steering_vector_row(model: HookedModel, contrast: Contrast, cell: ContrastActivations) -> Tensor:
    """A steering vector's row; the vector is as long as the two sides' means are apart."""
    norm = float(diff_means(*cell.fit).norm())
    return steering_vector(model, contrast, cell.site, norm).direction.rows[0]


def _reft_r1_row(model: HookedModel, contrast: Contrast, cell: ContrastActivations) -> Tensor:
    return reft_r1(model, contrast, cell.site).direction.rows[0]


TRAINED: dict[str, Callable[[HookedModel, Contrast, ContrastActivations], Tensor]] = {
    "steering_vector": _steering_vector_row,
    "reft_r1": _reft_r1_row,
}


def _known_methods(methods: str | Sequence[str]) -> Sequence[str]:
    names = tuple(FITS) if methods == "all" else [methods] if isinstance(methods, str) else methods
    if not names:
        raise InterpError(f"no methods; expected some of {', '.join([*FITS, *TRAINED])}, or all")
    for name in names:
        if name not in FITS and name not in TRAINED:
            raise InterpError(f"unknown method {name!r}; {nearest(name, [*FITS, *TRAINED])}")
    return names


def _require_protected(model: HookedModel, name: str, direction: Direction) -> None:
    direction.check(model.reference, f"protected direction {name!r}")
    if not direction.site.in_residual_basis:
        raise InterpError(f"protected direction {name!r} is at {direction.site}, not in the residual stream's basis")


def _fit(method: str, model: HookedModel, contrast: Contrast, cell: ContrastActivations) -> Refit:
    """A method as a function of two sides; one that trains through the model reads the contrast's texts instead."""
    if method in FITS:
        return FITS[method]
    return lambda positive, negative: TRAINED[method](model, contrast, cell)


@dataclass(frozen=True)
class _Job:
    """One fit to do, in a model and on data with this digest."""

    cell: ContrastActivations
    method: str
    fit: Refit
    model: ModelReference
    data: str

    def run(self) -> Finding | Failure:
        """Fit on one part and score on the other."""
        cell, fit = self.cell, self.fit
        try:
            if isinstance(fit, BySeparation):
                latent = fit.latent(cell.fit)
                direction = self._direction(fit.row(latent))
                return _scored(direction, cell.held_out.read(lambda x: fit.sae.encode(x)[:, latent]), latent)
            direction = self._direction(fit(*cell.fit), torch.stack([x.mean(0) for x in cell.fit]))
            return _scored(direction, cell.held_out.read(lambda x: direction.read(x)[:, 0]))
        except InterpError as problem:
            return Failure(self.method, cell.site, cell.position, str(problem))

    def _direction(self, row: Tensor, means: Tensor | None = None) -> Direction:
        cell = self.cell
        return Direction(row[None], cell.site, cell.position, self.method, self.model, self.data, means=means)


def _scored(direction: Direction, values: Sides, latent: int | None = None) -> Finding:
    area, effect = auroc(*values), cohens_d(*values)
    return Finding(replace(direction, scores={"auroc": area, "cohens_d": effect}), area, effect, latent)


def _aligned(finding: Finding, protected: Mapping[str, Direction]) -> Finding:
    rows = finding.direction.rows
    cosines = {name: torch.linalg.matrix_norm(rows @ other.rows.T, ord=2) for name, other in protected.items()}
    return replace(finding, alignment={name: float(cosine) for name, cosine in cosines.items()})


def _with_stability(findings: Findings, jobs: Sequence[_Job], samples: Sequence[Tensor]) -> Findings:
    """The findings, those that are worth a refit with their stability; `jobs` are theirs, in order."""
    if not samples:
        return findings
    listed = {id(finding) for finding in findings.shortlist(SHORTLISTED)}
    rows = []
    for job, finding in track(list(zip(jobs, findings, strict=True)), "refit", unit="directions"):
        if job.method in _CLOSED_FORM or (id(finding) in listed and job.method not in TRAINED):
            score = bootstrap_stability(finding.direction.rows[0], job.fit, job.cell.fit, samples)
            finding = replace(finding, stability=score)
        rows.append(finding)
    return replace(findings, rows=tuple(rows))
