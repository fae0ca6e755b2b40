"""Path patching of edges: what the sender writes in the source run goes into one input of one receiver alone.

The run is the base run. The receiver's input gets the sender's difference, source minus base, along the direct path:
all nodes in between keep their values of the base run. The receiver and everything after it are computed anew, norms
included. For heads, Goldowsky-Dill et al. 2023, "Localizing model behavior with path patching", arXiv:2304.05969;
Wang et al. 2023, "Interpretability in the wild", arXiv:2211.00593.

Limitations: one edge at a time; a path of several edges is the business of a `Circuit`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.attribution._layer_pass import SiteEdit
from interp.attribution.circuits._node_run import NodeRun
from interp.attribution.comparison import ComparedPairs, Comparison
from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.hooked import HookedModel
from interp.models.sites import Site


@dataclass(frozen=True, eq=False)
class EdgePatching(Displayed):
    """The exact effect of each of some edges. Returned by `patch_edges`.

    Args:
        pairs: The comparison on the model.
        edges: The edges, such as `a0.h5->a3.h1<v>`.
        values: The metric under each patch, not scaled, (edge, batch).
    """

    pairs: ComparedPairs
    edges: tuple[str, ...]
    values: Float[Tensor, "edge batch"]

    @property
    def effects(self) -> Float[Tensor, "edge"]:
        """The mean effect of each edge: 0 is the corrupt run, 1 the clean one."""
        return self.pairs.effects(self.values)

    @property
    def changes(self) -> Float[Tensor, "edge"]:
        """How far each edge takes the effect from that of the base run, as `EdgeScores` estimates it."""
        return self.effects - self.pairs.effect(self.pairs.base_values)

    @property
    def intervals(self) -> Float[Tensor, "edge 2"]:
        """The 95 % interval of each effect, over pairs."""
        return self.pairs.interval(self.values)

    def top(self, count: int = 10) -> list[tuple[str, float]]:
        """The `count` edges that change the effect most, and that change."""
        changes = self.changes
        order = changes.abs().argsort(descending=True, stable=True)[:count].tolist()
        return displayed([(self.edges[number], float(changes[number])) for number in order])

    def _card(self) -> Card:
        rows = [(name, f"{change:+.3f}") for name, change in self.top()]
        return f"{plural(len(self.edges), 'patched edge')} of {self.pairs.comparison.name}", rows


def compared(model: HookedModel, comparison: Comparison | ComparedPairs) -> ComparedPairs:
    """The pairs of a comparison on a model. Raises for pairs that are not aligned token by token."""
    pairs = comparison.on(model)
    if len(whole := pairs.whole.tolist()) < len(pairs):
        number = min(set(range(len(pairs))) - set(whole))
        lengths = f"{int(pairs.clean.lengths[number])} and {int(pairs.corrupt.lengths[number])} tokens"
        raise InterpError(
            f"{pairs.comparison.name}, pair {number + 1}: {lengths} that are not aligned one by one, as edges need; "
            f"pairs.pick(pairs.whole) keeps the {plural(len(whole), 'pair')} that are"
        )
    return pairs


@torch.no_grad()
def patch_edges(model: HookedModel, comparison: Comparison | ComparedPairs, edges: str | Sequence[str]) -> EdgePatching:
    """Measure the effect of single edges: the sender's difference goes into one input of the receiver.

    Args:
        model: The model.
        comparison: Pairs of the same length, and the metric.
        edges: Names such as `input->m0`, `a0.h5->a3.h1<v>` or `m5->logits`.

    Raises:
        InterpError: As in `attribute_edges`; an edge is not one of the model's.

    Example:
        >>> from interp.attribution import Comparison, patch_edges
        >>> pairs = Comparison.of_organism("hostility", 8).on(model)
        >>> result = patch_edges(model, pairs.pick(pairs.whole), ["input->a0.h5<v>", "input->a0.h4<v>"])
        >>> bool(result.effects[0] > 0.5 > result.effects[1])
        True
    """
    names = tuple([edges] if isinstance(edges, str) else edges)
    pairs = compared(model, comparison)
    base, source = NodeRun(model, pairs.base), NodeRun(model, pairs.source).written
    found = [base.graph.find(name) for name in names]
    change = source.parts - base.written.parts
    order = sorted(range(len(names)), key=lambda number: found[number][1])
    edits = [_edit(base, *found[n], change[found[n][0]]) for n in track(order, "patch edges", unit="edges")]
    values = torch.empty(len(names), len(pairs))
    if edits:
        values[order] = base.recorded.read(edits, 0, pairs.metric).float().cpu()
    return EdgePatching(pairs, names, values)


def _edit(run: NodeRun, source: int, target: int, change: Float[Tensor, "batch pos d_model"]) -> SiteEdit:
    """What the receiver does when its input has the sender's change."""
    graph = run.graph
    layer, place = divmod(target, 3 * graph.n_heads + 1)
    if layer == graph.n_layers:
        return SiteEdit(Site("resid_post", layer - 1), lambda x: x + change)
    if place == 3 * graph.n_heads:
        mlp = run.mlp(layer, run.written.streams[2 * layer + 1] + change)
        return SiteEdit(Site("mlp_out", layer), lambda x: mlp)
    inputs = run.written.streams[2 * layer].repeat(3 * graph.n_heads, 1, 1, 1)
    inputs[place] += change
    z = run.attention(layer, inputs)
    return SiteEdit(Site("z", layer), lambda x: z)
