"""Places: where a patching puts activations of the source run into the base run, and the effects of that.

Nothing before a place is patched, so what arrives there is what the base run has, and what is put in is known
beforehand:

- at a site: the activations of the source at the aligned position, or what of them lies in a subspace;
- of an attention pattern: what `z` becomes where the values of the base run are attended to as in the source run;
- of a latent: the activations of the base, plus the difference of the latent between the runs along its decoder row.
  The error is the rest of the difference of the runs.
"""

from collections.abc import Collection, Sequence
from functools import partial
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution._layer_pass import RecordedRun, SiteEdit
from interp.attribution.comparison import ComparedPairs
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.directions.direction import Direction
from interp.models.architectures.table import Tap
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform, attached
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

By = Literal["position", "head", "site", "neuron", "pattern", "latent"]
Correction = Literal["qk_fix", "grad_drop"]
_UNITS = {
    "head": "sites with one number of heads: z, q, or k and v",
    "neuron": "sites of one width without heads, such as mlp_post.*",
    "pattern": "z, the heads whose patterns are patched, such as z.*",
    "latent": "an autoencoder (sae=…), and no site but its own",
}


class Places:
    """The places of a patching, with what is put there.

    Args:
        model: The model.
        pairs: The comparison on it.
        sites: Sites in layers.
        by: What a place is.
        subspace: What alone of the sites is patched; None for all.
        sae: The autoencoder whose latents are places.
        positions: The positions that are patched, from the end; None for all.
    """

    def __init__(
        self,
        model: HookedModel,
        pairs: ComparedPairs,
        sites: list[Site],
        by: By,
        subspace: Direction | None = None,
        sae: SparseAutoencoder | None = None,
        positions: Sequence[int] | None = None,
    ):
        self.model, self.pairs, self.sites, self.by, self.sae = model, pairs, sites, by, sae
        width, rows = pairs.base.ids.shape[1], torch.arange(len(pairs))[:, None]
        patched = range(-width, 0) if positions is None else sorted({*positions})
        if not patched:
            raise InterpError("no positions to patch at; give some, or leave them out for all")
        if outside := [position for position in patched if not -width <= position < 0]:
            raise InterpError(f"position {outside[0]} is outside the prompts; expected {-width} to -1, from their end")
        chosen = torch.zeros(width, dtype=torch.bool)
        chosen[list(patched)] = True
        there = pairs.columns.clamp(min=0)
        self.real = (chosen & (pairs.columns >= 0)).to(model.device)
        self.start = self._first_change(rows, there)
        self.base = model.capture(pairs.base, sites, chat=False).tensors
        shape = self._unit_shape()
        source = model.capture(pairs.source, sites, chat=False).tensors
        reached = self._attended() if by == "pattern" else {site: x[rows, there] for site, x in source.items()}
        self.target = {site: self._where(x.to(self.base[site]), self.base[site]) for site, x in reached.items()}
        if subspace is not None:
            basis = torch.linalg.qr(subspace.rows.float().T).Q
            for site, x in self.base.items():
                if len(basis) != x.shape[-1]:
                    raise InterpError(f"the subspace has width {len(basis)}; expected {x.shape[-1]}, that of {site}")
                self.target[site] = x + (self.target[site] - x) @ basis.to(x) @ basis.to(x).T
        count = {"head": shape[0], "pattern": shape[0], "neuron": shape[-1]}.get(by, 1)
        self.labels: tuple[int | str, ...] = tuple(patched if by == "position" else range(count))
        if sae is not None and by == "latent":
            self._read_latents(sae.to(model.device))

    def _first_change(self, rows: Tensor, there: Tensor) -> int:
        """The first patched column from the first token on that differs between the runs."""
        pairs = self.pairs
        differ = (pairs.columns < 0) | (pairs.base.ids != pairs.source.ids[rows, there])
        differ |= pairs.base.position_ids != pairs.source.position_ids[rows, there]
        changed = ((differ & pairs.base.mask).cumsum(1).bool() & self.real.cpu()).any(0)
        return int(changed.int().argmax()) if changed.any() else len(changed) - 1

    def _where(self, x: Tensor, other: Tensor, start: int = 0) -> Tensor:
        """x at the positions that are patched, and the other elsewhere."""
        real = self.real[:, start:]
        return torch.where(real.reshape(*real.shape, *[1] * (x.ndim - 2)), x, other)

    def _unit_shape(self) -> torch.Size:
        """The shape of a site's features. Raises where the sites do not have what places are."""
        shapes = [self.base[site].shape[2:] for site in self.sites]
        fits = {
            "head": len({shape[0] for shape in shapes}) == 1 and min(map(len, shapes)) == 2,
            "neuron": len(set(shapes)) == 1 and len(shapes[0]) == 1,
            "pattern": all(site.kind == "z" for site in self.sites),
            "latent": self.sae is not None and self.sites == [self.sae.site],
        }
        if not fits.get(self.by, True):
            names = ", ".join(map(str, self.sites))
            raise InterpError(f"by {self.by} at {names}: expected {_UNITS[self.by]}")
        return shapes[0]

    def _attended(self) -> dict[Site, Tensor]:
        """`z` where the values of the base run are attended to as in the source run."""
        pairs, width = self.pairs, self.pairs.source.mask.shape[1]
        if not torch.equal(pairs.columns, torch.where(pairs.source.mask, torch.arange(width), -1)):
            name = pairs.comparison.name
            raise InterpError(f"{name}: patterns are patched token by token; give pairs of prompts of one length")
        base, source = (RecordedRun(self.model, side) for side in (pairs.base, pairs.source))
        return {site: source.within(site, values=base)[0] for site in self.sites}

    def _read_latents(self, sae: SparseAutoencoder) -> None:
        """The latents that differ between the runs, and what the runs differ by along each of them and beyond."""
        base, target = (side[self.sites[0]].float() for side in (self.base, self.target))
        differences = sae.encode(target) - sae.encode(base)
        latents = differences.flatten(0, 1).any(0).nonzero()[:, 0]
        self.differences, self.rows = differences[..., latents], sae.W_dec[latents].float()
        self.error = target - base - self.differences @ self.rows
        self.labels = (*latents.tolist(), "error")

    def put(self, site: Site, place: int, start: int, x: Tensor) -> Tensor:
        """The activations of the base run, from a column on, with a place patched; it is counted in the labels."""
        if self.by == "latent":
            error = place == len(self.rows)
            change = self.error if error else self.differences[..., place, None] * self.rows[place]
            return x + change[:, start:].to(x)
        patched = self._where(self.target[site][:, start:].to(x), x, start)
        if self.by == "site":
            return patched
        units = torch.arange(x.shape[{"position": 1, "head": 2, "pattern": 2, "neuron": -1}[self.by]], device=x.device)
        label = place if self.by != "position" else self.column(place) - start
        where = (units == label).reshape({"position": (-1, *[1] * (x.ndim - 2)), "neuron": (-1,)}.get(self.by, (-1, 1)))
        return torch.where(where, patched, x)

    def column(self, place: int) -> int:
        """The first column that a place changes."""
        return self.pairs.base.ids.shape[1] + int(self.labels[place]) if self.by == "position" else self.start

    def exact(self, places: Sequence[tuple[int, int]]) -> Float[Tensor, "place batch"]:
        """The metric under each patch, in the order of the places, which are pairs of numbers of site and label."""
        run, values = RecordedRun(self.model, self.pairs.base), torch.empty(len(places), len(self.pairs))
        starts: dict[int, list[int]] = {}
        for number, (_, place) in enumerate(places):
            starts.setdefault(self.column(place), []).append(number)
        for start, numbers in track(list(starts.items()), "patch", size=lambda item: len(item[1]), unit="places"):
            numbers.sort(key=lambda number: self.sites[places[number][0]].order)
            edits = [
                SiteEdit(site, partial(self.put, site, place, start))
                for site, place in ((self.sites[places[number][0]], places[number][1]) for number in numbers)
            ]
            values[numbers] = run.read(edits, start, self.pairs.metric).cpu().float()
        return values

    def estimated(self, corrections: Collection[Correction] = ()) -> Float[Tensor, "site place batch"]:
        """The metric under each patch by gradients at the base run.

        `qk_fix`: of queries and keys the change of `z`, for which attention is computed anew, times the gradient there.
        `grad_drop`: the sizes of the changes, averaged over gradients without the paths through a layer's outputs.
        """
        attended = dict[Site, Tensor]()
        if "qk_fix" in corrections:
            run = RecordedRun(self.model, self.pairs.base)
            attended = {site: self._change_of_z(run, site) for site in self.sites if site.kind in ("q", "k")}
        held = [*self.sites, *{Site("z", site.layer): None for site in attended}]
        if "grad_drop" not in corrections:
            return self.pairs.base_values.float() + self._predicted(self.gradients(held), attended)
        layers = track(range(self.model.n_layers), "drop gradients", unit="layers")
        parts = [self._predicted(self.gradients(held, dropped=layer), attended).abs() for layer in layers]
        return self.toward_source(torch.stack(parts).sum(0) / max(1, len(parts) - 1))

    def integrated(self, steps: int) -> Float[Tensor, "site place batch"]:
        """The metric under each patch by gradients that are averaged over steps on the way to the source."""
        shares = [(step + 0.5) / steps for step in range(steps)]
        runs = track([(site, share) for site in self.sites for share in shares], "integrate", unit="runs")
        parts = [self.gradients([site], share)[site] for site, share in runs]
        means = [torch.stack(parts[n : n + steps]).mean(0) for n in range(0, len(parts), steps)]
        return self.pairs.base_values.float() + self._predicted(dict(zip(self.sites, means, strict=True)), {})

    def toward_source(self, sizes: Float[Tensor, "*place batch"]) -> Float[Tensor, "*place batch"]:
        """The metric where it has moved by these sizes, without their signs, from the base run to the source run."""
        pairs = self.pairs
        way = (pairs.clean_values + pairs.corrupt_values - 2 * pairs.base_values).mean().sign()
        return pairs.base_values.float() + way * sizes.abs()

    def _predicted(self, gradients: dict[Site, Tensor], attended: dict[Site, Tensor]) -> Tensor:
        """The change of the metric at each place of each site, (site, place, batch)."""
        changes = []
        for site in self.sites:
            if site not in attended:
                changes.append(self._changes(site, gradients[site].float()))
                continue
            products = (attended[site].float() * gradients[Site("z", site.layer)].float()).sum(-1)
            each = site.kind == "k" and self.by == "position"
            changes.append(products.sum((2, 3)) if each else self._summed(products[0]))
        return torch.stack(changes).cpu()

    def _change_of_z(self, run: RecordedRun, site: Site) -> Float[Tensor, "edit batch pos head d_head"]:
        """How `z` changes with the queries or keys of its layer: all patched, or for keys by position one by one."""
        each = site.kind == "k" and self.by == "position"
        edits = [
            SiteEdit(site, partial(self.put, site, place, 0) if each else lambda x: self.target[site].to(x))
            for place in range(len(self.labels) if each else 1)
        ]
        z = Site("z", site.layer)
        return run.within(z, edits) - run.within(z)

    def _changes(self, site: Site, gradient: Tensor) -> Float[Tensor, "place batch"]:
        """The change of the metric that a gradient at a site predicts for each place there."""
        if self.by == "latent":
            latents = (self.differences * (gradient.float() @ self.rows.T)).sum(1)
            return torch.cat([latents, (self.error * gradient).sum((1, 2))[:, None]], 1).T
        products = (self.target[site] - self.base[site]).float() * gradient
        if self.by == "neuron":
            return products.sum(1).T
        by_unit = products.flatten(3).sum(-1) if products.ndim == 4 else products.sum(-1, keepdim=True)
        return self._summed(by_unit)

    def _summed(self, products: Float[Tensor, "batch pos head"]) -> Float[Tensor, "place batch"]:
        """The sum over each place."""
        if self.by in ("head", "pattern"):  # a head of keys is attended to by several of z
            return products.sum(1).unflatten(1, (len(self.labels), -1)).sum(2).T
        by_position = products.sum(2)
        return by_position[:, list(map(int, self.labels))].T if self.by == "position" else by_position.sum(1)[None]

    def gradients(self, sites: Sequence[Site], share: float = 0.0, dropped: int | None = None) -> dict[Site, Tensor]:
        """The gradients of the metric, in a run whose activations at the sites are `share` of the way to the source.

        They leave out the paths through what attention and MLP of the layer `dropped` write.
        """
        held: dict[Site, Tensor] = {}

        def hold(site: Site, x: Tensor) -> Tensor:
            mixed = self._where(x + share * (self.target[site].to(x) - x), x) if share else x
            held[site] = mixed if mixed.requires_grad else mixed.detach().requires_grad_()
            return held[site]

        taps: list[tuple[Tap, Transform]] = [(self.model.tap(site), partial(hold, site)) for site in sites]
        if dropped is not None:
            taps += [(self.model.tap(Site(kind, dropped)), Tensor.detach) for kind in ("attn_out", "mlp_out")]
        with frozen_weights(self.model), attached(self.model.hf, taps), torch.enable_grad():
            values = self.pairs.metric(self.model.forward(self.pairs.base, last=1)[None, :, 0])
            # Where all paths are left out, the sum alone would need no gradient.
            total = values.sum() + 0 * sum(held[site].sum() for site in sites)
            gradients = torch.autograd.grad(total, [held[site] for site in sites])
        if not all(gradient.isfinite().all() for gradient in gradients):
            name = self.pairs.comparison.name
            raise InterpError(f"{name}: a gradient of the metric is not finite; patch with method='exact'")
        return dict(zip(sites, gradients, strict=True))
