"""The figures of a certificate, gathered batch by batch from the hooked base model and the exported one.

`Tally` compares whole models by their logits and by their greedy continuations. `PartComparison` compares them part by
part: wherever something reads the stream, the exported model is given the hooked one's, so that what each writer adds
depends on its own weights alone. An error then shows at the part that has it and at its full size, even if it hardly
changes the logits, and errors of earlier parts do not add to it.

Where no op acts on the stream itself, what each writer adds to it is compared, after the norm if one follows. An op on
the stream acts after the writers with hooks, but inside them in weights. The stream is then compared instead, and only
where something reads it: what is added at resid_pre.2 is in the weights of mlp_out.1, and so in resid_post.1.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.linalg import orthonormal_rows
from interp.editing.certificate.record import Certificate, Fold, OpFigures
from interp.editing.fold.plan import STATUSES, PlannedEdit, Status
from interp.editing.fold.stream_sites import STREAM, covers, holders, is_constant, map_of
from interp.interventions.affine_ops import Erase, Project
from interp.interventions.op import Op
from interp.interventions.recipe import Edit
from interp.models import HookedModel, Tokens
from interp.models.losses import kl_divergence
from interp.models.sites import WRITERS, Site


@dataclass(frozen=True, eq=False)
class RemovedSubspace:
    """What may not be left at a site: anything of x - mean along the orthonormal rows (None: the mean is 0)."""

    rows: Float[Tensor, "k d_model"]
    mean: Float[Tensor, "d_model"] | None = None

    @classmethod
    def by(cls, op: Op) -> "RemovedSubspace | None":
        """What an op removes completely: full projections and erasers do, other ops nothing."""
        if isinstance(op, Project) and op.scale == 1:
            return cls(op.rows)
        if isinstance(op, Erase) and map_of(op, Site("embed"), len(op.mean)).idempotent:
            return cls(orthonormal_rows(op.read.double()), op.mean)
        return None

    def share(self, x: Float[Tensor, "token d_model"]) -> float:
        """The largest share of a token's vector that is left along the rows."""
        inside = x.double() if self.mean is None else x.double() - self.mean.to(x.device).double()
        along = (inside @ self.rows.to(inside).T).norm(dim=-1)
        return float((along / x.double().norm(dim=-1).clamp(min=1e-12)).max())


@dataclass(frozen=True, eq=False)
class ComparedEdit:
    """A planned edit, the sites where it is measured, and what it removes at those where no later op acts."""

    item: PlannedEdit
    sites: tuple[Site, ...]
    emptied: dict[Site, RemovedSubspace]


class PartComparison:
    """Gathers `gaps` and each edit's `leaks` by site, and `offs`, the part of a gap that the fold's claim excludes.

    Gaps are relative: at a writer to the longest of the site's vectors in a batch, in the stream to each token's own.
    A site has no `offs` where its fold is approximate, since nothing is claimed there. `others` is the claim where no
    op acts.
    """

    def __init__(self, edits: Sequence[Edit], items: Sequence[PlannedEdit], model: HookedModel, others: Status):
        self.compared, self.reads, self.others = _compared_sites(edits, model), _stream_readers(model), others
        self.edits = _compared_edits(edits, items, model)
        self.claims = _claimed_status(self.edits)
        self.gaps: dict[Site, float] = {}
        self.offs: dict[Site, float] = {}
        self.leaks: list[dict[Site, float]] = [{} for _ in self.edits]

    @property
    def sites(self) -> list[Site]:
        """Sites of the hooked model whose activations are needed."""
        return list(dict.fromkeys([*self.compared, *self.reads]))

    def update(
        self, model: HookedModel, batch: Tokens, activations: Mapping[Site, Float[Tensor, "batch pos d_model"]]
    ) -> None:
        """Run the exported model on a batch for which the hooked one had these activations."""

        def compare(site: Site, x: Tensor) -> Tensor | None:
            mine = x.expand(*batch.mask.shape, -1)[batch.mask]
            for edit, leaks in zip(self.edits, self.leaks, strict=True):
                if site in edit.emptied:
                    leaks[site] = max(leaks.get(site, 0.0), edit.emptied[site].share(mine))
            if site not in activations:
                return None
            theirs = activations[site].expand(*batch.mask.shape, -1)[batch.mask]
            if site in self.compared:
                self._compare(site, mine, theirs)
            return activations[site] if site in self.reads else None

        watched = {*self.sites, *(site for edit in self.edits for site in edit.emptied)}
        with model.hooked([(site, partial(compare, site)) for site in model.sites if site in watched]):
            model.forward_to([self.reads[-1]], batch.model_inputs(model.device))

    def _compare(self, site: Site, mine: Tensor, theirs: Tensor) -> None:
        sizes = theirs.norm(dim=-1)
        # A token's stream is never near nothing, but one token's can be a thousand times another's.
        scale = (sizes if site.kind in STREAM else sizes.amax()).clamp(min=1e-12)
        gap = float(((mine - theirs).norm(dim=-1) / scale).amax())
        self.gaps[site] = max(self.gaps.get(site, 0.0), gap)
        if self.claims.get(site, self.others) != "approximate":
            self.offs[site] = max(self.offs.get(site, 0.0), gap)


@dataclass
class Tally:
    """The mutable side of a certificate."""

    parts: PartComparison
    logit_gap: float = 0.0
    span: float = 0.0
    figures: list[Tensor] = field(default_factory=list)  # KL, effect, mean gap and agreement, each per token
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
        agreed = (hooked.argmax(-1) == after.argmax(-1)).double()
        before, hooked, after = before.double(), hooked.double(), after.double()
        divergences = kl_divergence(hooked, after), kl_divergence(before, hooked)
        self.figures.append(torch.stack([*divergences, gap.double().mean(-1), agreed]))

    def write(self, hooked: Int[Tensor, "batch new"], after: Int[Tensor, "batch new"]) -> None:
        """Add the greedy continuations of both models."""
        self.same.append((hooked == after).flatten().float())

    @property
    def fold(self) -> Fold:
        """The figures that the fold itself accounts for, where the weights are not rounded."""
        removed = [share for edit, _, share in self._removed() if edit.item.status != "approximate"]
        return Fold(
            off=max(self.parts.offs.values(), default=0.0),
            leak=max(removed, default=None),
            logit_diff=self.logit_gap / max(self.span, 1e-12),
            kl=float(torch.cat(self.figures, dim=1)[0].mean().clamp(min=0)),
        )

    def certificate(self, dtype: str, fold: Fold) -> Certificate:
        """The certificate of what was added so far."""
        written = torch.cat(self.same) if self.same else torch.zeros(0)
        removed = {str(site): share for _, site, share in self._removed() if site.kind in WRITERS}
        statuses = [edit.item.status for edit in self.parts.edits]
        figures = torch.cat(self.figures, dim=1)
        kl, effect, gap, agreement = (figure.mean() for figure in figures)
        return Certificate(
            max_abs_logit_diff=self.logit_gap,
            kl=float(kl.clamp(min=0)),
            top1_agreement=float(agreement),
            effect_kl=float(effect),
            writer_gap=max(self.parts.gaps[site] for site in self.parts.compared),
            leak=max(removed.values(), default=None),
            tokens=figures.shape[1],
            dtype=dtype,
            leak_by_writer=removed,
            status=max(statuses, key=STATUSES.index, default="exact"),
            mean_abs_logit_diff=float(gap),
            generated_agreement=float(written.mean()) if len(written) else None,
            generated_tokens=len(written),
            ops=tuple(self._ops()),
            logit_range=self.span,
            fold=fold,
        )

    def _removed(self) -> Iterator[tuple[ComparedEdit, Site, float]]:
        """Leaks of what is removed completely: an eraser leaves its mean."""
        for edit, leaks in zip(self.parts.edits, self.parts.leaks, strict=True):
            yield from ((edit, site, share) for site, share in leaks.items() if edit.emptied[site].mean is None)

    def _ops(self) -> Iterator[OpFigures]:
        for edit, leaks in zip(self.parts.edits, self.parts.leaks, strict=True):
            gap = max((self.parts.gaps[site] for site in edit.sites), default=0.0)
            yield OpFigures(**vars(edit.item), gap=gap, leak=max(leaks.values(), default=None))


def _stream_readers(model: HookedModel) -> list[Site]:
    """Where something reads the stream: attention, MLPs and the final norm."""
    last = Site("resid_post", model.n_layers - 1)
    return [site for site in model.sites if site.kind in ("resid_pre", "resid_mid") or site == last]


def _compared_sites(edits: Sequence[Edit], model: HookedModel) -> list[Site]:
    """Sites at which hooked and exported model have to agree: every writer's, or the stream's where it is read."""
    edited = {site.kind for edit in edits for site in model.resolve(edit.sites)}
    added = [site for site in model.sites if site.kind in WRITERS]
    return added if edited.isdisjoint(STREAM) else _stream_readers(model)


def _compared_edits(edits: Sequence[Edit], items: Sequence[PlannedEdit], model: HookedModel) -> list[ComparedEdit]:
    """The items of a plan, which come edit by edit and divide each one's sites among them."""
    last = {site: edit for edit in edits for site in model.resolve(edit.sites)}
    where, holding = _compared_sites(edits, model), _not_last(edits, model)
    remaining, compared = iter(items), list[ComparedEdit]()
    for edit in edits:
        names, removed = set(map(str, model.resolve(edit.sites))), RemovedSubspace.by(edit.op)
        while names:
            item = next(remaining)
            names -= set(item.sites)
            sites = model.resolve(item.sites)
            final = [site for site in sites if last[site] is edit and site not in holding]
            emptied = {_at(s, where) if s.kind in STREAM else s.normed: removed for s in final if removed}
            compared.append(ComparedEdit(item, tuple(dict.fromkeys(_at(site, where) for site in sites)), emptied))
    return compared


def _claimed_status(edits: Sequence[ComparedEdit]) -> dict[Site, Status]:
    """The least exact status that any op's fold claims at each site."""
    claims: dict[Site, Status] = {}
    for edit in edits:
        for site in edit.sites:
            claims[site] = max(claims.get(site, "exact"), edit.item.status, key=STATUSES.index)
    return claims


def _at(site: Site, where: Sequence[Site]) -> Site:
    """Where what acts at a site is compared: at a writer's output, or where the stream is read next."""
    if where[0].kind in STREAM:
        return next(other for other in where if other.order >= site.order)
    if site.normed.in_residual_basis:
        return site.normed
    return Site("mlp_out" if site.kind in ("mlp_input", "mlp_post") else "attn_out", site.layer)


def _not_last(edits: Sequence[Edit], model: HookedModel) -> set[Site]:
    """Writers whose weights hold what an op does to the stream after them."""
    holding: set[Site] = set()
    for edit in edits:
        sites = model.resolve(edit.sites)
        stream = [site for site in sites if site.kind in STREAM]
        if stream and is_constant(edit.op):
            holding |= {holder for site in stream if site.kind != "resid_mid" for holder in holders(site, model.config)}
        elif stream:
            kinds = WRITERS if covers(sites, model.config) else ("embed", "pos_embed")
            holding |= {site for site in model.sites if site.kind in kinds}
    return holding
