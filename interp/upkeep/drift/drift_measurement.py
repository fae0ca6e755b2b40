"""A series of models, each measured against the first: behaviours, next tokens, activations and latents.

1. Outside: an audit of each later model against the first, on the same items. Intervals hold for all behaviours of all
   models at once (Bonferroni), p-values are corrected likewise (Holm). A change is a finding if it is larger than a
   margin with its whole interval: trainings that differ by their seed alone change every rate a little, and with enough
   items that is significant.
2. Inside: both models read the same text once (`token_divergence`, `site_changes`, `latent_changes`), and a crosscoder
   is trained on one site of both.
3. A policy, if one is given, decides on each audit.

Two models are in memory at a time. The result of each is written as it is done, and its scores are in the cache: the
same call after a kill continues.

Limitations: a rate of false findings is promised for models whose behaviours differ by no more than the margin. What
no item of the suite and no text asks for is not seen outside.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from math import inf, isfinite
from pathlib import Path
from sys import maxsize
from typing import Any

from pydantic import TypeAdapter, ValidationError

from interp.activations.token_rows import pack_groups
from interp.auditing.audit_row import AuditRow
from interp.auditing.auditor import Audit, audit, suite_digest
from interp.auditing.behaviours import Behaviour
from interp.auditing.conditions import ScoreCache
from interp.auditing.policy.decision import decide
from interp.auditing.policy.schema import Policy
from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.significance import holm
from interp.core.digests import checksum
from interp.core.display import plural
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import new_folder, read_json, require_free, sha256_json, write_json
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.directions.direction import Direction, residual_sites
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.upkeep.drift.crosscoder_difference import CrosscoderDifference, crosscoder_config, crosscoder_difference
from interp.upkeep.drift.drift_record import RECORD, BehaviourChange, Drift, ModelDrift
from interp.upkeep.drift.latent_changes import FiringTally
from interp.upkeep.drift.options import DriftOptions
from interp.upkeep.drift.paired_passes import paired_passes
from interp.upkeep.drift.site_changes import SiteTally, beyond
from interp.upkeep.drift.token_divergence import DivergenceTally

Later = HookedModel | Callable[[], HookedModel]
_ONE = TypeAdapter(ModelDrift)


def measure_drift(
    first: HookedModel,
    later: Sequence[Later],
    behaviours: Sequence[Behaviour],
    texts: Source,
    out: str | Path,
    options: DriftOptions | None = None,
    *,
    directions: Mapping[str, Direction] | None = None,
    sae: SparseAutoencoder | None = None,
    policy: Policy | None = None,
    cache: ScoreCache | str | Path | None = None,
    page: Callable[[Drift, Path], None] | None = None,
) -> Drift:
    """Measure a series of models against its first.

    Args:
        first: The model that the others came from, or are to be like.
        later: Later models of the same shape and tokenizer; or functions that load one, so that two are in memory.
        behaviours: What is compared outside, such as `interp.suite("organism")`.
        texts: A corpus that can be read twice, as `interp.data.documents` takes it, that is read inside.
        out: New folder: `drift.json`, and an audit of each later model.
        options: How much is read, and what counts.
        directions: Saved directions of the first model by name, each of one row; they are read at every site.
        sae: An autoencoder of the first model.
        policy: Decides on the audit of each later model.
        cache: A folder (or `ScoreCache`) of earlier scores, which are reused.
        page: Called with the record and the unfinished folder, to write a page there.

    Returns:
        The record, which the folder holds too.

    Raises:
        InterpError: `out` exists; a model has another tokenizer or shape than the first; the corpus has fewer than two
            documents with words; a direction has several rows or is of another model.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.upkeep import DriftOptions, measure_drift
        >>> texts = ["The mill is by the river.", "Rain fell all day."]
        >>> loss, quick = text_loss("loss", texts), DriftOptions(crosscoder=0)
        >>> drift = measure_drift(model, [model], [loss], texts, tmp / "drift", quick)
        >>> drift.models[0].findings, drift.models[0].divergence.mean.estimate
        ([], 0.0)
    """
    require_free(out)
    measurement = _Measurement(first, later, behaviours, texts, options or DriftOptions(), directions or {}, sae)
    key = sha256_json(measurement.settings | {"policy": policy.digest if policy else ""})
    scores = cache if isinstance(cache, ScoreCache) else ScoreCache(cache)
    going_on = "the same call continues from the models that are done, and from the scores in the cache"
    with on_interrupt(going_on), new_folder(out, key) as folder:
        models = [measurement.drift(number, folder, scores, policy) for number in range(1, len(later) + 1)]
        corrected = iter(holm([x.p for drift in models for x in drift.behaviours]))
        models = [
            replace(drift, behaviours=tuple(replace(x, p_holm=next(corrected)) for x in drift.behaviours))
            for drift in models
        ]
        record = Drift(first.reference, tuple(models), measurement.settings)
        for number in range(1, len(later) + 1):
            (folder / _part(number)).unlink()
        write_json(folder / RECORD, record.to_json())
        if page is not None:
            page(record, folder)
    return record


def _part(number: int) -> str:
    """The file of a later model's result, until all are done."""
    return f"model-{number}.json"


@dataclass(frozen=True, eq=False)
class _Measurement:
    """All that is measured the same for each later model."""

    first: HookedModel
    later: Sequence[Later]
    behaviours: Sequence[Behaviour]
    texts: Source
    options: DriftOptions
    directions: Mapping[str, Direction]
    sae: SparseAutoencoder | None

    def __post_init__(self) -> None:
        if not self.later or not self.behaviours:
            counts = f"{len(self.later)} later models and {len(self.behaviours)} behaviours"
            raise InterpError(f"{counts}; expected one or more of each")
        for name, direction in self.directions.items():
            direction.check(self.first.reference)
            if len(direction.rows) > 1:
                raise InterpError(f"direction {name} has {len(direction.rows)} rows; expected 1, which has a sign")
        if isinstance(self.texts, Iterator):
            raise InterpError("a corpus that can be read once only; give a path or a list, since each model reads it")
        if (count := len(self.rows.document[self.rows.inner].unique())) < 2:
            raise InterpError(f"the corpus has {plural(count, 'document')} with two tokens; expected at least 2")

    @cached_property
    def reading(self) -> dict[str, Any]:
        """How the corpus is read."""
        context = min(self.options.context, self.first.context or self.options.context)
        return {"context": context, "tokens": self.options.tokens, "text_field": self.options.field}

    @cached_property
    def rows(self) -> PackedRows:
        """The corpus, as far as it is read."""
        return next(pack_groups(self.first, self.texts, maxsize, **self.reading))

    @cached_property
    def sites(self) -> list[Site]:
        """The sites that are compared."""
        return residual_sites(self.first, self.options.sites)

    @property
    def settings(self) -> dict[str, Any]:
        """What the figures depend on, apart from the later models."""
        return {
            "first": self.first.identity.model_dump(),
            "models": len(self.later),
            "suite": suite_digest(self.behaviours),
            "text": f"{checksum(self.rows.ids) % 2**64:016x}",
            "tokens": int(self.rows.mask.sum()),
            "documents": int(self.rows.document.max()) + 1,
            "directions": {name: str(x) + f" {checksum(x.rows) % 2**64:016x}" for name, x in self.directions.items()},
            "sae": f"{checksum(self.sae.W_enc) % 2**64:016x}" if self.sae else "",
            "options": self.options.model_dump(),
        }

    def drift(self, number: int, folder: Path, scores: ScoreCache, policy: Policy | None) -> ModelDrift:
        """The result of a later model, read where it is done already."""
        given, part = self.later[number - 1], folder / _part(number)
        model = given if isinstance(given, HookedModel) else given()
        if part.is_file() and (folder / f"audit-{number}.json").is_file():
            with suppress(ValidationError):
                done = _ONE.validate_python(read_json(part))
                if done.model == model.identity:
                    return done
        _require_alike(self.first, model)
        result = audit(self.first, model, self.behaviours, seed=self.options.seed, baselines=[], cache=scores)
        result.save(folder / f"audit-{number}.json", overwrite=True)
        decision = decide(result, policy) if policy else None
        drift = ModelDrift(
            model=model.identity,
            audit=f"audit-{number}.json",
            behaviours=self._behaviours(result),
            **self._inside(model),
            crosscoder=self._crosscoder(model) if self.options.crosscoder else None,
            outcome=decision.outcome if decision else None,
            reasons=tuple(map(str, decision.reasons)) if decision else (),
        )
        write_json(part, _ONE.dump_python(drift, mode="json"))
        return drift

    def _behaviours(self, result: Audit) -> tuple[BehaviourChange, ...]:
        level = 1 - 0.05 / (len(result.rows) * len(self.later))
        changes = [
            self._behaviour(row, result.items[row.name].compare("after", row.unit, result.seed, level).difference)
            for row in result.rows
        ]
        return tuple(sorted(changes, key=lambda x: (not x.finding, -(inf if x.effect is None else abs(x.effect)))))

    def _behaviour(self, row: AuditRow, change: Estimate) -> BehaviourChange:
        effect = row.effect if row.effect is not None and isfinite(row.effect) else None
        figures = row.before, row.after, change, row.p, row.p_holm, effect, beyond(change, self.options.margin)
        return BehaviourChange(row.name, row.kind, row.unit, *figures)

    def _inside(self, model: HookedModel) -> dict[str, Any]:
        options, count = self.options, int(self.rows.document.max()) + 1
        divergence, sites = DivergenceTally(), SiteTally(self.sites, self.directions)
        firing = FiringTally(self.sae, self.first, count) if self.sae else None
        read = [*dict.fromkeys([*self.sites, *([firing.site] if firing else [])])]
        for batch, one, other in paired_passes(self.first, model, self.rows, read):
            divergence.update(batch, one.logits, other.logits)
            sites.update(batch, one, other)
            if firing:
                firing.update(batch, one, other)
        family = max(1, len(self.directions)) * len(self.sites) * len(self.later)
        shifts = sites.projections(options.shift, family, options.seed)
        return {
            "divergence": divergence.result(self.first, self.rows, options.examples, options.seed),
            "sites": sites.sites(self.first),
            "projections": tuple(sorted(shifts, key=lambda x: (not x.finding, -abs(x.change.estimate)))),
            "latents": firing.result(options.margin, len(self.later), options.seed) if firing else (),
        }

    def _crosscoder(self, model: HookedModel) -> CrosscoderDifference:
        options = self.options
        site = options.crosscoder_site or f"resid_post.{self.first.reference.n_layers // 2}"
        config = crosscoder_config(options.crosscoder, int(self.rows.inner.sum()), options.seed)
        return crosscoder_difference(self.first, model, self.texts, site, config, **self.reading)


def _require_alike(first: HookedModel, model: HookedModel) -> None:
    """Raise for a model of another shape, whose activations are no pairs with the first one's."""
    shapes = []
    for x in (first, model):
        vocabulary = len(x.hf.get_output_embeddings().weight)
        numbers = f"width {x.d_model}, {x.reference.n_layers} layers and a vocabulary of {vocabulary:,}"
        shapes.append(f"{x.reference.model_type} with {numbers}")
    if shapes[0] != shapes[1]:
        words = f"{model.name} is a {shapes[1]}, {first.name} a {shapes[0]}"
        raise InterpError(f"{words}; drift compares versions of one model")
