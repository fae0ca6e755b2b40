"""Find what separates a contrast: every method at every site and position, scored on held-out pairs.

1. Split the contrast by group, and capture all sites in one forward pass per prompt.
2. Fit each method (`fitting`) on one part. An autoencoder adds the latent whose activation separates that part best.
3. Measure AUROC and Cohen's d on the other part, along the direction as fitted: neither a threshold nor a sign is
   chosen on held-out data. Baselines are scored alongside.
4. Fit again on resampled pairs for the stability.

A method that cannot be fitted at one site and position is left out there, and listed with the reason.

Limitations: a direction that separates two sides need not be what the model uses. Ablate it to find out.
"""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import ContrastActivations, Sides, capture_contrast
from interp.directions.controls import control_scores
from interp.directions.direction import Direction, residual_sites
from interp.directions.findings import Failure, Finding, Findings
from interp.directions.fitting import (
    CLOSED_FORM,
    METHODS,
    SAE_METHODS,
    TRAINED,
    FitInput,
    fit_method,
    require_methods,
)
from interp.directions.methods.closed_form import FITS
from interp.directions.methods.latents import SAE_LATENT, BySeparation
from interp.directions.scores import auroc, cohens_d
from interp.directions.stability import Refit, bootstrap_stability, resamples
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder

SHORTLISTED = 12
_QUICK = ("diff_means", "diff_means_orthogonal")


def find(
    model: HookedModel,
    contrast: Contrast,
    sites: str | Iterable[str] = "resid_post.*",
    methods: str | Sequence[str] = CLOSED_FORM,
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
        methods: Names of methods, of which `interp.directions.fitting` has the table; "closed_form" stands for the
            six of the default, and "all" for all of them. Those that train run for seconds to minutes at each place:
            under "all" they run where the best of the others is, and everywhere where they are named.
        positions: Tokens to read, counted from a prompt's end if negative. Where the two sides of every pair have
            equal activations, nothing is fitted.
        sae: An autoencoder of the model, which adds its best latent at its own site, and which methods that choose a
            latent need.
        held_out: Share of the groups that is kept for the scores.
        seed: Draws the split, the baselines and the bootstrap samples.
        bootstrap: How often to fit again for the stability, or 0. Differences of means are refitted at every site and
            position, the other closed forms and the latent in the shortlist of 12 only, and the rest never.
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
    asked = [methods] if isinstance(methods, str) else list(methods)
    names = _known_methods(asked if sae is None else [*asked, SAE_LATENT])
    slow = [name for name in TRAINED if name not in asked] if "all" in asked else []
    if not chat and (trained := [name for name in names if name in (*TRAINED, SAE_METHODS[1])]):
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

    def run(methods: Iterable[str], places: Sequence[ContrastActivations]) -> list[tuple[_Job, Finding | Failure]]:
        pairs = [(cell, name) for cell in places for name in methods]
        inputs = [FitInput(name, model, train, at.site, at.position, at.fit, sae, seed=seed) for at, name in pairs]
        jobs = [_Job(cell, each, contrast.digest) for (cell, _), each in zip(pairs, inputs, strict=True)]
        return [(job, job.run()) for job in track(jobs, "fit", unit="directions")]

    everywhere = [cell for cell in cells if cell.site in searched]
    coded = everywhere[:1] if sae is None else [cell for cell in cells if cell.site == sae.site]
    results = run([name for name in names if name not in (*SAE_METHODS, *slow)], everywhere)
    results += run([name for name in names if name in SAE_METHODS], coded)
    if slow:
        results += run(slow, _best_place(results))
    failures = tuple(result for _, result in results if isinstance(result, Failure))
    fitted = [(job, _aligned(result, protected or {})) for job, result in results if isinstance(result, Finding)]
    if not fitted:
        first = failures[0]
        raise InterpError(f"nothing could be fitted; {first.method} at {first.site}: {first.reason}")
    baselines = tuple(baseline for cell in cells for baseline in control_scores(cell, seed))
    findings = Findings(tuple(finding for _, finding in fitted), contrast, len(test), baselines, failures)
    return _with_stability(findings, [job for job, _ in fitted], samples)


def _known_methods(asked: Sequence[str]) -> list[str]:
    """The names, each once, with `closed_form` and `all` written out."""
    groups = {"closed_form": CLOSED_FORM, "all": tuple(METHODS)}
    names = [name for each in asked for name in groups.get(each, [each])]
    if not names:
        raise InterpError(f"no methods; expected some of {', '.join(METHODS)}, closed_form or all")
    require_methods(names)
    return list(dict.fromkeys(names))


def _best_place(results: Sequence[tuple["_Job", Finding | Failure]]) -> list[ContrastActivations]:
    """Where the best finding is; nowhere if there is none."""
    fitted = [(result.auroc, result.cohens_d, job.cell) for job, result in results if isinstance(result, Finding)]
    return [max(fitted, key=lambda each: each[:2])[2]] if fitted else []


def _require_protected(model: HookedModel, name: str, direction: Direction) -> None:
    direction.check(model.reference, f"protected direction {name!r}")
    if not direction.site.in_residual_basis:
        raise InterpError(f"protected direction {name!r} is at {direction.site}, not in the residual stream's basis")


@dataclass(frozen=True)
class _Job:
    """One fit to do, at a place of the contrast with this digest."""

    cell: ContrastActivations
    given: FitInput
    data: str

    def run(self) -> Finding | Failure:
        """Fit on one part and score on the other."""
        cell, began = self.cell, time.perf_counter()
        try:
            fitted = fit_method(self.given)
        except InterpError as problem:
            return Failure(self.given.method, cell.site, cell.position, str(problem))
        direction, latent = replace(fitted.direction, data=self.data), fitted.latent
        if latent is None:
            values = cell.held_out.read(lambda x: direction.read(x)[:, 0])
        else:
            values = cell.held_out.read(lambda x: self.given.coder.encode(x)[:, latent])
        return replace(_scored(direction, values, latent), seconds=time.perf_counter() - began)

    @property
    def refit(self) -> Refit | None:
        """The fit as a function of two sides, for methods that are quick to fit again."""
        return BySeparation(self.given.coder) if self.given.method == SAE_LATENT else FITS.get(self.given.method)


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
        if job.refit and (job.given.method in _QUICK or id(finding) in listed):
            score = bootstrap_stability(finding.direction.rows[0], job.refit, job.cell.fit, samples)
            finding = replace(finding, stability=score)
        rows.append(finding)
    return replace(findings, rows=tuple(rows))
