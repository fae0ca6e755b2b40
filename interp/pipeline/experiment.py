"""An experiment: the end-to-end pipeline, from text to an audited checkpoint, as one configuration.

    1 model        load it
    2 activations  harvest text at one site
    3 sae          train an autoencoder on them
    4 directions   fit every method at every site, score them on held-out pairs
    5 recipe       ablate the best, on items of their own, and keep the one that costs least, unless it breaks the model
                   (in place of 4 and 5, a given recipe, or the knee of a sweep)
      baselines    random directions, shuffled labels, a prompt and no edit at all, on the same items
    6 export       fold the recipe into the weights, reload, certify
    7 audit        the reloaded checkpoint against the original, on items that no other step has seen
    8 decision     apply the policy; then write the report

The results are a folder that appears only when all of it is complete: `report.html`, `checkpoint/`, `recipe/`, `sae/`,
`audit.json`, `summary.json`, `experiment.json`, `environment.json`, `log.txt`. When an interrupted run is resumed, its
activations and the training of its autoencoder continue from where they were, and the later steps run again (see
`runs`).
"""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import Field

from interp.activations.harvester import harvest
from interp.auditing.ablation_trials import rank_by_ablation
from interp.auditing.auditor import Audit, audit
from interp.auditing.baselines import Baseline, baseline_of_recipe, measure_baselines
from interp.auditing.behaviours import Behaviour
from interp.auditing.damage import Damage, harmless, measure_damage
from interp.auditing.policy.decision import Decision, Policy, decide
from interp.core.config import Config
from interp.core.digests import versions
from interp.core.display import plural
from interp.core.errors import InterpError
from interp.core.files import new_folder, sha256_file, write_json, write_text
from interp.directions.finder import find
from interp.directions.findings import Finding, Findings
from interp.directions.methods.closed_form import FITS
from interp.directions.methods.latents import SAE_LATENT
from interp.editing.certificate.record import Certificate
from interp.editing.export.exporter import export
from interp.interventions.affine_ops import Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.loading import load, model_beside
from interp.pipeline.materials import DataSettings, Materials, gather_materials
from interp.pipeline.runs import Environment, unfinished_folder
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.feature import Feature, feature_pages
from interp.sae.metrics import evaluate
from interp.sae.training.trainer import train
from interp.search.sweeps.picking import recipe_at
from interp.views.report_page import Report, ReportedRun, write_report

Say = Callable[[str], None]


class DictionarySettings(Config):
    """The autoencoder of an experiment, and the activations it is trained on.

    Example:
        >>> interp.pipeline.DictionarySettings(site="resid_post.3").tokens
        100000
    """

    site: str = Field(description="site to train on, such as resid_post.3")
    tokens: int = Field(100_000, ge=1000, description="tokens to harvest")
    context: int = Field(128, ge=8, description="tokens per row (documents are packed into rows of this length)")
    evaluate_tokens: int = Field(10_000, ge=100, description="held-out tokens to evaluate it on")
    train: SaeConfig = Field(SaeConfig(), description="training settings; the seed is the experiment's")


class SearchSettings(Config):
    """Where to look for directions, and how many of the best to test by intervention.

    Example:
        >>> interp.pipeline.SearchSettings(positions=(-2, -1)).sites
        'resid_post.*'
    """

    sites: str = Field("resid_post.*", description="site or pattern to fit directions at")
    methods: tuple[str, ...] = Field(tuple(FITS), strict=False, description="methods to fit, by name")
    positions: tuple[int, ...] = Field(
        (-1,), strict=False, description="token positions in the prompt; negative counts from the end"
    )
    candidates: int = Field(8, ge=1, description="how many of the best directions to ablate and compare")
    baseline_draws: int = Field(5, ge=1, description="how many random and shuffled directions to compare the best with")
    trials: int | None = Field(None, ge=1, description="trials of a sweep whose file is the recipe [default: 60]")


class Experiment(Config):
    """The configuration of an end-to-end run, as a YAML file holds it.

    `Experiment.read(path, overrides)` reads a file and applies `key=value` changes.

    Example:
        >>> experiment = interp.pipeline.Experiment.parse({
        ...     "name": "Hostility", "model": "organism", "policy": {"target": "hostility"},
        ...     "data": {"text": "organism", "contrast": "organism.hostility"},
        ...     "dictionary": {"site": "resid_post.3"},
        ... })
        >>> experiment.search.candidates
        8
    """

    name: str = Field(description="title of the experiment")
    model: str = Field(description="organism, a hub id, or a folder, also relative to the experiment's file")
    dtype: str = Field("float32", description="dtype to load the model in: float32, bfloat16 or float16")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")
    seed: int = Field(0, ge=0, lt=2**63, description="seed of the data and of training")
    data: DataSettings = Field(description="the data")
    dictionary: DictionarySettings = Field(description="the autoencoder")
    search: SearchSettings = Field(SearchSettings(), description="where to look for directions")
    recipe: str | None = Field(None, description="folder or file of a recipe or a sweep, to take in place of a search")
    policy: Policy = Field(description="the policy that the audit must meet; its target is the harm to remove")


@dataclass(frozen=True)
class Summary:
    """The results of an experiment; `to_json` is the documented schema of summary.json."""

    audit: Audit
    certificate: Certificate
    decision: Decision
    baselines: tuple[Baseline, ...]
    damage: Damage
    seconds: float
    hashes: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        behaviours = {
            row.name: {"kind": row.kind, "before": asdict(row.before), "after": asdict(row.after)}
            for row in self.audit.rows
        }
        return {
            "behaviours": behaviours,
            "certificate": self.certificate.to_json(),
            "decision": self.decision.to_json(),
            "baselines": [asdict(baseline) for baseline in self.baselines],
            "damage": asdict(self.damage),
            "seconds": round(self.seconds, 1),
            "versions": versions(),
            "hashes": self.hashes,
        }


def run_experiment(
    experiment: Experiment,
    out: str | Path,
    folder: str | Path = ".",
    say: Say = lambda text: None,
    command: str = "interp.pipeline.run_experiment",
    resume: bool = False,
    force: bool = False,
) -> Summary:
    """Run an experiment into a new folder, or resume one that was interrupted.

    Args:
        experiment: What to run.
        out: New folder for the results. It appears only when the run is finished.
        folder: Folder that the paths in the experiment are relative to.
        say: Called with one line of text about each stage.
        command: The command that the report and `environment.json` record.
        resume: Continue a run into `out` that was interrupted; its settings must be the same.
        force: Export an edit even if it raises the loss of text beyond `interp.auditing.damage.LIMIT`.

    Returns:
        The audit, certificate, decision and baselines, which are also saved in `out`.

    Raises:
        InterpError: `out` exists, an interrupted run is in the way or had other settings, the data is missing or too
            small, or a stage refuses its input. Nothing is written to `out` then.

    Limitations:
        One seed is one sample: the interval of an audit covers the choice of items, not that of the seed.

    Example:
        >>> demo = files("interp.pipeline") / "demo.yaml"  # doctest: +SKIP
        >>> interp.pipeline.run_experiment(interp.pipeline.Experiment.read(demo), "results")  # doctest: +SKIP
    """
    began = time.perf_counter()
    torch.manual_seed(experiment.seed)
    experiment = _seeded(experiment)
    lines: list[str] = []

    def note(text: str) -> None:
        lines.append(f"{time.perf_counter() - began:8.1f} s  {text}")
        say(text)

    settings = experiment.model_dump(mode="json")
    with new_folder(out) as staging, unfinished_folder(out, settings, resume) as unfinished:
        model = _load_model(experiment, Path(folder), note)
        environment = Environment.now(command, str(model.device), Path(folder))
        materials = gather_materials(experiment.data, experiment.policy.target, experiment.seed, Path(folder))
        given = experiment.recipe and Path(folder) / experiment.recipe
        chosen = given and _given(experiment, model, materials, given, unfinished / "sweep", note, force)
        sae = _train_dictionary(experiment, model, materials, unfinished, note)
        sae.save(staging / "sae")
        chosen = chosen or _searched(experiment, model, materials, sae, note, force)
        recipe, damage, baselines = chosen.recipe, chosen.damage, chosen.baselines
        recipe.save(staging / "recipe")
        certificate = _export(recipe, model, materials, staging / "checkpoint", note)
        result = _audit(experiment, model, materials, recipe, staging / "checkpoint", note)
        result.save(staging / "audit.json")
        decision = decide(result, experiment.policy)
        features = _features(model, materials, sae, chosen.findings)
        hashes = _hashes(model, recipe, materials, staging)
        summary = Summary(result, certificate, decision, baselines, damage, time.perf_counter() - began, hashes)
        write_json(staging / "summary.json", summary.to_json())
        write_json(staging / "experiment.json", settings)
        write_json(staging / "environment.json", asdict(environment))
        write_text(staging / "log.txt", "\n".join(lines) + "\n")
        report = Report(
            title=experiment.name,
            model=model.reference,
            summary=f"Removal of {materials.target} from {model.name}: search, edit, export and audit",
            findings=chosen.findings,
            chosen=chosen.finding,
            sae=sae.metrics,
            features=features,
            recipe=recipe,
            certificate=certificate,
            audit=result,
            baselines=baselines,
            policy=experiment.policy,
            decision=decision,
            run=ReportedRun(command, summary.seconds, versions(), hashes),
        )
        write_report(report, staging / "report.html")
    return summary


@dataclass(frozen=True)
class _Chosen:
    """The recipe that is exported, what it costs, and its baselines; after a search, the findings and the best one."""

    recipe: Recipe
    damage: Damage
    baselines: tuple[Baseline, ...]
    findings: Findings | None = None
    finding: Finding | None = None


def _searched(
    experiment: Experiment, model: HookedModel, materials: Materials, sae: SparseAutoencoder, say: Say, force: bool
) -> _Chosen:
    findings = _fit_directions(experiment, model, materials, sae, say)
    best, damage = _choose(experiment, model, materials, findings, say, force)
    baselines = _baselines(experiment, model, materials, best, say)
    note = f"{experiment.name}: removes {materials.target}."
    return _Chosen(Recipe([("writers", Project(best.direction))], note=note), damage, baselines, findings, best)


def _given(
    experiment: Experiment, model: HookedModel, materials: Materials, path: Path, sweeps: Path, say: Say, force: bool
) -> _Chosen:
    recipe = recipe_at(path, model, sweeps, experiment.search.trials or 60, say)
    say(f"recipe      {plural(len(recipe.edits), 'edit')} of {path}")
    damage = measure_damage(model, recipe, materials.held_out_text)
    say(f"damage      {damage}")
    if not (damage.harmless or force):
        raise InterpError(f"{path} costs too much: {damage}; take another recipe, or force it (--force)")
    measured, seeds = _measured(materials), range(experiment.seed, experiment.seed + experiment.search.baseline_draws)
    random = baseline_of_recipe(model, recipe, measured, seeds)
    say(f"baselines   {materials.target} on the choosing items: random {random.scores[materials.target]:.3f}")
    return _Chosen(recipe, damage, (random,))


def _measured(materials: Materials) -> list[Behaviour]:
    """The target and the loss show effect and damage; the other behaviours would take most of the time."""
    return [x for x in materials.choose if x.name == materials.target or x.unit == "nats"]


def _seeded(experiment: Experiment) -> Experiment:
    """The experiment with its seed as the autoencoder's, so that one seed determines everything."""
    train_settings = experiment.dictionary.train.model_copy(update={"seed": experiment.seed})
    dictionary = experiment.dictionary.model_copy(update={"train": train_settings})
    return experiment.model_copy(update={"dictionary": dictionary})


def _load_model(experiment: Experiment, folder: Path, say: Say) -> HookedModel:
    model = load(model_beside(experiment.model, folder), dtype=experiment.dtype, device=experiment.device)
    say(f"model       {model.name}: {model.n_layers} layers, d_model {model.d_model}, weights {model.digest[:12]}")
    return model


def _train_dictionary(
    experiment: Experiment, model: HookedModel, materials: Materials, unfinished: Path, say: Say
) -> SparseAutoencoder:
    settings, folder = experiment.dictionary, unfinished / "store"
    store = harvest(model, materials.text, settings.site, folder, tokens=settings.tokens, context=settings.context)
    say(f"activations {plural(len(store), 'token')} at {settings.site}")
    sae = train(store, settings.site, settings.train, folder=unfinished / "sae").sae
    size = {"tokens": settings.evaluate_tokens, "context": settings.context}
    quality = evaluate(sae, model, materials.held_out_text, **size)
    say(
        f"sae         {sae.d_sae} latents, L0 {quality.l0:.0f}, FVU {quality.fvu:.3f}, "
        f"loss recovered {quality.loss_recovered:.3f}, dead {quality.dead_share:.1%}"
    )
    return replace(sae, metrics=quality)


def _fit_directions(
    experiment: Experiment, model: HookedModel, materials: Materials, sae: SparseAutoencoder, say: Say
) -> Findings:
    search = experiment.search
    findings = find(
        model, materials.contrast, search.sites, search.methods, search.positions, sae, seed=experiment.seed
    )
    best = findings.best()[0]
    say(f"directions  {len(findings)} fitted; best on held-out pairs: {best.direction}, AUROC {best.auroc:.3f}")
    return findings


def _choose(
    experiment: Experiment, model: HookedModel, materials: Materials, findings: Findings, say: Say, force: bool
) -> tuple[Finding, Damage]:
    trials = rank_by_ablation(
        model, findings.shortlist(experiment.search.candidates), materials.choose, materials.target
    )
    best, target = trials[0], materials.target
    say(
        f"recipe      {len(trials)} candidates ablated; best: {best.finding.direction} "
        f"({target} {best.before[target]:.3f} -> {best.after[target]:.3f} on the selection items)"
    )
    chosen, damage = harmless(model, [trial.finding for trial in trials], materials.held_out_text, force)
    say(f"damage      {damage}")
    return chosen, damage


def _baselines(
    experiment: Experiment, model: HookedModel, materials: Materials, chosen: Finding, say: Say
) -> tuple[Baseline, ...]:
    measured = _measured(materials)
    draws = experiment.search.baseline_draws
    baselines = tuple(
        measure_baselines(model, chosen.direction, materials.contrast, measured, experiment.seed, draws=draws)
    )
    shown = ", ".join(f"{baseline.name} {baseline.scores[materials.target]:.3f}" for baseline in baselines)
    say(f"baselines   {materials.target} on the same items: {shown}")
    return baselines


def _export(recipe: Recipe, model: HookedModel, materials: Materials, out: Path, say: Say) -> Certificate:
    probes = materials.contrast.prompts(model.render, model.chat)[0][:16]
    certificate = export(recipe, model, out, prompts=probes)
    leak = "" if certificate.leak is None else f", leak {certificate.leak:.1e}"  # none of an edit that removes a share
    say(
        f"export      max |logit difference| {certificate.max_abs_logit_diff:.1e}, KL {certificate.kl:.1e} nats "
        f"(the edit's own effect: {certificate.effect_kl:.1e}){leak}"
    )
    return certificate


def _audit(
    experiment: Experiment, model: HookedModel, materials: Materials, recipe: Recipe, checkpoint: Path, say: Say
) -> Audit:
    edited = load(checkpoint, dtype=experiment.dtype, device=experiment.device)
    edited.name = f"{model.name}, edited"  # its folder still has a temporary name
    # Baselines were measured on the choosing items; here they would take four times as long as the audit itself.
    result = audit(model, edited, materials.audit, seed=experiment.seed, recipe=recipe, baselines=())
    for row in result.rows:
        say(f"audit       {row.name} ({row.kind}): {row.before} -> {row.after}")
    return result


def _features(
    model: HookedModel, materials: Materials, sae: SparseAutoencoder, findings: Findings | None
) -> list[Feature]:
    """The latent that separates the contrast best, described."""
    best = findings.best(1, method=SAE_LATENT) if findings is not None and SAE_LATENT in findings.methods else []
    latents = [finding.latent for finding in best if finding.latent is not None]
    return feature_pages(sae, model, materials.text, latents, tokens=20_000)


def _hashes(model: HookedModel, recipe: Recipe, materials: Materials, staging: Path) -> dict[str, str]:
    weights = sorted((staging / "checkpoint").glob("*.safetensors"))
    digests = {"model": model.digest, "contrast": materials.contrast.digest, "recipe": recipe.digest}
    return digests | {f"checkpoint/{file.name}": sha256_file(file) for file in weights}
