"""Tally: figures of a certificate, gathered batch by batch from the hooked base model and the exported one.

Whole models are compared by logits and by what they write greedily on their own; their parts, and each op at its own
sites, by `interp.editing.certificate.part_gaps`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.certificate.part_gaps import PartComparison
from interp.editing.certificate.record import Certificate, Fold, OpFigures
from interp.editing.fold.plan import STATUSES
from interp.models.losses import kl_divergence
from interp.models.sites import WRITERS, Site


@dataclass
class Tally:
    """The mutable side of a certificate."""

    local: PartComparison
    logit_gap: float = 0.0
    span: float = 0.0
    logit_gaps: list[Tensor] = field(default_factory=list)
    kls: list[Tensor] = field(default_factory=list)
    effects: list[Tensor] = field(default_factory=list)
    agreed: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)

    def update(
        self,
        before: Float[Tensor, "token d_vocab"],
        hooked: Float[Tensor, "token d_vocab"],
        after: Float[Tensor, "token d_vocab"],
    ) -> None:
        """Take in the logits of the base, hooked and exported model on a batch."""
        if not torch.isfinite(after).all():
            raise InterpError("the exported model's logits are not finite; its weights or the recipe hold NaN")
        gap = (hooked - after).abs()
        self.logit_gap = max(self.logit_gap, float(gap.max()))
        self.span = max(self.span, float(hooked.max() - hooked.min()))
        self.logit_gaps.append(gap.double().mean(-1))
        self.kls.append(kl_divergence(hooked.double(), after.double()))
        self.effects.append(kl_divergence(before.double(), hooked.double()))
        self.agreed.append((hooked.argmax(-1) == after.argmax(-1)).float())

    def write(self, hooked: Int[Tensor, "batch new"], after: Int[Tensor, "batch new"]) -> None:
        """Take in what both models write on their own."""
        self.same.append((hooked == after).flatten().float())

    @property
    def kl(self) -> float:
        """Of the exported model, the mean over tokens."""
        return float(torch.cat(self.kls).mean().clamp(min=0))

    @property
    def fold(self) -> Fold:
        """The figures that a fold has to answer for, if it was not rounded."""
        places = self.local.places
        closed = [x for (number, _), x in self._closed() if places[number].item.status != "approximate"]
        return Fold(
            off=max(self.local.offs.values(), default=0.0),
            leak=max(closed, default=None),
            logit_diff=self.logit_gap / max(self.span, 1e-12),
            kl=self.kl,
        )

    def certificate(self, dtype: str, fold: Fold) -> Certificate:
        """The figures so far."""
        written = torch.cat(self.same) if self.same else torch.zeros(0)
        closed = {str(site): share for (_, site), share in self._closed() if site.kind in WRITERS}
        statuses = [place.item.status for place in self.local.places]
        return Certificate(
            max_abs_logit_diff=self.logit_gap,
            kl=self.kl,
            top1_agreement=float(torch.cat(self.agreed).mean()),
            effect_kl=float(torch.cat(self.effects).mean()),
            writer_gap=max(self.local.gaps[site] for site in self.local.compared),
            leak=max(closed.values(), default=None),
            tokens=len(torch.cat(self.kls)),
            dtype=dtype,
            leak_by_writer=closed,
            status=max(statuses, key=STATUSES.index, default="exact"),
            mean_abs_logit_diff=float(torch.cat(self.logit_gaps).mean()),
            generated_agreement=float(written.mean()) if len(written) else None,
            generated_tokens=len(written),
            ops=tuple(self._ops()),
            logit_range=self.span,
            fold=fold,
        )

    def _closed(self) -> Iterator[tuple[tuple[int, Site], float]]:
        """Leaks of what is removed to nothing: an eraser leaves its mean."""
        for (number, site), share in self.local.leaks.items():
            if self.local.places[number].emptied[site].mean is None:
                yield (number, site), share

    def _ops(self) -> Iterator[OpFigures]:
        for number, place in enumerate(self.local.places):
            leaks = [share for (other, _), share in self.local.leaks.items() if other == number]
            yield OpFigures(
                place.item.op,
                place.item.sites,
                place.item.status,
                place.item.reason,
                max((self.local.gaps[site] for site in place.sites), default=0.0),
                max(leaks, default=None),
            )
