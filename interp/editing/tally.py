"""Tally: figures of a certificate, gathered batch by batch from the hooked base model and the exported one.

Whole models are compared by logits, by every writer's output and by what they write greedily on their own; each op by
what is at its own sites, or, where it acts on the inputs of an output projection, by what that writes. Where an op acts
on the stream itself, what hooked writers write is only edited behind them, and the stream is compared in their place.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from interp.core.errors import InterpError
from interp.core.linalg import orthonormal_rows
from interp.editing.certificate import Certificate, OpFigures
from interp.editing.forms import map_of
from interp.editing.plan import STATUSES, Item
from interp.editing.residual import STREAM
from interp.interventions.ops import Erase, Op, Project
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.models.sites import WRITERS, Site


@dataclass(frozen=True, eq=False)
class Emptied:
    """What a site must not have: anything of x - mean along the rows (orthonormal; the mean None if it is 0)."""

    rows: Float[Tensor, "k d_model"]
    mean: Float[Tensor, "d_model"] | None = None

    @classmethod
    def by(cls, op: Op) -> "Emptied | None":
        """What an op removes in full, if anything: full projections and erasers."""
        if isinstance(op, Project) and op.strength == 1:
            return cls(op.rows)
        if isinstance(op, Erase) and map_of(op, Site("embed"), op.width).idempotent:
            return cls(orthonormal_rows(op.read.double()), op.mean)
        return None

    def share(self, x: Float[Tensor, "token d_model"]) -> float:
        """The largest share of it that is left."""
        inside = x.double() if self.mean is None else x.double() - self.mean.to(x.device).double()
        along = (inside @ self.rows.to(inside).T).norm(dim=-1)
        return float((along / x.double().norm(dim=-1).clamp(min=1e-12)).max())


@dataclass(frozen=True, eq=False)
class Place:
    """A plan's item with where it is measured: at its sites, and at those of which the op has the last word."""

    item: Item
    sites: tuple[Site, ...]
    emptied: dict[Site, Emptied]


def places(recipe: Recipe, items: Sequence[Item], model: HookedModel) -> list[Place]:
    """The items of a recipe's plan, which come edit by edit and divide each one's sites among them."""
    last = {site: edit for edit in recipe.edits for site in model.resolve(edit.sites)}
    left, found = iter(items), list[Place]()
    for edit in recipe.edits:
        wanted, emptied = set(map(str, model.resolve(edit.sites))), Emptied.by(edit.op)
        while wanted:
            item = next(left)
            wanted -= set(item.sites)
            own = model.resolve(item.sites)
            closed = {site: emptied for site in own if emptied and last[site] is edit}
            found.append(Place(item, tuple(dict.fromkeys(map(_measured, own))), closed))
    return found


def _measured(site: Site) -> Site:
    if site.in_residual_basis:
        return site
    return Site("mlp_out" if site.kind in ("mlp_input", "mlp_post") else "attn_out", site.layer)


def compared(recipe: Recipe, model: HookedModel) -> list[Site]:
    """Sites at which hooked and exported model have to agree: every writer's, or the stream's."""
    edited = {site for edit in recipe.edits for site in model.resolve(edit.sites)}
    if any(site.kind in STREAM for site in edited):
        return [site for site in model.sites if site.kind in STREAM]
    return model.resolve("writers")


@dataclass
class Tally:
    """The mutable side of a certificate."""

    compared: list[Site]
    places: list[Place]
    logit_gap: float = 0.0
    logit_gaps: list[Tensor] = field(default_factory=list)
    gaps: dict[Site, float] = field(default_factory=dict)
    kls: list[Tensor] = field(default_factory=list)
    effects: list[Tensor] = field(default_factory=list)
    agreed: list[Tensor] = field(default_factory=list)
    same: list[Tensor] = field(default_factory=list)
    leaks: dict[tuple[int, Site], float] = field(default_factory=dict)

    @property
    def sites(self) -> list[Site]:
        """Where activations are compared."""
        return list(dict.fromkeys([*self.compared, *(site for place in self.places for site in place.sites)]))

    def update(
        self,
        before: Float[Tensor, "token d_vocab"],
        hooked: Float[Tensor, "token d_vocab"],
        after: Float[Tensor, "token d_vocab"],
        found: dict[Site, Tensor],
        refound: dict[Site, Tensor],
    ) -> None:
        """Take in a batch: logits of the base, hooked and exported model, and what the latter two have at the sites."""
        if not torch.isfinite(after).all():
            raise InterpError("the exported model's logits are not finite; its weights or the recipe hold NaN")
        gap = (hooked - after).abs()
        self.logit_gap = max(self.logit_gap, float(gap.max()))
        self.logit_gaps.append(gap.double().mean(-1))
        self.kls.append(_kl(hooked, after))
        self.effects.append(_kl(before, hooked))
        self.agreed.append((hooked.argmax(-1) == after.argmax(-1)).float())
        for site, y in refound.items():
            sizes = found[site].norm(dim=-1)
            # A token's stream is never near nothing, but one token's can be a thousand times another's.
            scale = (sizes if site.kind in STREAM else sizes.amax()).clamp(min=1e-12)
            self.gaps[site] = max(self.gaps.get(site, 0.0), float(((y - found[site]).norm(dim=-1) / scale).amax()))
        for number, place in enumerate(self.places):
            for site, emptied in place.emptied.items():
                share = emptied.share(refound[site])
                self.leaks[number, site] = max(self.leaks.get((number, site), 0.0), share)

    def write(self, hooked: Int[Tensor, "batch new"], after: Int[Tensor, "batch new"]) -> None:
        """Take in what both models write on their own."""
        self.same.append((hooked == after).flatten().float())

    def certificate(self, dtype: str) -> Certificate:
        """The figures so far."""
        kl, written = torch.cat(self.kls), torch.cat(self.same) if self.same else torch.zeros(0)
        # An eraser leaves its mean: only what is removed to nothing counts.
        closed = {
            str(site): share
            for (number, site), share in self.leaks.items()
            if site.kind in WRITERS and self.places[number].emptied[site].mean is None
        }
        statuses = [place.item.status for place in self.places]
        return Certificate(
            max_abs_logit_diff=self.logit_gap,
            kl=float(kl.mean().clamp(min=0)),
            top1_agreement=float(torch.cat(self.agreed).mean()),
            effect_kl=float(torch.cat(self.effects).mean()),
            writer_gap=max(self.gaps[site] for site in self.compared),
            leak=max(closed.values(), default=None),
            tokens=len(kl),
            dtype=dtype,
            leak_by_writer=closed,
            status=max(statuses, key=STATUSES.index, default="exact"),
            mean_abs_logit_diff=float(torch.cat(self.logit_gaps).mean()),
            generated_agreement=float(written.mean()) if len(written) else None,
            generated_tokens=len(written),
            ops=tuple(self._ops()),
        )

    def _ops(self) -> Iterator[OpFigures]:
        for number, place in enumerate(self.places):
            leaks = [share for (other, _), share in self.leaks.items() if other == number]
            yield OpFigures(
                place.item.op,
                place.item.sites,
                place.item.status,
                place.item.reason,
                max((self.gaps[site] for site in place.sites), default=0.0),
                max(leaks, default=None),
            )


def _kl(p: Float[Tensor, "token d_vocab"], q: Float[Tensor, "token d_vocab"]) -> Float[Tensor, "token"]:
    """KL(p || q) in nats at each position, from logits, in float64."""
    log_p, log_q = log_softmax(p.double(), -1), log_softmax(q.double(), -1)
    return kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
