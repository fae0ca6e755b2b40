"""Records far larger than a page, whose names and texts are markup. Nothing here was measured."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import depth_records
import sae_samples
import sample_records as sample
import torch
from transcoders import transcoder

import interp
from interp.attribution import (
    Agreement,
    AttentionPatterns,
    Attribution,
    Circuit,
    ComparedPairs,
    Comparison,
    EdgeGraph,
    EdgePatching,
    EdgeScores,
    Faithfulness,
    FaithfulnessCurve,
    Lens,
    LensReading,
    patch,
    trace_graph,
)
from interp.auditing import (
    AblationTrial,
    AutoencoderBench,
    Behaviour,
    BenchOptions,
    Decision,
    LabelledSet,
    RiskReport,
    ScoreCache,
)
from interp.auditing.auditor import Audit
from interp.auditing.autoencoders.bench_record import BenchMeasure, ConceptScore
from interp.auditing.baselines import Baseline
from interp.auditing.behaviours import Scores
from interp.auditing.damage import Damage
from interp.auditing.entanglement_matrix import EditEffect, Entanglement
from interp.auditing.policy.requirements import Reason
from interp.auditing.statistics.comparison import Estimate
from interp.auditing.stress.gate_calibration import GateThreshold
from interp.auditing.stress.transformation import Slice, StressFile, Transformation
from interp.data import ChatEndpoint, Turn, encode, pack
from interp.directions import Eraser, ErasureFitter, Findings, ReftR1, Sides, SteeringVector
from interp.directions.controls import ControlScore
from interp.directions.findings import Failure
from interp.editing import AffineFit, Distilled, ExportEstimate, Fidelity, Plan
from interp.editing.approximate.low_rank_factors import Distillation
from interp.editing.fold import PlannedEdit
from interp.features import (
    BalancedAccuracy,
    Book,
    Cost,
    DescribedLatents,
    Description,
    FeatureLabel,
    FoundLatents,
    ScanOptions,
)
from interp.features.book_card import BookAutoencoder, BookCard
from interp.features.descriptions.accuracy import Answer
from interp.features.latent_search import LatentMatch
from interp.models import Continuations, HookedModel, ModelReference, Site
from interp.sae import TrainedSae
from interp.sae.feature import Feature
from interp.sae.training.state import ProgressPoint
from interp.search import SweepFile, SweepRecord, SweepTrial, UnitFactors
from interp.search.sweeps.confirmation import ConfirmedChange, ConfirmedPoint
from interp.upkeep import (
    ComparedReplies,
    Curation,
    Drift,
    Feedback,
    LabelledDocument,
    LedgerEntry,
    MethodComparison,
    ModelDrift,
    Passage,
    PredictedChange,
    PreferenceDirection,
    RaterAgreement,
    Thresholds,
    TuningRecord,
)
from interp.upkeep.drift.crosscoder_difference import CrosscoderDifference, ExclusiveLatent
from interp.upkeep.drift.drift_record import BehaviourChange
from interp.upkeep.drift.latent_changes import FiringChange
from interp.upkeep.drift.site_changes import ProjectionChange, SiteChange
from interp.upkeep.drift.token_divergence import DivergentToken, TokenDivergence
from interp.views import Conversation, LatentCard, LatentDifference, NextTokenDifference, TokenHeat
from interp.views.workbench.difference import NextTokens

EVIL = "<script>alert('x')</script>\n&"
SITES = [f"resid_post.{layer}" for layer in range(60)]


def large_records(model: HookedModel, folder: Path) -> Iterator[object]:
    """One record or more of each public class that says itself what it shows."""
    text, n = [f"w5 w{number % 90 + 4} w9" for number in range(100)], 100
    yield model
    acts = model.capture(text, ["writers", "resid_post.*", "z.*"])
    yield acts
    yield acts.tokens
    yield pack(encode(text, model.tokenizer), context=16)
    yield Continuations.of(model, text, [" w4"] * n)
    yield interp.harvest(model, text, ["resid_post.*", "mlp_out.*"], folder / "a<b>&c", context=16)
    yield interp.Stream(model, text, "resid_post.*", context=16)
    comparison = Comparison([f"w5 w{number % 90 + 4} w9" for number in range(n)], ["w5 w99 w9"] * n, name=EVIL)
    yield comparison
    yield comparison.on(model)
    yield patch(model, comparison, "z.*", by="head")
    yield Agreement(0.5, 0.5, n, ((EVIL, 0.1, 0.2),) * n)
    yield AttentionPatterns(EVIL, (EVIL,) * n, (0,), torch.rand(1, 2, n, n))
    yield model.run_with_cache(text[0])[1]
    graph = trace_graph(model, [transcoder(model)], [[5, 9, *range(10, 40)]])
    yield replace(graph, targets=(EVIL,) * len(graph.targets), tokens=(EVIL,) * len(graph.tokens))
    yield graph.effects
    yield from _circuits(comparison.on(model))
    yield from _directions(n)
    yield from _audits(model, n, folder)
    yield from _edits(n)
    yield from _searches(folder, n)
    yield from _upkeep(n)
    sae = sae_samples.autoencoder(model)
    yield replace(sae, metrics=sample.quality())
    point = ProgressPoint(1000, 0.2, 0.1, 5.0, 1, 1e-3, 0.0)
    yield TrainedSae(sae, (point,) * n, torch.zeros(40))
    known = {f"{EVIL}{k}": BookAutoencoder(digest=EVIL, site=EVIL, d_sae=9) for k in range(n)}
    card = BookCard(
        model=model.reference, autoencoders=known, source=EVIL, tokens=n, options=ScanOptions(), versions={}
    )
    yield Book(folder / "a<b>&c", card)
    answers = [Answer(place=k, fires=k % 2 == 0, said=True) for k in range(n)]
    described = Description(sae=EVIL, latent=5, rater=EVIL, text=EVIL * n, digest=EVIL, answers={"detection": answers})
    yield described
    yield DescribedLatents((described,) * n, (5,) * n, (5,) * n)
    yield BalancedAccuracy.of([answers])
    yield Cost(n, n, n)
    yield ChatEndpoint("http://localhost/v1", EVIL * n)
    match = LatentMatch(EVIL, 5, 1.0, EVIL, EVIL)
    yield match
    yield FoundLatents({"text": EVIL}, (match,) * n, n, ((EVIL, ((EVIL, 5, 1.0),) * 3),) * n)
    feature = sample.feature()
    yield replace(feature, promoted=((EVIL, 1.0),) * n, nearest=((5, 0.5),) * n)
    yield from _workbench(model, feature, n)
    yield sample.quality()
    yield sample.report()


def _circuits(pairs: ComparedPairs) -> Iterator[object]:
    graph = EdgeGraph(20, 8, 512)
    yield EdgeScores(graph, torch.randn(graph.edges.shape) * graph.edges, EVIL, Agreement(0.9, 0.9, 48, ()))
    yield EdgePatching(pairs, tuple(graph.index)[:500], torch.randn(500, len(pairs)))
    circuit = Circuit(graph, graph.edges, name=EVIL)
    yield circuit
    result = Faithfulness(pairs, circuit, "mean", pairs.clean_values, pairs.corrupt_values)
    yield result
    yield FaithfulnessCurve((0.1,) * 100, (result,) * 100)


def _directions(n: int) -> Iterator[object]:
    pairs = interp.Contrast.of([(f"{EVIL} {number}", f"b {number}") for number in range(n)], EVIL)
    yield pairs
    yield pairs.split()
    found, site = sample.findings(), Site("resid_post", 4)
    controls = tuple(ControlScore(name, site, -1, 0.6, (0.6,) * n) for name in ("random", "shuffled"))
    failures = (Failure(EVIL, site, -1, EVIL * n),) * n
    findings = Findings(found.rows * n, pairs, n, controls, failures)
    yield findings
    yield findings.best(n)
    finding = found.best()[0]
    yield replace(finding, alignment={f"{EVIL}{number}": 0.1 for number in range(n)}, stability=0.9)
    yield replace(finding.direction, scores=dict.fromkeys(map(str, range(n)), 0.5), method=EVIL)
    rows, mean = torch.eye(512).double(), torch.zeros(512).double()
    yield Eraser(rows, rows, mean, EVIL, n, {"p": 0.01, "displaced": 0.1})
    yield ErasureFitter(512, 2)
    yield Sides(torch.zeros(n, 512), torch.zeros(n, 512))
    yield SteeringVector(finding.direction, 2.0, 3.0, 1.0, 0.3, (1.0,) * n)
    scales = [(f"mlp_post.{layer}", interp.interventions.Scale(torch.zeros(n))) for layer in range(60)]
    yield UnitFactors(interp.Recipe(scales), (("mlp_post.3", 1, 0.5),) * n, 3.0, 1.0, 0.01, ((1.0, 0.1),) * n)
    yield ReftR1(finding.direction, 0.0, 1.0, 0.5, 0.9, ((1.0, 1.0, 1.0),) * n)
    writers = {Site("mlp_out", layer): torch.ones(n) for layer in range(60)}
    attribution = Attribution(writers, torch.zeros(n), 60 * torch.ones(n))
    yield attribution
    yield attribution.top(n)
    sites = [Site("resid_post", layer) for layer in range(60)]
    yield Lens("tuned", {site: torch.zeros(8, 8) for site in sites}, {}, sample.MODEL, settings={EVIL: 1})
    ids, cells = torch.zeros(60, n, 10, dtype=torch.long), torch.zeros(60, n)
    yield LensReading("tuned", sample.MODEL, tuple(sites), (EVIL,) * n, ids, ids + 0.1, cells, cells, {0: EVIL})


def _audits(model: HookedModel, n: int, folder: Path) -> Iterator[object]:
    audit = sample.audit()
    names = [f"{EVIL}{number}" for number in range(n)]
    rows = tuple(replace(audit.rows[number % 6], name=name) for number, name in enumerate(names))
    changes, p = dict.fromkeys(names, rows[0].difference), dict.fromkeys(names, 0.1)
    baseline = Baseline("random", dict.fromkeys(names, 0.5), (dict.fromkeys(names, 0.5),) * 5, changes, p)
    large = Audit(rows, audit.before, audit.after, audit.examples * n, (baseline,))
    day, digests = "2026-03-01", {"weights": "a" * 64, "recipe": "b" * 64, "policy_sha256": "c" * 64}
    texts = dict.fromkeys(("measured", "not_measured", "residual_risk", "safeguards", "supersedes"), (EVIL,) * n)
    grade = {"policy": EVIL, "outcome": "deny", "tier": EVIL, "statement": EVIL, "signatures_at_least": n}
    yield RiskReport(
        model=EVIL, made=day, next_audit=day, decided_by=EVIL, audits=(), rows=({EVIL: EVIL},) * n,
        requirements=((EVIL, EVIL),) * n, **digests, **texts, **grade,
    )  # fmt: skip
    yield depth_records.depth(dict.fromkeys(names, depth_records.rate(0.1, 0.2)), behaviour=EVIL, model=EVIL)
    yield large
    yield rows[0]
    yield baseline
    yield Entanglement.of({"edit": large})
    yield Behaviour(EVIL, "harm", EVIL * n, tuple(names), lambda model: Scores(()))
    yield Scores((0.5,) * n, (EVIL,) * n)
    yield Decision(tuple(Reason(None, name * 20) for name in names), EVIL, tuple(names))
    yield ScoreCache(folder)
    yield interp.auditing.ModelCondition(model, None, EVIL * n)
    scores = dict.fromkeys(names, 0.5)
    yield AblationTrial(sample.findings().best()[0], 0.2, scores, scores)
    yield interp.Policy(target=EVIL, required=tuple(names))
    share = rows[0].after
    measured = {"value": share, "controls": dict.fromkeys(names, share), "gaps": dict.fromkeys(names, share)}
    measure = BenchMeasure(part=EVIL, name=EVIL * n, better="higher", **measured)
    concept = ConceptScore(concept=EVIL, latent=n, f1=share, probe=share, controls=dict.fromkeys(names, share))
    known = {"name": EVIL, "digest": "a" * 64, "described": EVIL * n, "model": sample.MODEL, "options": BenchOptions()}
    rows_of = {"measures": (measure,) * n, "concepts": (concept,) * n, "notes": (EVIL,) * n}
    yield AutoencoderBench(**known, **rows_of)
    yield LabelledSet(EVIL, tuple(names), tuple(x % 2 == 0 for x in range(len(names))), tuple(names))
    yield GateThreshold(EVIL * n, 1.0, share, share, (share, share))
    yield Transformation(replace=dict.fromkeys(names, EVIL), prompt=f"{EVIL * n} {{prompt}}")
    yield StressFile(
        version=1, slices=dict.fromkeys(names, Slice(statement=EVIL * n, transformations=({"encode": "upper"},)))
    )


def _edits(n: int) -> Iterator[object]:
    project = interp.Project(torch.ones(4096))
    recipe = interp.Recipe([(SITES, project)] * n, note=EVIL * n)
    yield project
    yield interp.At(project, list(range(n)))
    yield interp.interventions.Resample(torch.zeros(n, 64), units=list(range(n)))
    yield recipe
    yield recipe.edits[0]
    items = (PlannedEdit("Project", tuple(SITES), "approximate", EVIL),) * n
    yield items[0]
    yield Plan({}, items=items)
    fidelity = Fidelity(0.9, 0.01, 0.2, n)
    yield fidelity
    yield AffineFit(recipe, fidelity, n, items)
    digests = {"recipe": "a" * 64, "base": "a" * 64, "texts": "a" * 64}
    sizes = dict.fromkeys(("seed", "batch_size", "context", "documents", "tokens", "held_out_documents"), 1)
    record = Distillation(**digests, rank=4, steps=5, lr=0.1, **sizes, held_out_tokens=n, kl=0.1, effect_kl=0.2)
    yield record
    yield Distilled({name: (torch.ones(9, 2), torch.ones(2, 9)) for name in SITES}, record)
    yield ExportEstimate(10**12, 10**11, 10**9, 100.0)
    certificate = sample.certificate()
    yield replace(certificate, leak_by_writer=dict.fromkeys(SITES, 0.1))
    yield replace(certificate, status="approximate", fold=None)


def _searches(folder: Path, n: int) -> Iterator[object]:
    """A sweep with a front of many points, and a point of it with many behaviours."""
    measure = {"suites": [EVIL + ".yaml"]}
    settings = SweepFile.parse({"name": EVIL, "model": EVIL, "recipe": {EVIL: EVIL * n}, "measure": measure})
    params = dict.fromkeys((f"{EVIL}.{number}" for number in range(n)), EVIL)
    trials = tuple(
        SweepTrial(number, "complete", params, costs=(number / n, -number / n), reason=EVIL * n) for number in range(n)
    )
    score = Estimate(0.5, 0.4, 0.6, n)
    changes = (ConfirmedChange(EVIL, "harm", "rate", -0.1, score, score, score, True, (0.1,) * n),) * n
    importance = dict.fromkeys((EVIL, "kl"), dict.fromkeys(params, 0.01))
    yield trials[0]
    yield ConfirmedPoint(3, changes)
    confirmed = (ConfirmedPoint(3, changes),)
    yield SweepRecord(folder, settings, (EVIL, "kl"), (1, -1), (1.0, 0.0), trials, confirmed, importance)


def _upkeep(n: int) -> Iterator[object]:
    """A curation of many scores, and the cuts of one."""
    score = Estimate(0.5, 0.4, 0.6, n)
    areas = dict.fromkeys((f"{EVIL}{number}" for number in range(n)), 0.9)
    cuts = Thresholds(EVIL, 0.1, 0.2, areas, score, score, score)
    yield cuts
    yield LabelledDocument(EVIL * n, True)
    yield Passage(3, 1.0, ((EVIL, 0.5),) * n)
    passages = (Passage(3, 1.0, ((EVIL, 0.5),) * n),) * n
    changes = (PredictedChange(EVIL, EVIL, score, score, score),) * n
    means = {EVIL: dict.fromkeys(areas, 0.5)}
    yield Curation(EVIL * n, "digest", {EVIL: EVIL * n}, {EVIL: n}, n, True, cuts, means, changes, passages)
    agreement = RaterAgreement(score, dict.fromkeys(areas, score), score)
    direction = PreferenceDirection(EVIL, EVIL, dict.fromkeys(areas, score), areas, Damage(1.0, 2.0))
    yield ComparedReplies(Turn(EVIL, EVIL), Turn(EVIL), dict.fromkeys(areas, True))
    yield Feedback(EVIL * n, n, n, agreement, dict.fromkeys(areas, (1, n)), (direction,) * n)
    drift = drifts(n)
    yield from (drift, drift.models[0])
    yield LedgerEntry(3, EVIL, {EVIL: EVIL}, replace(sample.audit(), items={}), "")
    base = ModelReference(name=EVIL * n, digest="a" * 64, model_type="llama", d_model=1, n_layers=1)
    ratios = {"losses": (0.5,) * n, "log_ratio": 0.0, "blocked_log_ratio": 0.1}
    files = dict.fromkeys(areas, "a" * 64)
    data = {"data": EVIL * n, "data_digest": "a" * 64, "rows": n, "options": {EVIL: EVIL * n}}
    places = {"source": EVIL, "block": EVIL * n, "files": files, "versions": files}
    yield TuningRecord(method="dpo", base=base, **data, **ratios, **places)
    effect = EditEffect(score, 0.1, 0.2, "harm", "rate")
    columns = dict.fromkeys(areas, dict.fromkeys(areas, effect))
    yield MethodComparison(dict.fromkeys(areas, score), Entanglement(columns), dict.fromkeys(areas, 1.0))


def _workbench(model: HookedModel, feature: Feature, n: int) -> Iterator[object]:
    label = FeatureLabel(sae=EVIL, latent=3, text=EVIL, note=EVIL * n, rater=EVIL)
    example = {"kind": "quarter1", "tokens": (EVIL,) * n, "values": (0.5,) * n, "value": 0.5, "peak": 3}
    counted = dict.fromkeys(("count", "mean", "largest", "lens", "ablation"), 1e30)
    partners = {"cofiring": [{"latent": 3, "share": 0.5}] * n}
    yield LatentCard(EVIL, feature, counted | partners, (label,) * n, (example,) * n)
    heat, words = TokenHeat(EVIL * n, (EVIL,) * n, torch.linspace(-1, 1, n)), ((EVIL, 0.5),) * 3
    yield heat
    yield NextTokenDifference((EVIL, EVIL * n), heat, (NextTokens(EVIL, 0.5, words, words),) * n)
    only = ((5, 0.1),) * n
    yield LatentDifference((EVIL, EVIL * n), ((3, 4, 0.9),) * n, (only, only), ({3: EVIL}, {5: EVIL * n}))
    talk = Conversation(
        model, dict.fromkeys([f"{EVIL}{k}" for k in range(5)], interp.Recipe([("mlp_out.1", interp.Add([1.0] * 32))]))
    )
    talk.messages = (EVIL,) * n
    yield talk


def drifts(n: int) -> Drift:
    """A drift of many of everything."""
    score, words = Estimate(0.5, 0.4, 0.6, n), (EVIL,) * 10
    behaviour = BehaviourChange(EVIL, "harm", "rate", score, score, score, 0.1, 0.2, 1.0, True)
    token = DivergentToken(n, EVIL, EVIL, 2.5, (EVIL, 0.5), (EVIL, 0.9))
    latent = ExclusiveLatent(n, "second", 0.1, 0.05, 0.1, 0.2, True, words)
    model = ModelDrift(
        sample.MODEL.model_copy(update={"name": EVIL}),
        "audit-1.json",
        (behaviour,) * n,
        TokenDivergence(score, 0.1, 0.2, n, (token,) * n),
        (SiteChange("resid_post.0", 0.9, 0.1, words, words),) * n,
        (ProjectionChange(EVIL, "resid_post.0", score, 0.01, True),) * n,
        (FiringChange(n, 0.1, 0.9, score, True),) * n,
        CrosscoderDifference("resid_post.0", n, (0.1, 0.2), (latent,) * n),
        "deny",
        (EVIL,) * n,
    )
    return Drift(model.model, (model,) * n, {"tokens": n, "documents": n})
