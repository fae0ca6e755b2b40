"""The figure of a circuit: its heads and MLPs by layer, the embeddings below and the logits above, and its edges."""

from collections import defaultdict
from typing import Any

import plotly.graph_objects as go

from interp.attribution.circuits.circuit import Circuit
from interp.core.display import escaped, html_table
from interp.core.errors import InterpError
from interp.views.figures import styled
from interp.views.notebook_figure import NotebookFigure
from interp.views.palette import SERIES, TEXT

_MOST = 400  # edges that a figure can show
_WIDTHS = (1.0, 2.5, 5.0)  # of edges below a tenth of the highest score, below a third, and above
_READ = ("queries", "keys", "values", "MLPs and logits")  # by colour


class _CircuitFigure(NotebookFigure):
    def to_table(self) -> str:
        """The edges and their scores."""
        return html_table("", ["edge", "score"], [tuple(row) for row in self.layout.meta["edges"]])


def plot_circuit(circuit: Circuit) -> go.Figure:
    """A layered graph: heads and MLPs by layer, and a line per edge, whose colour is what it feeds.

    The width of a line grows with the edge's score, and the hover text of its middle has the edge and the score.

    Args:
        circuit: The circuit, with at most 400 edges.

    Raises:
        InterpError: It has no edges, or more.

    Example:
        >>> from interp.attribution import Circuit, EdgeGraph
        >>> from interp.views import plot_circuit
        >>> circuit = Circuit.of(EdgeGraph.of(model), ["input->a0.h5<v>", "a0.h5->logits"])
        >>> [line.name for line in plot_circuit(circuit).data if line.mode == "lines"]
        ['values', 'MLPs and logits']
    """
    if not 0 < len(circuit) <= _MOST:
        raise InterpError(f"{circuit.name} has {len(circuit)} edges; expected 1 to {_MOST}; choose another budget")
    scores = {
        edge: float((circuit.kept if circuit.scores is None else circuit.scores)[circuit.graph.find(edge)])
        for edge in circuit.edges
    }
    ends = {edge: [_place(circuit, name.partition("<")[0]) for name in edge.split("->")] for edge in scores}
    middles = [
        ((x0 + x1) / 2, (y0 + y1) / 2, f"{escaped(edge)} {scores[edge]:+.3f}")
        for edge, ((x0, y0), (x1, y1)) in ends.items()
    ]
    figure = go.Figure(_lines(scores, ends), layout_height=64 * (circuit.graph.n_layers + 1))
    nodes = [(*_place(circuit, name), name) for name in (*circuit.nodes, "logits")]
    for points, mode, opacity in ((middles, "markers", 0), (nodes, "markers+text", 1)):
        x, y, texts = zip(*points, strict=True)
        trace = go.Scatter(x=x, y=y, text=texts, mode=mode, opacity=opacity, showlegend=False, marker_color=TEXT)
        figure.add_trace(
            trace.update(hovertemplate="%{text}<extra></extra>", textposition="bottom center", textfont_shadow="auto")
        )
    hidden, layers = {"showgrid": False, "zeroline": False, "ticks": ""}, list(range(circuit.graph.n_layers))
    figure.update_xaxes(showticklabels=False, range=[-1, circuit.graph.n_heads + 2], **hidden)
    figure.update_yaxes(tickvals=layers, title_text="layer", range=[-1.4, len(layers) + 0.4], **hidden)
    rows = sorted(scores.items(), key=lambda row: -abs(row[1]))
    figure.update_layout(meta={"edges": [[edge, f"{score:+.3f}"] for edge, score in rows]})
    return _CircuitFigure(styled(figure, top=44, bottom=10))


def _lines(scores: dict[str, float], ends: dict[str, list[tuple[float, float]]]) -> list[go.Scatter]:
    """The edges, in a trace per colour and width."""
    highest, points = max(map(abs, scores.values())) or 1.0, defaultdict[tuple[int, int], list[Any]](list)
    for edge, score in scores.items():
        colour = "qkv".find(edge[-2]) if edge.endswith(">") else 3
        width = sum(abs(score) / highest > limit for limit in (0.1, 0.33))
        points[colour, width] += [*ends[edge], (None, None)]
    shown = dict(sorted(points))  # the legend shows the widest line of each colour
    traces = []
    for (colour, width), place in sorted(points.items()):
        x, y = zip(*place, strict=True)
        line = go.Scatter(x=x, y=y, mode="lines", name=_READ[colour], showlegend=(colour, width) in shown.items())
        traces.append(line.update(line={"color": SERIES[colour], "width": _WIDTHS[width]}, opacity=0.75))
        traces[-1].hoverinfo = "skip"
    return traces


def _place(circuit: Circuit, node: str) -> tuple[float, float]:
    """Where a node is drawn: heads side by side; MLPs above and beside them, apart from each other."""
    heads = circuit.graph.n_heads
    if node == "input":
        return heads / 2, -1.0
    if node == "logits":
        across = [_place(circuit, name)[0] for name in circuit.nodes if name != "input"] or [heads / 2]
        return (min(across) + max(across)) / 2, float(circuit.graph.n_layers)
    layer = int(node[1:].partition(".")[0])
    if node[0] == "m":
        return heads + 0.3 + 0.6 * (layer % 3), layer + 0.4
    return float(node.partition("h")[2]), float(layer)
