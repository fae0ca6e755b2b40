"""Local: the exported model compared part by part, each part reading what it reads in the hooked model.

Wherever something reads the stream, the exported model is given the hooked one's, so that what each writer writes
depends on its own weights alone: an error is seen where it is, at its own size, however small its effect on the logits
is and whatever is allowed to differ before it. What is exact up to a factor a token (behind a norm) is compared without
the factor, which is the one that fits best and may not turn a vector round.
"""

from collections.abc import Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from interp.editing.certificate.compared_sites import ComparedEdit, claimed_status
from interp.editing.fold.plan import Status
from interp.editing.fold.stream_sites import STREAM
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Tokens

PartGaps = dict[Site, Float[Tensor, "batch pos d_model"]]
_EPS = torch.finfo(torch.float32).eps


class PartComparison:
    """Gathers batch by batch, by site: `gaps` as they are, `offs` as far as claims go; and `leaks` by op and site.

    Gaps are relative: of writers to the longest that the site's vectors are in a batch, of the stream to each token's.
    A site has no `offs` where its fold is approximate, since nothing is claimed there.
    """

    def __init__(
        self, compared: Sequence[Site], places: Sequence[ComparedEdit], reads: Sequence[Site], others: Status = "exact"
    ):
        """`others` is what is claimed where no op acts."""
        self.compared, self.places, self.reads, self.others = list(compared), list(places), list(reads), others
        self.claims = claimed_status(places)
        self.gaps: dict[Site, float] = {}
        self.offs: dict[Site, float] = {}
        self.leaks: dict[tuple[int, Site], float] = {}

    @property
    def sites(self) -> list[Site]:
        """What of the hooked model is needed."""
        return list(dict.fromkeys([*self.compared, *self.reads]))

    def update(self, model: HookedModel, batch: Tokens, found: PartGaps) -> None:
        """Run the exported model on a batch of which the hooked one had `found`."""
        before: dict[str, tuple[Tensor, Tensor]] = {}
        emptied = {site for place in self.places for site in place.emptied}
        wanted = {*self.sites, *emptied}
        watched = [(site, partial(self._at, site, batch.mask, found, before)) for site in model.sites if site in wanted]
        with model.hooked(watched):
            model.forward_to([self.reads[-1]], batch.model_inputs(model.device))

    def _at(
        self, site: Site, mask: Tensor, found: PartGaps, before: dict[str, tuple[Tensor, Tensor]], x: Tensor
    ) -> Tensor | None:
        mine = x.expand(*mask.shape, -1)[mask]
        for number, place in enumerate(self.places):
            if site in place.emptied:
                share = place.emptied[site].share(mine)
                self.leaks[number, site] = max(self.leaks.get((number, site), 0.0), share)
        if site not in found:
            return None
        theirs = found[site].expand(*mask.shape, -1)[mask]
        if site in self.compared:
            self._compare(site, mine, theirs, before.get("stream"))
        if site not in self.reads:
            return None
        # What an MLP is given in the middle of a block does not go on from there: the stream does, as it was.
        given = site.kind == "resid_pre"
        before["stream"] = (theirs if given else mine, theirs)
        return found[site]

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
    """The gap that is left once each token's vector has the factor that fits best; of the stream, what was added."""
    rounding = torch.zeros((), dtype=torch.float64, device=mine.device)
    if before is not None:
        rounding = 4 * _EPS * torch.maximum(mine.norm(dim=-1), theirs.norm(dim=-1)).double()
        mine, theirs = mine.double() - before[0].double(), theirs.double() - before[1].double()
    mine, theirs = mine.double(), theirs.double()
    factor = (mine * theirs).sum(-1) / theirs.square().sum(-1).clamp(min=1e-24)
    off = (mine - factor.clamp(min=0)[:, None] * theirs).norm(dim=-1) - rounding
    return float((off.clamp(min=0) / theirs.norm(dim=-1).amax().clamp(min=1e-12)).amax())
