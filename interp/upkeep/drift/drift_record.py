"""The record of a drift: what changed between a model and each later one, and what of it counts."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from interp.auditing.behaviours import Kind, Unit
from interp.auditing.policy.decision import Outcome
from interp.auditing.statistics.comparison import Estimate
from interp.core.display import Card, Displayed
from interp.core.errors import InterpError, nearest
from interp.models.identity import ModelReference
from interp.upkeep._records import read_record
from interp.upkeep.drift.crosscoder_difference import CrosscoderDifference
from interp.upkeep.drift.latent_changes import FiringChange
from interp.upkeep.drift.site_changes import ProjectionChange, SiteChange
from interp.upkeep.drift.token_divergence import TokenDivergence

RECORD = "drift.json"


@dataclass(frozen=True)
class BehaviourChange(Displayed):
    """A behaviour in the first model and in a later one, on the same items.

    Attributes:
        name, kind, unit: Those of the behaviour.
        before, after: Means with 95 % intervals.
        change: The paired difference, with an interval that holds for all behaviours and models at once.
        p, p_holm: p-value of no difference, and the same corrected over the suite and the series.
        effect: Cohen's h for rates, else the difference in standard deviations; None where it is infinite.
        finding: Whether the change is larger than the margin with its whole interval.
    """

    name: str
    kind: Kind
    unit: Unit
    before: Estimate
    after: Estimate
    change: Estimate
    p: float
    p_holm: float
    effect: float | None
    finding: bool


@dataclass(frozen=True)
class ModelDrift(Displayed):
    """What changed in one later model.

    Attributes:
        model: The model.
        audit: File of its audit against the first model, in the folder of the drift.
        behaviours: Changes of behaviour, the largest effects first.
        divergence: Of the next token on the text.
        sites: Similarity and mean difference by site.
        projections: Shifts along directions, the largest first.
        latents: Latents whose firing changed most.
        crosscoder: Latents shared and exclusive, if one was trained.
        outcome: Decision of the policy; None without one.
        reasons: Its requirements, each with whether it is met.
    """

    model: ModelReference
    audit: str
    behaviours: tuple[BehaviourChange, ...]
    divergence: TokenDivergence
    sites: tuple[SiteChange, ...]
    projections: tuple[ProjectionChange, ...]
    latents: tuple[FiringChange, ...]
    crosscoder: CrosscoderDifference | None
    outcome: Outcome | None
    reasons: tuple[str, ...]

    @property
    def findings(self) -> list[str]:
        """What counts, in words: behaviours, then directions with their largest shift, then latents."""
        words = [f"{x.name} changed by {x.change}" for x in self.behaviours if x.finding]
        for name in dict.fromkeys(x.direction for x in self.projections if x.finding):
            largest = next(x for x in self.projections if x.direction == name and x.finding)
            place = f"at {largest.site} by {largest.change} deviations, and grew most at {self.grew_at(name)}"
            words.append(f"along {name} the activations shifted {place}")
        return [*words, *(f"latent {x.latent} fires in {x.change} more documents" for x in self.latents if x.finding)]

    def grew_at(self, direction: str) -> str:
        """The site at which the shift along a direction grew most over the site before: where the change was made."""
        shifts = {x.site: abs(x.change.estimate) for x in self.projections if x.direction == direction}
        if not shifts:
            known = dict.fromkeys(x.direction for x in self.projections)
            raise InterpError(f"no direction {direction!r} was read; {nearest(direction, known)}")
        sizes = [shifts[site.site] for site in self.sites]
        growth = [size - before for before, size in pairwise([0.0, *sizes])]
        return self.sites[growth.index(max(growth))].site

    def _card(self) -> Card:
        facts = [("KL", str(self.divergence.mean)), ("findings", len(self.findings), "; ".join(self.findings))]
        return self.model.name, facts + ([("decision", self.outcome)] if self.outcome else [])


@dataclass(frozen=True)
class Drift(Displayed):
    """A series of models against its first.

    Attributes:
        first: The first model.
        models: What changed in each later one, in their order.
        settings: What the figures depend on.

    Example:
        >>> from interp.upkeep import Drift
        >>> Drift(model.reference, (), {}).outcome is None
        True
    """

    first: ModelReference
    models: tuple[ModelDrift, ...]
    settings: Mapping[str, Any]

    @property
    def outcome(self) -> Outcome | None:
        """The worst decision over the series: deny, inconclusive, allow; None without a policy."""
        outcomes = {drift.outcome for drift in self.models}
        order: tuple[Outcome, ...] = ("deny", "inconclusive", "allow")
        return next((outcome for outcome in order if outcome in outcomes), None)

    @classmethod
    def read(cls, folder: str | Path) -> "Drift":
        """Read the record of a folder that `measure_drift` wrote. Raises where there is none, or a damaged one."""
        return read_record(cls, Path(folder) / RECORD, "a drift")

    def to_json(self) -> dict[str, Any]:
        """Plain values, as `drift.json` has them."""
        values: dict[str, Any] = _DRIFT.dump_python(self, mode="json")
        return values

    def _card(self) -> Card:
        return self.first.name, [
            (drift.model.name, len(drift.findings), "; ".join(drift.findings)) for drift in self.models
        ]


_DRIFT = TypeAdapter(Drift)
