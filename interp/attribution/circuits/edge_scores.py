"""Edge attribution patching: an estimate of the effect of every edge, from backward passes.

    score(u -> t) = (what u writes in the source run - in the base run) . d metric / d (input of t)

- One step: the gradient of the base run (Syed et al. 2023, "Attribution patching outperforms automated circuit
  discovery", arXiv:2310.10348).
- Several: its mean over runs whose embeddings are k / steps of the way to the source, k = 0 to steps - 1: EAP-IG
  (inputs) of Hanna et al. 2024, "Have faith in faithfulness", arXiv:2403.17806. The base is one of these
  runs, the source is not.

Scores are means over pairs in units of the effect: 1 is the whole way from corrupt to clean. Under `denoise` the base
is the corrupt run, so an edge that carries the behaviour scores above 0; under `noise` it is the clean run, and below.

The scores of a writer's edges sum to its own score by attribution patching, if both have one step.

Limitations: an estimate, returned with its agreement with exact effects on a sample. Pairs need the same length.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from random import Random

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from interp.attribution.circuits._node_run import NodeRun
from interp.attribution.circuits.circuit import Circuit
from interp.attribution.circuits.edge_graph import EdgeGraph
from interp.attribution.circuits.edge_patching import compared, patch_edges
from interp.attribution.comparison import ComparedPairs, Comparison
from interp.attribution.patching import Agreement
from interp.core.display import Card, Displayed, displayed
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel

_NUMBERS = 50_000_000  # in the inputs of all nodes of the pairs that a backward pass takes together
_SAMPLE = 24  # edges with the highest scores, and as many others, that are compared with exact effects


@dataclass(frozen=True, eq=False)
class EdgeScores(Displayed):
    """A score of each edge. Returned by `attribute_edges`.

    Args:
        graph: The edges.
        scores: The estimated effect of each edge; 0 where there is none.
        name: Of what they are the scores.
        agreement: How far they agree with exact effects.
    """

    graph: EdgeGraph
    scores: Float[Tensor, "source target"]
    name: str = ""
    agreement: Agreement | None = None

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """The `count` edges with the highest scores in absolute value."""
        return displayed([(self.graph.name(*edge), float(self.scores[edge])) for edge in self._ranked()[:count]])

    def _ranked(self) -> list[tuple[int, int]]:
        edges = self.graph.edges.nonzero()
        order = self.scores[tuple(edges.T)].abs().argsort(descending=True, stable=True)
        return [(source, target) for source, target in edges[order].tolist()]

    def circuit(self, edges: PositiveInt) -> Circuit:
        """The circuit of the edges with the highest scores in absolute value, without its unconnected parts.

        Args:
            edges: The budget. Of these, the edges on no path from the input to the logits are taken out.
        """
        kept = torch.zeros_like(self.graph.edges)
        kept[tuple(torch.tensor(self._ranked()[:edges]).T)] = True
        return Circuit(self.graph, kept, self.scores, self.name).pruned()

    def _card(self) -> Card:
        rows = [(name, f"{score:+.3f}") for name, score in self.top()]
        if self.agreement:
            places = f"Spearman with exact effects, {self.agreement.places} edges"
            rows.append((places, f"{self.agreement.spearman:.3f}"))
        return f"edges of {self.name}, {int(self.graph.edges.sum())}", rows


def attribute_edges(
    model: HookedModel, comparison: Comparison | ComparedPairs, steps: PositiveInt = 5, sample: bool = True
) -> EdgeScores:
    """Estimate the effect of every edge.

    Args:
        model: The model.
        comparison: Pairs of the same length, and the metric.
        steps: Number of runs between base and source over which gradients are averaged; 1 is plain EAP.
        sample: Compare with exact effects on a sample: the 24 edges with the highest scores, and 24 others.

    Raises:
        InterpError: As in `Comparison.on`; a pair is not aligned token by token; the model's nodes are not known
            (DeepSeek, Gemma 4); the metric has no gradient, or one that is not finite.

    Example:
        >>> from interp.attribution import Comparison, attribute_edges
        >>> pairs = Comparison.of_organism("hostility", 8).on(model)
        >>> scores = attribute_edges(model, pairs.pick(pairs.whole))
        >>> scores.top(1)[0][0], "a0.h5" in scores.circuit(50).nodes
        ('input->a0.h5<v>', True)
    """
    pairs = compared(model, comparison)
    graph = EdgeGraph.of(model)
    total = torch.zeros(graph.edges.shape)
    for part in track(_parts(pairs, graph), "edges", size=len, unit="pairs"):
        total += _summed(model, part, steps)
    gap = (pairs.clean_values - pairs.corrupt_values).sum()
    result = EdgeScores(graph, total / gap, pairs.comparison.name)
    return replace(result, agreement=_agreement(model, pairs, result)) if sample else result


def _parts(pairs: ComparedPairs, graph: EdgeGraph) -> list[ComparedPairs]:
    numbers = pairs.base.ids.shape[1] * graph.d_model * len(graph.targets)
    return [pairs.pick(rows) for rows in torch.arange(len(pairs)).split(max(1, _NUMBERS // numbers))]


def _summed(model: HookedModel, pairs: ComparedPairs, steps: int) -> Float[Tensor, "source target"]:
    """The sum over pairs of the change of the metric that each edge is estimated to make."""
    base, source = NodeRun(model, pairs.base), NodeRun(model, pairs.source).written
    change = torch.where(pairs.base.mask[..., None].to(model.device), source.parts - base.written.parts, 0)
    scores = torch.zeros(base.graph.edges.shape)
    for step in range(steps):
        start = (base.written.parts[0] + step / steps * change[0]).requires_grad_()
        for first, gradients in _gradients(base, pairs, start):
            count, reach = len(gradients), int(base.graph.reach[first])
            part = torch.einsum("sbpd,tbpd->st", change[:reach], gradients) / steps
            scores[:reach, first : first + count] += part.cpu()
    return scores


def _gradients(run: NodeRun, pairs: ComparedPairs, start: Tensor) -> Iterator[tuple[int, Tensor]]:
    """The gradient of the metric at the inputs of each group of targets, and the first of the group."""
    with frozen_weights(run.model), torch.enable_grad():
        logits, inputs = run.run(run.written, start=start)
        total = pairs.metric(logits[None]).sum()
        if not total.requires_grad:
            problem = f"{pairs.comparison.name}: the metric has no gradient, as after detach() or argmax"
            raise InterpError(f"{problem}; give one that is differentiable, or use patch_edges")
        gradients = torch.autograd.grad(total, inputs)
    if not all(gradient.isfinite().all() for gradient in gradients):
        raise InterpError(f"{pairs.comparison.name}: a gradient of the metric is not finite; use patch_edges")
    first = 0
    for gradient in gradients:
        yield first, gradient
        first += len(gradient)


def _agreement(model: HookedModel, pairs: ComparedPairs, estimate: EdgeScores) -> Agreement:
    ranked = estimate._ranked()
    chosen = ranked[:_SAMPLE] + Random(0).sample(ranked[_SAMPLE:], min(_SAMPLE, len(ranked[_SAMPLE:])))
    names = [estimate.graph.name(*edge) for edge in chosen]
    guessed = torch.stack([estimate.scores[edge] for edge in chosen]).double()
    return Agreement.of(names, guessed, patch_edges(model, pairs, names).changes)
