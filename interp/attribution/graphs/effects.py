"""Effects of nodes: each one ablated once, beside what the graph predicts.

In the unfrozen model, attention, norms, gates and errors respond to an ablation as they do, and the graph's total
effect is compared: the change along all paths through latents. A frozen norm scale is exact for sums and wrong for
ablations: what a latent writes along the stream shrinks the stream, and the norm restores it. So an ablated latent or
error acts along edges of the same graph whose norms respond, to first order. An ablated embedding takes away all that a
token begins with, which no first order describes; there the scales stay frozen.

Under the freeze only direct edges act, and the run equals them up to rounding.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor

from interp.attribution.graphs._influence import total_effects
from interp.attribution.graphs._replacement import FINAL, LocalReplacement, Readers
from interp.attribution.graphs.graph import AttributionGraph, Effects
from interp.core.progress import track
from interp.models.architectures.table import Tap
from interp.models.hooked import HookedModel
from interp.models.hooks import attached
from interp.models.sites import Site

Written = dict[Site, Float[Tensor, "rows pos d_model"]]


def measure_effects(
    graph: AttributionGraph, model: HookedModel, freeze: bool = False, batch_size: PositiveInt = 32
) -> Effects:
    """Ablate each kept node once, and measure the change of every later kept latent and of the logits.

    Args:
        graph: The graph.
        model: Its model.
        freeze: Hold patterns, scales and all other latents, and compare with direct edges. Default: the plain model,
            compared with total effects.
        batch_size: Ablations per forward pass.

    Raises:
        InterpError: It is another model than the graph's.

    Example:
        >>> transcoders = interp.attribution.load_transcoders(interp.organism.transcoders(), model)
        >>> graph = interp.attribution.trace_graph(model, transcoders, "The river of", measure=False)
        >>> effects = interp.attribution.measure_effects(graph, model, freeze=True)
        >>> torch.allclose(effects.predicted, effects.measured, atol=1e-4)
        True
    """
    return ablated(graph, graph.replacement(model), freeze, batch_size)


@torch.no_grad()
def ablated(graph: AttributionGraph, replacement: LocalReplacement, freeze: bool, batch_size: int) -> Effects:
    """As `measure_effects`, with a local replacement model that is there."""
    sources, nodes = graph.pruning.sources.nonzero()[:, 0], graph.kept_nodes
    kept, run = graph.nodes.pick(nodes), _frozen if freeze else _unfrozen
    parts = track(sources.split(batch_size), "ablate", size=len, unit="nodes")
    values = torch.cat([run(replacement, kept, _written(replacement, part)).cpu() for part in parts])
    embedded = sources >= graph.edges.shape[1] - len(graph.tokens)
    predicted = -graph.edges[:, sources]
    if not freeze:
        responses = replacement.edges(graph.nodes, batch_size, norms=False)
        for edges, chosen in ((responses, ~embedded), (graph.edges, embedded)):
            predicted[:, chosen] = total_effects(edges, graph.activations, sources[chosen])
    layers, positions = (x[sources][:, None] for x in graph.source_places)
    later = (layers < kept.layers) & (positions <= kept.positions)
    return Effects(sources, nodes, embedded, later, predicted[nodes].T, values - kept.values, freeze)


def _written(replacement: LocalReplacement, sources: Int[Tensor, "rows"]) -> Written:
    """What each source writes, a row for each."""
    shape = len(sources), replacement.width, replacement.model.d_model
    written: Written = {}
    for row, source in enumerate(sources.tolist()):
        for site, position, vector in replacement.written(source):
            written.setdefault(site, torch.zeros(shape, device=vector.device))[row, position] += vector
    return written


def _frozen(replacement: LocalReplacement, nodes: Readers, written: Written) -> Float[Tensor, "rows node"]:
    rows = len(next(iter(written.values())))
    leaves = {site: x.expand(rows, -1, -1) - written.get(site, 0) for site, x in replacement.leaves.items()}
    return replacement.readings(nodes, replacement.run(leaves))


def _unfrozen(replacement: LocalReplacement, nodes: Readers, written: Written) -> Float[Tensor, "rows node"]:
    """What latents and logits are in a plain pass, without what is written."""
    reads: dict[Site, Tensor] = {}
    rows = len(next(iter(written.values())))

    def take(site: Site, x: Tensor) -> Tensor:
        return x - written[site].to(x)

    taps: list[tuple[Tap, Any]] = [(replacement.tap(site), partial(take, site)) for site in written]
    taps += [(replacement.tap(site), partial(reads.__setitem__, site)) for site in replacement.reads.values()]
    with attached(replacement.model.hf, taps):
        replacement.model.hf.base_model(**replacement.inputs(rows))
    values = torch.empty(rows, len(nodes.values), device=replacement.model.device)
    for number, position in {*zip(nodes.coders.tolist(), nodes.positions.tolist(), strict=True)}:
        here = ((nodes.coders == number) & (nodes.positions == position)).nonzero()[:, 0]
        if number < 0:
            every = replacement.centred_logits(reads[FINAL][:, position])
        else:
            coder = replacement.transcoders[number]
            parts = [reads[Site.parse(place.site)][:, position].float() for place in coder.reads]
            every = coder.encode(torch.cat(parts, dim=-1))
        values[:, here] = every[:, nodes.latents[here]]
    return values
