"""Faithfulness: what a circuit does by itself, and what the model does without it, by ablation of edges."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution.circuits._node_run import NodeRun
from interp.attribution.circuits.circuit import Ablation, Circuit
from interp.attribution.circuits.edge_patching import compared
from interp.attribution.circuits.edge_scores import EdgeScores
from interp.attribution.comparison import ComparedPairs, Comparison
from interp.core.display import Card, Displayed
from interp.core.progress import track
from interp.models.hooked import HookedModel

_SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)  # of the edges, as in MIB


@dataclass(frozen=True, eq=False)
class Faithfulness(Displayed):
    """What a circuit does by itself and what the model does without it. Returned by `measure_circuits`.

    Args:
        pairs: The comparison, with the metric of a run without any edge as that of the corrupt run.
        circuit: The circuit.
        ablation: What the other edges carry.
        alone: The metric of the circuit alone, per pair.
        without: The metric of the model without the circuit's edges, per pair.
    """

    pairs: ComparedPairs
    circuit: Circuit
    ablation: Ablation
    alone: Float[Tensor, "batch"]
    without: Float[Tensor, "batch"]

    @property
    def faithfulness(self) -> float:
        """1 where the circuit does all that the model does, 0 where it does nothing."""
        return self.pairs.effect(self.alone)

    @property
    def completeness(self) -> float:
        """1 where the model does nothing without the circuit's edges, 0 where they are not missed."""
        return 1 - self.pairs.effect(self.without)

    @property
    def intervals(self) -> Float[Tensor, "2 2"]:
        """The 95 % intervals of faithfulness and completeness, over pairs."""
        alone, without = self.pairs.interval(torch.stack([self.alone, self.without]))
        return torch.stack([alone, 1 - without.flip(0)])

    def _card(self) -> Card:
        values = ("faithfulness", self.faithfulness), ("completeness", self.completeness)
        ends = zip(values, self.intervals.tolist(), strict=True)
        rows = [(name, f"{value:.3f} ({low:.3f} to {high:.3f})") for (name, value), (low, high) in ends]
        return f"{self.circuit.name}, {len(self.circuit)} edges, {self.ablation} ablation", rows


@dataclass(frozen=True, eq=False)
class FaithfulnessCurve(Displayed):
    """The circuits of a ranking at several budgets. Returned by `faithfulness_curve`.

    Args:
        shares: The budgets, as shares of all edges.
        results: What the circuit of each budget does.
    """

    shares: tuple[float, ...]
    results: tuple[Faithfulness, ...]

    @property
    def cpr(self) -> float:
        """MIB's circuit performance ratio: the area under faithfulness. More is better; what overshoots counts."""
        return self._area([result.faithfulness for result in self.results])

    @property
    def cmd(self) -> float:
        """MIB's circuit-model distance: the area between faithfulness and 1. Less is better."""
        return self._area([abs(1 - result.faithfulness) for result in self.results])

    def _area(self, values: list[float]) -> float:
        return float(torch.trapezoid(torch.tensor(values), torch.tensor(self.shares)))

    def _card(self) -> Card:
        rows = [
            (f"{share:.1%} ({len(result.circuit)} edges)", f"{result.faithfulness:.3f}")
            for share, result in zip(self.shares, self.results, strict=True)
        ]
        return f"CPR {self.cpr:.3f}, CMD {self.cmd:.3f}", rows


@torch.no_grad()
def measure_circuits(
    model: HookedModel,
    comparison: Comparison | ComparedPairs,
    circuits: Circuit | Sequence[Circuit],
    ablation: Ablation = "resample",
) -> tuple[Faithfulness, ...]:
    """Measure what each circuit does by itself, and what the model does without it.

    Args:
        model: The model.
        comparison: Pairs of the same length, and the metric. The clean prompts are run, whatever the convention.
        circuits: The circuits.
        ablation: What the other edges carry: `resample`, as on the corrupt prompt of the pair; `mean`, its mean.

    Raises:
        InterpError: As in `attribute_edges`; a circuit is of another model's shape.

    Example:
        >>> from interp.attribution import Circuit, Comparison, EdgeGraph, measure_circuits
        >>> pairs = Comparison.of_organism("hostility", 8).on(model)
        >>> everything = Circuit(EdgeGraph.of(model), EdgeGraph.of(model).edges)
        >>> (result,) = measure_circuits(model, pairs.pick(pairs.whole), everything)
        >>> round(result.faithfulness, 3), round(result.completeness, 3)
        (1.0, 1.0)
    """
    listed = [circuits] if isinstance(circuits, Circuit) else list(circuits)
    for circuit in listed:
        circuit.graph.require(model)
    pairs = compared(model, comparison)
    outside, run = NodeRun(model, pairs.corrupt).written, NodeRun(model, pairs.clean)
    if ablation == "mean":
        outside = outside.mean(pairs.corrupt.mask)
    kept = [edges for circuit in listed for edges in (circuit.kept, run.graph.edges & ~circuit.kept)]
    runs = track([torch.zeros_like(run.graph.edges), *kept], "circuits", unit="runs")
    nothing, *values = [pairs.metric(run.run(outside, edges.float())[0][None])[0] for edges in runs]
    scaled = replace(pairs, corrupt_values=nothing)
    return tuple(
        Faithfulness(scaled, circuit, ablation, *values[2 * n : 2 * n + 2]) for n, circuit in enumerate(listed)
    )


def faithfulness_curve(
    model: HookedModel, comparison: Comparison | ComparedPairs, scores: EdgeScores, ablation: Ablation = "resample"
) -> FaithfulnessCurve:
    """Measure the circuits of the highest scores at MIB's shares of all edges, 0.1 % to 100 %.

    Args:
        model: The model.
        comparison: Pairs of the same length, and the metric.
        scores: The ranking of edges.
        ablation: As in `measure_circuits`.

    Raises:
        InterpError: As in `measure_circuits`.
    """
    circuits = [scores.circuit(max(1, round(share * int(scores.graph.edges.sum())))) for share in _SHARES]
    return FaithfulnessCurve(_SHARES, measure_circuits(model, comparison, circuits, ablation))
