"""An experiment: the whole road, from text to an audited checkpoint, as one configuration.

    1 model        load it
    2 activations  harvest text at one site
    3 sae          train an autoencoder on them
    4 directions   fit every method at every site, score on held-out pairs
    5 recipe       try the best by intervention, on items of their own, and keep the one that costs least
      baselines    random directions, shuffled labels, a prompt and nothing at all, on the same items
    6 export       fold it into the weights, reload, certify
    7 audit        the reloaded checkpoint against the original, on items not seen before
    8 decision     under the policy; then the report

The results are a folder that appears only when all of it is there: `report.html`, `checkpoint/`, `recipe/`, `sae/`,
`audit.json`, `summary.json`, `experiment.json`, `environment.json`, `log.txt`. A run that was stopped is resumed: its
activations and the training of its autoencoder go on where they were, and the rest is done again (see `runs`).
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from interp.activations.harvester import harvest
from interp.auditing.ablation_trials import rank_by_ablation
from interp.auditing.auditor import Audit, audit
from interp.auditing.baselines import Baseline, measure_baselines
from interp.auditing.policy.decision import Decision, Policy, decide
from interp.core.config import Config
from interp.core.digests import versions
from interp.core.files import new_folder, sha256_file, write_json, write_text
from interp.directions.finder import SAE_LATENT, Finding, Findings, find
from interp.directions.methods.closed_form import FITS
from interp.editing.certificate.record import Certificate
from interp.editing.export.exporter import export
from interp.interventions.ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load
from interp.pipeline.materials import Data, Materials, gather_materials
from interp.pipeline.runs import Environment, work
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.feature import Feature, feature_pages
from interp.sae.metrics import evaluate
from interp.sae.training.trainer import train
from interp.views.report_page import Report, ReportedRun, write_report

Say = Callable[[str], None]


class DictionarySettings(Config):
    """The autoencoder and what it is trained on."""

    site: str
    tokens: int = Field(100_000, ge=1000, description="tokens to harvest")
    context: int = Field(128, ge=8)
    evaluate_tokens: int = Field(10_000, ge=100, description="held-out tokens to measure it on")
    train: SaeConfig = SaeConfig()


class SearchSettings(Config):
    """Where to look for directions, and how many of the best to try by intervention."""

    sites: str = "resid_post.*"
    methods: tuple[str, ...] = Field(tuple(FITS), strict=False)
    positions: tuple[int, ...] = Field((-1,), strict=False)
    candidates: int = Field(8, ge=1)


class Experiment(Config):
    """See the module. `model` may be a folder relative to the experiment's file."""

    name: str
    model: str
    dtype: str = "float32"
    device: str | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    data: Data
    dictionary: DictionarySettings
    search: SearchSettings = SearchSettings()
    policy: Policy


@dataclass(frozen=True)
class Summary:
    """What an experiment found; `to_json` is the documented schema of summary.json."""

    audit: Audit
    certificate: Certificate
    decision: Decision
    baselines: tuple[Baseline, ...]
    seconds: float
    hashes: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        behaviours = {
            row.name: {"kind": row.kind, "before": row.before.to_json(), "after": row.after.to_json()}
            for row in self.audit.rows
        }
        return {
            "behaviours": behaviours,
            "certificate": self.certificate.to_json(),
            "decision": self.decision.to_json(),
            "baselines": [baseline.to_json() for baseline in self.baselines],
            "seconds": round(self.seconds, 1),
            "versions": versions(),
            "hashes": self.hashes,
        }


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    folder: str | Path = ".",
    say: Say = lambda text: None,
    command: str = "interp.pipeline.experiment.run_experiment",
    resume: bool = False,
) -> Summary:
    """Run an experiment into a new folder `out`, or go on with one that was stopped on its way there.

    Paths in the experiment are relative to `folder`; `say` hears a line about each stage; `command` is kept in the
    report.
    """
    began = time.perf_counter()
    torch.manual_seed(experiment.seed)
    experiment = _seeded(experiment)
    lines: list[str] = []

    def note(text: str) -> None:
        lines.append(f"{time.perf_counter() - began:8.1f} s  {text}")
        say(text)

    with new_folder(out) as staging, work(out, experiment.model_dump(mode="json"), resume) as unfinished:
        model = _model(experiment, Path(folder), note)
        environment = Environment.now(command, str(model.device), Path(folder))
        materials = gather_materials(experiment.data, experiment.policy.target, experiment.seed, Path(folder))
        sae = _dictionary(experiment, model, materials, unfinished, note)
        sae.save(staging / "sae")
        found = _search(experiment, model, materials, sae, note)
        chosen = _choose(experiment, model, materials, found, note)
        beside = _baselines(experiment, model, materials, chosen, note)
        recipe = Recipe(
            [("writers", Project(chosen.direction))], note=f"{experiment.name}: removes {materials.target}."
        )
        recipe.save(staging / "recipe")
        certificate = _export(recipe, model, materials, staging / "checkpoint", note)
        result = _audit(experiment, model, materials, recipe, staging / "checkpoint", note)
        result.save(staging / "audit.json")
        decision = decide(result, experiment.policy)
        pages = _pages(model, materials, sae, found)
        hashes = _hashes(model, recipe, materials, staging)
        summary = Summary(result, certificate, decision, beside, time.perf_counter() - began, hashes)
        write_json(staging / "summary.json", summary.to_json())
        write_json(staging / "experiment.json", experiment.model_dump(mode="json"))
        environment.write(staging)
        write_text(staging / "log.txt", "\n".join(lines) + "\n")
        report = Report(
            title=experiment.name,
            model=model.reference,
            summary=f"{materials.target} looked for, removed, exported and audited in {model.name}",
            findings=found,
            chosen=chosen,
            sae=sae.metrics,
            features=pages,
            recipe=recipe,
            certificate=certificate,
            audit=result,
            baselines=beside,
            policy=experiment.policy,
            decision=decision,
            run=ReportedRun(command, summary.seconds, versions(), hashes),
        )
        write_report(report, staging / "report.html")
    return summary


def _seeded(experiment: Experiment) -> Experiment:
    """One seed for all of it: the autoencoder's follows the experiment's."""
    own = experiment.dictionary.train.model_copy(update={"seed": experiment.seed})
    dictionary = experiment.dictionary.model_copy(update={"train": own})
    return experiment.model_copy(update={"dictionary": dictionary})


def _model(experiment: Experiment, folder: Path, say: Say) -> HookedModel:
    beside = folder / experiment.model
    name = beside if beside.is_dir() else experiment.model
    model = load(name, dtype=experiment.dtype, device=experiment.device)
    say(f"model       {model.name}: {model.n_layers} layers, d_model {model.d_model}, weights {model.digest[:12]}")
    return model


def _dictionary(
    experiment: Experiment, model: HookedModel, materials: Materials, unfinished: Path, say: Say
) -> SparseAutoencoder:
    settings, folder = experiment.dictionary, unfinished / "store"
    store = harvest(model, materials.text, settings.site, folder, tokens=settings.tokens, context=settings.context)
    say(f"activations {len(store):,} tokens at {settings.site}")
    sae = train(store, settings.site, settings.train, folder=unfinished / "sae").sae
    size = {"tokens": settings.evaluate_tokens, "context": settings.context}
    quality = evaluate(sae, model, materials.held_out_text, **size)
    say(
        f"sae         {sae.d_sae} latents, L0 {quality.l0:.0f}, FVU {quality.fvu:.3f}, "
        f"loss recovered {quality.loss_recovered:.3f}, dead {quality.dead_share:.1%}"
    )
    return replace(sae, metrics=quality)


def _search(
    experiment: Experiment, model: HookedModel, materials: Materials, sae: SparseAutoencoder, say: Say
) -> Findings:
    search = experiment.search
    found = find(model, materials.contrast, search.sites, search.methods, search.positions, sae, seed=experiment.seed)
    best = found.best()[0]
    say(f"directions  {len(found)} fitted; best on held-out pairs: {best.direction}, AUROC {best.auroc:.3f}")
    return found


def _choose(experiment: Experiment, model: HookedModel, materials: Materials, found: Findings, say: Say) -> Finding:
    trials = rank_by_ablation(model, found.shortlist(experiment.search.candidates), materials.choose, materials.target)
    best, target = trials[0], materials.target
    say(
        f"recipe      of {len(trials)} tried, {best.finding.direction} costs least: "
        f"{target} {best.before[target]:.3f} -> {best.after[target]:.3f} on the choosing items"
    )
    return best.finding


def _baselines(
    experiment: Experiment, model: HookedModel, materials: Materials, chosen: Finding, say: Say
) -> tuple[Baseline, ...]:
    # Effect and damage suffice for what is not going to be used, and other behaviours would take most of the time.
    measured = [one for one in materials.choose if one.name == materials.target or one.unit == "nats"]
    found = tuple(measure_baselines(model, chosen.direction, materials.contrast, measured, experiment.seed))
    shown = ", ".join(f"{baseline.name} {baseline.scores[materials.target]:.3f}" for baseline in found)
    say(f"baselines   {materials.target} on the same items: {shown}")
    return found


def _export(recipe: Recipe, model: HookedModel, materials: Materials, out: Path, say: Say) -> Certificate:
    probes = materials.contrast.prompts(model.render, model.chat)[0][:16]
    certificate = export(recipe, model, out, prompts=probes)
    say(
        f"export      max |logit difference| {certificate.max_abs_logit_diff:.1e}, KL {certificate.kl:.1e} nats "
        f"(the edit's own {certificate.effect_kl:.1e}), leak {certificate.leak:.1e}"
    )
    return certificate


def _audit(
    experiment: Experiment, model: HookedModel, materials: Materials, recipe: Recipe, checkpoint: Path, say: Say
) -> Audit:
    edited = load(checkpoint, dtype=experiment.dtype, device=experiment.device)
    edited.name = f"{model.name}, edited"  # its folder is still a temporary one
    # Baselines were measured on the choosing items; on these they would take four times as long as the audit.
    result = audit(model, edited, materials.audit, seed=experiment.seed, recipe=recipe, baselines=())
    for row in result.rows:
        say(f"audit       {row.name} ({row.kind}): {row.before} -> {row.after}")
    return result


def _pages(model: HookedModel, materials: Materials, sae: SparseAutoencoder, found: Findings) -> list[Feature]:
    """The page of the latent that separates the contrast best."""
    best = found.best(1, method=SAE_LATENT) if SAE_LATENT in found.methods else []
    latents = [finding.latent for finding in best if finding.latent is not None]
    return feature_pages(sae, model, materials.text, latents, tokens=20_000)


def _hashes(model: HookedModel, recipe: Recipe, materials: Materials, staging: Path) -> dict[str, str]:
    weights = sorted((staging / "checkpoint").glob("*.safetensors"))
    own = {"model": model.digest, "contrast": materials.contrast.digest, "recipe": recipe.digest}
    return own | {f"checkpoint/{file.name}": sha256_file(file) for file in weights}
