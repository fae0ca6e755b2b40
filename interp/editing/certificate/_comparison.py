"""The figures of a certificate, gathered batch by batch from the hooked base model and the exported one.

`Tally` compares whole models by their logits and by their greedy continuations. `PartComparison` compares them part by
part: wherever something reads the stream, the exported model is given the hooked one's, so that what each writer adds
depends on its own weights alone. An error is then seen where it is and at its own size, however small its effect on
the logits is, and whatever may differ before it. What is exact up to a factor per token (after a norm) is compared
without the factor: the one that fits best, which may not reverse a vector.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.certificate._compared_sites import ComparedEdit, claimed_status
from interp.editing.certificate.record import Certificate, Fold, OpFigures
from interp.editing.fold.plan import STATUSES, Status
from interp.editing.fold.stream_sites import STREAM
from interp.models import HookedModel, Tokens
from interp.models.losses import kl_divergence
from interp.models.sites import WRITERS, Site

_EPS = torch.finfo(torch.float32).eps


class PartComparison:
    """Gathers `gaps` by site, `offs` (the part of a gap that the fold's claim excludes), and `leaks` by op and site.

    Gaps are relative: at a writer to the longest of the site's vectors in a batch, in the stream to each token's own.
    A site has no `offs` where its fold is approximate, since nothing is claimed there. `others` is the claim where no
    op acts.
    """

    def __init__(
        self, compared: Sequence[Site], edits: Sequence[ComparedEdit], reads: Sequence[Site], others: Status = "exact"
    ):
        self.compared, self.edits, self.reads, self.others = list(compared), list(edits), list(reads), others
        self.claims = claimed_status(edits)
        self.gaps: dict[Site, float] = {}
        self.offs: dict[Site, float] = {}
        self.leaks: dict[tuple[int, Site], float] = {}

    @property
    def sites(self) -> list[Site]:
        """Sites of the hooked model whose activations are needed."""
        return list(dict.fromkeys([*self.compared, *self.reads]))

    def update(self, model: HookedModel, batch: Tokens, activations: Mapping[Site, Tensor]) -> None:
        """Run the exported model on a batch for which the hooked one had these activations."""
        before: dict[str, tuple[Tensor, Tensor]] = {}
        watched = {*self.sites, *(site for edit in self.edits for site in edit.emptied)}
        hook = partial(self._at, batch.mask, activations, before)
        with model.hooked([(site, partial(hook, site)) for site in model.sites if site in watched]):
            model.forward_to([self.reads[-1]], batch.model_inputs(model.device))

    def _at(
        self,
        mask: Tensor,
        activations: Mapping[Site, Float[Tensor, "batch pos d_model"]],
        before: dict[str, tuple[Tensor, Tensor]],
        site: Site,
        x: Tensor,
    ) -> Tensor | None:
        mine = x.expand(*mask.shape, -1)[mask]
        for number, edit in enumerate(self.edits):
            if site in edit.emptied:
                share = edit.emptied[site].share(mine)
                self.leaks[number, site] = max(self.leaks.get((number, site), 0.0), share)
        if site not in activations:
            return None
        theirs = activations[site].expand(*mask.shape, -1)[mask]
        if site in self.compared:
            self._compare(site, mine, theirs, before.get("stream"))
        if site not in self.reads:
            return None
        # What an MLP reads in the middle of a block does not continue from there: the stream does, as it was.
        before["stream"] = (theirs if site.kind == "resid_pre" else mine, theirs)
        return activations[site]

    def _compare(self, site: Site, mine: Tensor, theirs: Tensor, before: tuple[Tensor, Tensor] | None) -> None:
        sizes = theirs.norm(dim=-1)
        # A token's stream is never near nothing, but one token's can be a thousand times another's.
        scale = (sizes if site.kind in STREAM else sizes.amax()).clamp(min=1e-12)
        gap = float(((mine - theirs).norm(dim=-1) / scale).amax())
        self.gaps[site] = max(self.gaps.get(site, 0.0), gap)
        claim = self.claims.get(site, self.others)
        if claim == "scale":
            gap = _up_to_scale(mine, theirs, before if site.kind in STREAM else None)
        if claim != "approximate":
            self.offs[site] = max(self.offs.get(site, 0.0), gap)


def _up_to_scale(mine: Tensor, theirs: Tensor, before: tuple[Tensor, Tensor] | None) -> float:
    """The gap that is left once each token's vector has the factor that fits best; in the stream, of what was added."""
    rounding = torch.zeros((), dtype=torch.float64, device=mine.device)
    if before is not None:
        rounding = 4 * _EPS * torch.maximum(mine.norm(dim=-1), theirs.norm(dim=-1)).double()
        mine, theirs = mine.double() - before[0].double(), theirs.double() - before[1].double()
    mine, theirs = mine.double(), theirs.double()
    factor = (mine * theirs).sum(-1) / theirs.square().sum(-1).clamp(min=1e-24)
    off = (mine - factor.clamp(min=0)[:, None] * theirs).norm(dim=-1) - rounding
    return float((off.clamp(min=0) / theirs.norm(dim=-1).amax().clamp(min=1e-12)).amax())


@dataclass
class Tally:
    """The mutable side of a certificate."""

    parts: PartComparison
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
        """Add the logits of the base, hooked and exported model on a batch."""
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
        """Add the greedy continuations of both models."""
        self.same.append((hooked == after).flatten().float())

    @property
    def kl(self) -> float:
        """KL(hooked || exported), the mean over tokens."""
        return float(torch.cat(self.kls).mean().clamp(min=0))

    @property
    def fold(self) -> Fold:
        """The figures that the fold itself accounts for, where the weights are not rounded."""
        edits = self.parts.edits
        removed = [x for (number, _), x in self._removed() if edits[number].item.status != "approximate"]
        return Fold(
            off=max(self.parts.offs.values(), default=0.0),
            leak=max(removed, default=None),
            logit_diff=self.logit_gap / max(self.span, 1e-12),
            kl=self.kl,
        )

    def certificate(self, dtype: str, fold: Fold) -> Certificate:
        """The certificate of what was added so far."""
        written = torch.cat(self.same) if self.same else torch.zeros(0)
        removed = {str(site): share for (_, site), share in self._removed() if site.kind in WRITERS}
        statuses = [edit.item.status for edit in self.parts.edits]
        return Certificate(
            max_abs_logit_diff=self.logit_gap,
            kl=self.kl,
            top1_agreement=float(torch.cat(self.agreed).mean()),
            effect_kl=float(torch.cat(self.effects).mean()),
            writer_gap=max(self.parts.gaps[site] for site in self.parts.compared),
            leak=max(removed.values(), default=None),
            tokens=len(torch.cat(self.kls)),
            dtype=dtype,
            leak_by_writer=removed,
            status=max(statuses, key=STATUSES.index, default="exact"),
            mean_abs_logit_diff=float(torch.cat(self.logit_gaps).mean()),
            generated_agreement=float(written.mean()) if len(written) else None,
            generated_tokens=len(written),
            ops=tuple(self._ops()),
            logit_range=self.span,
            fold=fold,
        )

    def _removed(self) -> Iterator[tuple[tuple[int, Site], float]]:
        """Leaks of what is removed completely: an eraser leaves its mean."""
        for (number, site), share in self.parts.leaks.items():
            if self.parts.edits[number].emptied[site].mean is None:
                yield (number, site), share

    def _ops(self) -> Iterator[OpFigures]:
        for number, edit in enumerate(self.parts.edits):
            leaks = [share for (other, _), share in self.parts.leaks.items() if other == number]
            gap = max((self.parts.gaps[site] for site in edit.sites), default=0.0)
            yield OpFigures(**vars(edit.item), gap=gap, leak=max(leaks, default=None))
