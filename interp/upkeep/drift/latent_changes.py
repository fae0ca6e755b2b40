"""How often the latents of an autoencoder fire in either model, on the same text.

The autoencoder belongs to the first model, and reads both: a shared base, so that a latent means the same in both.
A document counts once for each latent that fires on any of its tokens, so that the comparison is of paired shares.

Limitations: what the second model learned that no latent stands for is not seen; `crosscoder_difference` looks for it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from interp.auditing.statistics.comparison import Estimate, compare_scores
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.upkeep.drift.paired_passes import ModelPass
from interp.upkeep.drift.site_changes import beyond

_SHOWN = 20


@dataclass(frozen=True)
class FiringChange(Displayed):
    """The share of documents in which a latent fires.

    Attributes:
        latent: Its number.
        before, after: The share in the first model and in the second.
        change: The paired difference, with an interval that holds for all latents at once.
        finding: Whether it counts.
    """

    latent: int
    before: float
    after: float
    change: Estimate
    finding: bool


class FiringTally:
    """Takes in both models' activations; `result` has the latents whose firing changed most."""

    def __init__(self, sae: SparseAutoencoder, model: HookedModel, documents: int):
        sae.require(model)
        if len(sae.reads) > 1:
            raise InterpError(f"{sae} reads several sites; expected an autoencoder of one")
        self.site, self._sae = Site.parse(sae.reads[0].site), sae
        self._fired = torch.zeros(2, documents, sae.d_sae, dtype=torch.bool)
        self._seen = torch.zeros(documents, dtype=torch.bool)

    def update(self, batch: PackedRows, first: ModelPass, second: ModelPass) -> None:
        """Take in a batch; the first tokens of documents do not count."""
        document = batch.document[batch.inner]
        self._seen[document] = True
        for fired, side in zip(self._fired, (first, second), strict=True):
            code = self._sae.encode_sparse(side.activations[self.site][batch.inner])
            fires = code.values > 0
            fired[document[code.tokens[fires]], code.latents[fires]] = True

    def result(self, limit: float, models: int, seed: int) -> tuple[FiringChange, ...]:
        """The latents with the largest changes; intervals hold for all latents of so many models."""
        before, after = (fired[self._seen].double() for fired in self._fired)
        moved: Tensor = (after - before).mean(0)
        level, changes = 1 - 0.05 / (len(moved) * models), list[FiringChange]()
        for latent in moved.abs().argsort(descending=True, stable=True)[:_SHOWN].tolist():
            if moved[latent] == 0:
                break
            result = compare_scores(before[:, latent].tolist(), after[:, latent].tolist(), seed=seed, level=level)
            shares = result.before.estimate, result.after.estimate
            changes.append(FiringChange(latent, *shares, result.difference, beyond(result.difference, limit)))
        return tuple(changes)
