"""The local replacement model of a prompt: its own MLPs replaced by active latents, errors and constants.

    what an MLP writes = the sum of (latent value x decoder row) + decoder bias + skip connection + error

The sum is exact by the error. Attention patterns and norm scales are frozen, so that what an encoder row or an
unembedding column reads is a sum over what is written: latents, errors, embeddings and constants (Ameisen et al. 2025,
"Circuit tracing", https://transformer-circuits.pub/2025/attribution-graphs/methods.html). A gradient from the reader to
all that is written, times what was written there, is one row of the graph.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import linear

from interp.attribution.graphs._freeze import Freeze
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.architectures.table import Tap, architecture
from interp.models.architectures.unembedding import logit_scale, stream_logits
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.hooks import attached
from interp.models.sites import Site
from interp.models.tokens import Tokens
from interp.sae.coder import SparseAutoencoder
from interp.sae.file_formats import TENSORS

EMBEDDING, FINAL = Site("resid_pre", 0), Site("resid_post", 10**6)  # the latter stands for the final norm's output
Tensors = Mapping[Site, Float[Tensor, "rows pos d_model"]]


@dataclass(frozen=True, eq=False)
class Readers:
    """Nodes that read: the active latents, in the order of layer, position and number, and then logits.

    Attributes:
        coders: The transcoder of each latent, by number; -1 for a logit.
        layers: The layer that each one reads; of a logit, the number of layers.
        positions: The position that each one reads.
        latents: The number of each latent in its transcoder; or the token of the logit.
        values: The latent's value, which is its pre-activation; or the centred logit before any cap.
    """

    coders: Int[Tensor, "node"]
    layers: Int[Tensor, "node"]
    positions: Int[Tensor, "node"]
    latents: Int[Tensor, "node"]
    values: Float[Tensor, "node"]

    @classmethod
    def joined(cls, parts: Sequence[Sequence[Tensor]]) -> "Readers":
        """Nodes from several fields each."""
        coders, layers, positions, latents, values = (torch.cat(column).cpu() for column in zip(*parts, strict=True))
        return cls(coders, layers, positions, latents, values.float())

    @property
    def fields(self) -> tuple[Tensor, ...]:
        """The five fields."""
        return self.coders, self.layers, self.positions, self.latents, self.values

    def pick(self, nodes: Int[Tensor, "chosen"]) -> "Readers":
        """Some of them, in another order."""
        return Readers.joined([[field[nodes] for field in self.fields]])


class LocalReplacement:
    """The local replacement model of one prompt.

    Args:
        model: The model.
        transcoders: The transcoders.
        batch: The prompt, one row without padding.
        first_is_error: All that the MLPs write at the first token is error, because transcoders are not trained there.
            Otherwise it is a constant, as in circuit-tracer.

    Raises:
        InterpError: A transcoder is of another model, holds NaN or infinite entries, reads what comes later than it
            writes, or writes no MLP's output.
    """

    def __init__(
        self, model: HookedModel, transcoders: Sequence[SparseAutoencoder], batch: Tokens, first_is_error: bool
    ):
        model.require_unhooked()
        self.model, self.batch, self.width, self.first_is_error = model, batch, batch.ids.shape[1], first_is_error
        self.transcoders = [coder.to(model.device) for coder in transcoders]
        self.reads, written = _sites(model, transcoders)
        self.writes = [written.get(layer, Site("mlp_out", layer)) for layer in range(model.n_layers)]
        self.reads[model.n_layers] = FINAL
        self.skips = {site: [x for coder in self.transcoders for x in _skips(coder, site)] for site in self.writes}
        self.freeze = Freeze()
        recorded = self._record()
        self.final: Float[Tensor, d_model] = recorded[FINAL][0, -1]
        self.latents = self._active(recorded)
        self.leaves = {EMBEDDING: recorded[EMBEDDING]}
        self.leaves |= {site: recorded[site] - self._skipped(site, recorded) for site in self.writes}

    @property
    def vectors(self) -> int:
        """Number of vectors in `cells`, at most: latents write from the layer on that they read."""
        total = 0
        for number, coder in enumerate(self.transcoders):
            orders = [site.order for site in self.writes if _block(coder, site)]
            for layer, count in Counter(self.latents.layers[self.latents.coders == number].tolist()).items():
                total += count * sum(order >= self.reads[layer].order for order in orders)
        return total

    @cached_property
    def cells(self) -> dict[Site, list[tuple[int, Int[Tensor, "k"], Float[Tensor, "k d_model"]]]]:
        """What latents write at each site: by far the largest part, so computed where it is first needed."""
        return {site: list(self._cells(site)) for site in self.writes}

    @cached_property
    def errors(self) -> Mapping[Site, Float[Tensor, "pos d_model"]]:
        """What each MLP writes beside latents, biases and skip connections."""
        return {site: self._error(site) for site in self.writes}

    @property
    def sources(self) -> int:
        """Number of nodes that write: latents, errors by layer and position, and embeddings."""
        return len(self.latents.values) + (len(self.writes) + 1) * self.width

    def inputs(self, rows: int) -> dict[str, Any]:
        """The arguments of a pass of this many copies of the prompt."""
        batch = self.batch.model_inputs(self.model.device)
        return {name: x.expand(rows, -1) for name, x in batch.items()} | {"use_cache": False}

    def tap(self, site: Site) -> Tap:
        """The place of a site, or of the final norm's output."""
        return Tap(architecture(self.model.config).final_norm, "out") if site == FINAL else self.model.tap(site)

    @torch.no_grad()
    def _record(self) -> dict[Site, Tensor]:
        """The activations of the pass whose patterns and scales are held."""
        recorded: dict[Site, Tensor] = {}

        def record(site: Site, x: Tensor) -> None:
            recorded[site] = x.clone()

        taps = [(self.tap(site), partial(record, site)) for site in {EMBEDDING, *self.reads.values(), *self.writes}]
        with self.freeze, attached(self.model.hf, taps):
            self.model.hf.base_model(**self.inputs(1))
        return recorded

    def _active(self, recorded: Tensors) -> Readers:
        """The latents that fire, at all tokens but the first."""
        parts = []
        for number, coder in enumerate(self.transcoders):
            sites = [Site.parse(place.site) for place in coder.reads]
            code = coder.encode_sparse(torch.cat([recorded[site][0].float() for site in sites], dim=-1))
            code = code.pick(((code.values > 0) & (code.tokens > 0)).nonzero()[:, 0])
            layers = torch.tensor([site.layer for site in sites], device=code.latents.device)
            layer = layers[code.latents // (coder.d_sae // len(sites))]
            parts.append((torch.full_like(layer, number), layer, code.tokens, code.latents, code.values))
        nodes = Readers.joined(parts)
        order = zip(*(x.tolist() for x in (nodes.layers, nodes.positions, nodes.coders, nodes.latents)), strict=True)
        ranked = [node for _, node in sorted((key, node) for node, key in enumerate(order))]
        return nodes.pick(torch.tensor(ranked, dtype=torch.long))

    def _skipped(self, site: Site, reads: Tensors) -> Any:
        return sum(linear(reads[read].to(matrix), matrix) for read, matrix in self.skips[site])

    def _cells(self, site: Site) -> Iterator[tuple[int, Int[Tensor, "k"], Float[Tensor, "k d_model"]]]:
        """What latents write at a site: a position, latents that are active there, and value times decoder row."""
        for number, coder in enumerate(self.transcoders):
            block = _block(coder, site)
            for position in range(1, self.width) if block else ():
                here = (self.latents.coders == number) & (self.latents.positions == position)
                nodes = here.nonzero()[:, 0]
                rows = coder.W_dec[self.latents.latents[nodes]][:, block].float()
                writing = rows.any(1).cpu()
                vectors = rows * self.latents.values[nodes, None].to(rows)
                yield position, nodes[writing], vectors[writing]

    def _error(self, site: Site) -> Float[Tensor, "pos d_model"]:
        error = self.leaves[site][0].float()
        for coder in self.transcoders:
            if block := _block(coder, site):
                error = error - coder.b_dec[block]
        for position, _, vectors in self.cells[site]:
            error[position] -= vectors.sum(0)
        error[0] = self.leaves[site][0, 0] if self.first_is_error else 0
        return error

    def run(self, leaves: Tensors, norms: bool = True) -> dict[Site, Tensor]:
        """What is read in a frozen pass with these tensors as embeddings and as what the MLPs write without skips.

        With `norms` false, norms respond to them, and only patterns are frozen.
        """
        reads: dict[Site, Tensor] = {}

        def put(site: Site, x: Tensor) -> Tensor:
            return (leaves[site] + (self._skipped(site, reads) if site in self.skips else 0)).to(x.dtype)

        taps: list[tuple[Tap, Any]] = [(self.tap(site), partial(put, site)) for site in (EMBEDDING, *self.writes)]
        taps += [(self.tap(site), partial(reads.__setitem__, site)) for site in self.reads.values()]
        rows = len(leaves[EMBEDDING])
        with frozen_weights(self.model), self.freeze.replay(rows, norms), attached(self.model.hf, taps):
            self.model.hf.base_model(**self.inputs(rows))
        return reads

    def readings(self, nodes: Readers, reads: Tensors) -> Float[Tensor, "rows node"]:
        """Pre-activations of latents, and centred logits, from what is read."""
        rows, bias = self._rows(nodes)
        values = torch.empty(len(reads[FINAL]), len(bias), device=bias.device)
        for site, here in self._by_site(nodes):
            values[:, here] = torch.einsum("rnd,nd->rn", reads[site][:, nodes.positions[here]].float(), rows[here])
        return values + bias

    @torch.no_grad()
    def constants(self, nodes: Readers) -> Float[Tensor, "node"]:
        """What each node reads where no node writes: of biases, and of what is a constant by the rules."""
        rest = {site: x.clone() for site, x in self.leaves.items()}
        rest[EMBEDDING].zero_()
        for site in self.writes:
            rest[site] -= self.errors[site].to(rest[site])
            for position, _, vectors in self.cells[site]:
                rest[site][0, position] -= vectors.sum(0).to(rest[site])
        return self.readings(nodes, self.run(rest))[0]

    def edges(self, nodes: Readers, batch_size: int, norms: bool = True) -> Float[Tensor, "node source"]:
        """What each source contributes to each node; with `norms` false, what it does to it where norms respond.

        The response is of first order: the derivative along what the source writes.
        """
        edges = torch.empty(len(nodes.values), self.sources)
        batches = self._batches(nodes, min(batch_size, len(edges)), norms)
        for part, rows in track(batches, "trace", len(edges), size=lambda item: len(item[0]), unit="nodes"):
            edges[part] = rows.cpu()
        return edges

    def _batches(
        self, nodes: Readers, batch_size: int, norms: bool
    ) -> Iterator[tuple[Tensor, Float[Tensor, "node source"]]]:
        """Rows of edges in batches: which nodes these are, and their rows."""
        rows, _ = self._rows(nodes)
        leaves = {site: x.expand(batch_size, -1, -1).clone().requires_grad_() for site, x in self.leaves.items()}
        with torch.enable_grad():
            reads = self.run(leaves, norms)
        for site, here in self._by_site(nodes):
            before = [leaf for leaf in leaves if leaf == EMBEDDING or leaf.order < site.order]
            for part in here.split(batch_size):
                seed = torch.zeros_like(reads[site])
                seed[torch.arange(len(part)), nodes.positions[part]] = rows[part].to(seed)
                inputs = [leaves[leaf] for leaf in before]
                gradients = torch.autograd.grad(reads[site], inputs, seed, retain_graph=True, materialize_grads=True)
                named = zip(before, gradients, strict=True)
                yield part, self._contributions({leaf: x[: len(part)].float() for leaf, x in named})

    def _contributions(self, gradients: Tensors) -> Float[Tensor, "node source"]:
        """Gradients at all that is written, times what was written."""
        start, embedding = len(self.latents.values), gradients[EMBEDDING]
        out = torch.zeros(len(embedding), self.sources, device=embedding.device)
        out[:, -self.width :] = torch.einsum("rpd,pd->rp", embedding, self.leaves[EMBEDDING][0].float())
        for layer, site in enumerate(self.writes):
            if site in gradients:
                errors = slice(start + layer * self.width, start + (layer + 1) * self.width)
                out[:, errors] = torch.einsum("rpd,pd->rp", gradients[site], self.errors[site])
                for position, nodes, vectors in self.cells[site]:
                    out[:, nodes] += gradients[site][:, position] @ vectors.T
        return out

    def written(self, source: int) -> Iterator[tuple[Site, int, Float[Tensor, "d_model"]]]:
        """What a source writes: the site, the position, and the vector."""
        layer, position = divmod(source - len(self.latents.values), self.width)
        if layer == len(self.writes):
            yield EMBEDDING, position, self.leaves[EMBEDDING][0, position].float()
        elif layer >= 0:
            yield self.writes[layer], position, self.errors[self.writes[layer]][position]
        else:
            for site, cells in self.cells.items():
                for position, nodes, vectors in cells:
                    yield from ((site, position, vector) for vector in vectors[nodes == source])

    def _by_site(self, nodes: Readers) -> Iterator[tuple[Site, Int[Tensor, "node"]]]:
        """The sites that nodes read, and which nodes read each."""
        for layer in nodes.layers.unique().tolist():
            yield self.reads[layer], (nodes.layers == layer).nonzero()[:, 0]

    def _rows(self, nodes: Readers) -> tuple[Float[Tensor, "node d_model"], Float[Tensor, "node"]]:
        """The vector that each node reads along, and what it adds to the reading."""
        head, scale, device = self.model.hf.get_output_embeddings(), logit_scale(self.model), self.model.device
        tables = [(coder.W_enc, coder.b_enc) for coder in self.transcoders]
        rows = torch.empty(len(nodes.values), self.model.d_model, device=device)
        bias = torch.zeros(len(rows), device=device)
        for number, (matrix, vector) in enumerate([*tables, (head.weight, head.bias)], -len(tables) - 1):
            here = nodes.coders == (-1 if number == -1 else number + len(tables) + 1)
            chosen = nodes.latents[here]
            for out, table in ((rows, matrix), (bias, vector)):
                if table is not None:
                    values = table.detach()[chosen].float()
                    out[here] = values if number < -1 else (values - table.detach().float().mean(0)) * scale
        return rows, bias

    def centred_logits(self, final: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows d_vocab"]:
        """The logits of what the final norm returns, before any cap, less their mean."""
        logits = stream_logits(self.model, final, capped=False).detach().float()
        return logits - logits.mean(-1, keepdim=True)


def _sites(model: HookedModel, transcoders: Sequence[SparseAutoencoder]) -> tuple[dict[int, Site], dict[int, Site]]:
    """The sites that are read and written, by layer. Raises for transcoders that do not fit the model or each other."""
    reads, writes, taken = dict[int, Site](), dict[int, Site](), set[int]()
    for coder in transcoders:
        coder.require(model)
        _require_finite(coder)
        model.resolve([place.site for place in (*coder.reads, *coder.writes)])
        if len(coder.reads) > 1 and coder.W_enc.shape[1] == coder.d_in:
            raise InterpError(f"{coder} reads several sites in each latent; a graph needs latents that read one")
        for places, sites in ((coder.reads, reads), (coder.writes, writes)):
            for site in (Site.parse(place.site) for place in places):
                if sites is writes and site.kind not in ("mlp_out", "mlp_raw"):
                    raise InterpError(f"{coder} writes {site}; a graph needs transcoders that write mlp_out or mlp_raw")
                other = sites.setdefault(int(site.layer or 0), site)
                if other != site or (sites is reads and site.layer in taken):
                    raise InterpError(f"transcoders have both {other} and {site}; use one transcoder in a layer")
        taken |= reads.keys()
        for write in (Site.parse(place.site) for place in coder.writes):
            rows = coder.W_dec[:, _block(coder, write)].chunk(len(coder.reads))
            for read in (Site.parse(x.site) for x, part in zip(coder.reads, rows, strict=True) if part.any()):
                _require_before(coder, read, write)
    return reads, writes


def _skips(coder: SparseAutoencoder, site: Site) -> Iterator[tuple[Site, Float[Tensor, "d_model d_read"]]]:
    """What a transcoder's skip connection adds at a site: pairs of a site that is read, and a matrix."""
    block = _block(coder, site)
    if coder.W_skip is not None and block:
        parts = coder.W_skip[block].split([place.width for place in coder.reads], dim=1)
        for place, matrix in zip(coder.reads, parts, strict=True):
            if matrix.any():
                _require_before(coder, Site.parse(place.site), site)
                yield Site.parse(place.site), matrix


def _require_finite(coder: SparseAutoencoder) -> None:
    """Raise for NaN, which no threshold is below: such latents would be quiet."""
    tensors = {name: getattr(coder, name) for name in (*TENSORS, "W_skip")}
    if bad := [name for name, x in tensors.items() if x is not None and not x.isfinite().all()]:
        raise InterpError(f"{coder}: {', '.join(bad)} hold NaN or infinite entries; download or train it again")


def _require_before(coder: SparseAutoencoder, read: Site, write: Site) -> None:
    if read.order > write.order:
        raise InterpError(f"{coder} writes {write} from {read}, which comes later; expected a causal transcoder")


def _block(coder: SparseAutoencoder, site: Site) -> slice | None:
    """The columns of a transcoder's decoder for a site that it writes; None if it does not."""
    start = 0
    for place in coder.writes:
        if place.site == str(site):
            return slice(start, start + place.width)
        start += place.width
    return None
