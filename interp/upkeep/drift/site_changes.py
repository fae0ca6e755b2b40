"""What changed at each site: how alike the activations are, what their mean difference promotes, shifts of projections.

1. Linear CKA (Kornblith et al. 2019, https://arxiv.org/abs/1905.00414) between the activations of the same tokens is 1
   where they are alike up to a rotation and a scale.
2. The difference lens (Minder et al. 2025, https://arxiv.org/abs/2510.13900): which tokens the mean difference of the
   activations promotes on text that is not about the change. Narrow training leaves such a trace.
3. A direction's shift is the mean change of the projection, in standard deviations of the first model's tokens. All of
   a model's activations move a little when it is trained on anything, so the shift is compared with those along 9,999
   random directions that are drawn with the covariance of the activations: p is the share that shift as far. The
   interval is over documents. A shift is a finding if it is larger than the limit with its whole interval, and rarer
   than chance, both corrected.

Limitations: the lens and CKA have no null here, and decide nothing. Random directions are a null for a direction that
has nothing to do with the change; docs/results/drift.md has how often benign changes are findings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.auditing.statistics.comparison import Estimate, compare_scores
from interp.core.display import Displayed
from interp.core.moments import StreamingMoments
from interp.data.packing import PackedRows
from interp.directions.direction import Direction
from interp.models.architectures.unembedding import logit_effect, token_text
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.upkeep.drift.paired_passes import ModelPass
from interp.upkeep.drift.token_divergence import document_means

RANDOM = 9_999
_WORDS = 10
Words = tuple[str, ...]


@dataclass(frozen=True)
class SiteChange(Displayed):
    """What changed at a site of the residual stream.

    Attributes:
        site: The site.
        cka: Linear CKA of the two models' activations.
        difference: Norm of the mean difference, over the root of the mean squared distance of the first model's
            activations from their mean.
        promoted, suppressed: Tokens whose logits the mean difference raises and lowers most; none where it is zero.
    """

    site: str
    cka: float
    difference: float
    promoted: Words
    suppressed: Words


@dataclass(frozen=True)
class ProjectionChange(Displayed):
    """The shift of the activations at a site along a direction.

    Attributes:
        direction: Name of the direction.
        site: Where it was read.
        change: Mean shift in standard deviations, with the simultaneous interval.
        p: Share of random directions that shift as far.
        finding: Whether it counts.
    """

    direction: str
    site: str
    change: Estimate
    p: float
    finding: bool


class SiteTally:
    """Takes in both models' activations; `sites` and `projections` are what changed over all of them."""

    def __init__(self, sites: Sequence[Site], directions: Mapping[str, Direction]):
        self._moments = {site: StreamingMoments(joint=True) for site in sites}
        self._directions = directions
        self._rows = torch.cat([x.rows for x in directions.values()]) if directions else None
        self._read: dict[Site, list[Tensor]] = {site: [] for site in sites}
        self._documents: list[Tensor] = []

    def update(self, batch: PackedRows, first: ModelPass, second: ModelPass) -> None:
        """Take in a batch; the first tokens of documents do not count."""
        self._documents.append(batch.document[batch.inner])
        for site, moments in self._moments.items():
            sides = [side.activations[site][batch.inner] for side in (first, second)]
            moments.update(torch.cat(sides, 1))
            if self._rows is not None:
                self._read[site].append(torch.stack([side.double() @ self._rows.double().T for side in sides], 1))

    def sites(self, model: HookedModel) -> tuple[SiteChange, ...]:
        """The changes of each site."""
        return tuple(_site_change(model, site, moments) for site, moments in self._moments.items())

    def projections(self, limit: float, family: int, seed: int) -> tuple[ProjectionChange, ...]:
        """The shifts along each direction at each site, corrected for a family of so many."""
        changes, number = list[ProjectionChange](), torch.cat(self._documents)
        for site, moments in self._moments.items() if self._rows is not None else ():
            values = document_means(torch.cat(self._read[site]), number, int(number.max()) + 1)
            width = len(moments.mean) // 2
            shift, scatter = moments.mean[width:] - moments.mean[:width], moments.squares[:width, :width]
            covariance = scatter / (moments.count - 1)
            chance = _random_shifts(shift, covariance, seed)
            for (name, direction), both in zip(self._directions.items(), values.unbind(2), strict=True):
                (row,) = direction.rows.double()
                deviation = float((row @ covariance @ row).clamp(min=1e-30).sqrt())
                before, after = ((side / deviation).tolist() for side in both.unbind(1))
                result = compare_scores(before, after, unit="margin", seed=seed, level=1 - 0.05 / family)
                seen = abs(float(row @ shift)) / deviation
                p = (1 + int((chance >= seen * (1 - 1e-9)).sum())) / (RANDOM + 1)
                far = beyond(result.difference, limit) and p * family <= 0.05
                changes.append(ProjectionChange(name, str(site), result.difference, p, far))
        return tuple(changes)


def beyond(change: Estimate, limit: float) -> bool:
    """Whether a change is larger than a limit, up or down, with its whole interval."""
    return change.low > limit or change.high < -limit


def _random_shifts(
    shift: Float[Tensor, "d_model"], covariance: Float[Tensor, "d_model d_model"], seed: int
) -> Float[Tensor, "draw"]:
    """Absolute shifts, in standard deviations, along random directions with the covariance of the activations."""
    variances, axes = torch.linalg.eigh(covariance)
    variances = variances.clamp(min=0)
    drawn = torch.randn(RANDOM, len(shift), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    weighted = drawn * variances.sqrt()
    deviations = (weighted.square() @ variances).sqrt()
    return (weighted @ (axes.T @ shift)).abs() / deviations.clamp(min=1e-30)


def _site_change(model: HookedModel, site: Site, moments: StreamingMoments) -> SiteChange:
    width = len(moments.mean) // 2
    first, second = slice(None, width), slice(width, None)
    own, other, cross = (moments.squares[pair] for pair in ((first, first), (second, second), (first, second)))
    shift = moments.mean[second] - moments.mean[first]
    spread = float((own.trace() / moments.count).sqrt())
    words: tuple[Words, Words] = ((), ())
    if shift.any():
        (effect,) = logit_effect(model, shift[None].float())
        words = promoted_tokens(model, effect), promoted_tokens(model, -effect)
    cka = float(cross.square().sum() / (own.norm() * other.norm()))
    return SiteChange(str(site), cka, float(shift.norm()) / spread, *words)


def promoted_tokens(model: HookedModel, effect: Float[Tensor, "d_vocab"], count: int = _WORDS) -> Words:
    """The tokens with the largest effects, strongest first."""
    top = effect[: len(model.tokenizer)].topk(count).indices.tolist()
    return tuple(token_text(model.tokenizer, token) for token in top)
