"""The figure of a circuit: its heads and MLPs by layer, the embeddings below and the logits above, and its edges."""

from collections import defaultdict

import plotly.graph_objects as go

from interp.attribution.circuits.circuit import Circuit
from interp.core.display import html_table
from interp.core.errors import InterpError
from interp.views.figures import styled
from interp.views.notebook_figure import NotebookFigure
from interp.views.palette import SERIES, TEXT

_MOST = 400  # edges that a figure can show
_WIDTHS = (1.0, 2.5, 5.0)  # of edges below a tenth of the highest score, below a third, and above
_READ = {"q": "queries", "k": "keys", "v": "values", "": "MLPs and logits"}  # by colour


class _CircuitFigure(NotebookFigure):
    def to_table(self) -> str:
        """The edges and their scores."""
        return html_table("", ["edge", "score"], [tuple(row) for row in self.layout.meta["edges"]])


def plot_circuit(circuit: Circuit) -> go.Figure:
    """A layered graph: heads and MLPs by layer, and a line per edge, whose colour is what it feeds.

    The width of a line grows with the edge's score; a negative score is dotted. The hover text of the middle of a line
    has the edge and its score.

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
        raise InterpError(f"{circuit.name} has {len(circuit)} edges; expected 1 to {_MOST}, choose another budget")
    lines, middles = defaultdict[tuple[str, int, bool], list[list[float | None]]](list), []
    scored = [(edge, 1.0 if circuit.scores is None else float(circuit.scores[circuit.graph.find(edge)]))
              for edge in circuit.edges]  # fmt: skip
    highest = max(abs(score) for _, score in scored) or 1.0
    for edge, score in scored:
        source, _, target = edge.partition("->")
        (x0, y0), (x1, y1) = (_place(circuit, name.partition("<")[0]) for name in (source, target))
        share = abs(score) / highest
        kind = target[-2] if target.endswith(">") else "", sum(share > limit for limit in (0.1, 0.33)), score < 0
        lines[kind].append([x0, x1, None, y0, y1, None])
        middles.append(((x0 + x1) / 2, (y0 + y1) / 2, f"{edge.replace('<', '‹').replace('>', '›')} {score:+.3f}"))
    figure = go.Figure(layout_height=64 * (circuit.graph.n_layers + 1))
    for letter, colour in zip(_READ, SERIES, strict=True):
        for kind in sorted(kind for kind in lines if kind[0] == letter):
            figure.add_trace(_lines(lines[kind], colour, kind, named=kind == max(x for x in lines if x[0] == letter)))
    x, y, texts = zip(*middles, strict=True)
    figure.add_trace(go.Scatter(x=x, y=y, text=texts, mode="markers", opacity=0, showlegend=False))
    figure.data[-1].hovertemplate = "%{text}<extra></extra>"
    figure.add_trace(_nodes(circuit))
    hidden = {"showgrid": False, "zeroline": False, "ticks": ""}
    layers = list(range(circuit.graph.n_layers))
    figure.update_xaxes(showticklabels=False, range=[-1, circuit.graph.n_heads + 2], **hidden)
    figure.update_yaxes(tickvals=layers, title_text="layer", range=[-1.4, len(layers) + 0.4], **hidden)
    rows = sorted(scored, key=lambda row: -abs(row[1]))
    figure.update_layout(meta={"edges": [[edge, f"{score:+.3f}"] for edge, score in rows]})
    return _CircuitFigure(styled(figure, top=44, bottom=10))


def _place(circuit: Circuit, node: str) -> tuple[float, float]:
    """Where a node is drawn: heads side by side; MLPs above and beside them, apart from each other."""
    heads = circuit.graph.n_heads
    if node in ("input", "logits"):
        return heads / 2, -1.0 if node == "input" else float(circuit.graph.n_layers)
    layer = int(node[1:].partition(".")[0])
    return (
        (float(node.partition("h")[2]), float(layer))
        if node[0] == "a"
        else (heads + 0.3 + 0.6 * (layer % 3), layer + 0.4)
    )


def _lines(parts: list[list[float | None]], colour: str, kind: tuple[str, int, bool], named: bool) -> go.Scatter:
    letter, width, negative = kind
    x, y = ([value for part in parts for value in part[side : side + 3]] for side in (0, 3))
    line = go.Scatter(x=x, y=y, mode="lines", name=_READ[letter], legendgroup=letter, showlegend=named, opacity=0.75)
    line.line = {"color": colour, "width": _WIDTHS[width], "dash": "dot" if negative else "solid"}
    return line.update(hoverinfo="skip")


def _nodes(circuit: Circuit) -> go.Scatter:
    names = [*circuit.nodes, "logits"]
    x, y = zip(*(_place(circuit, name) for name in names), strict=True)
    nodes = go.Scatter(x=x, y=y, text=names, mode="markers+text", textposition="bottom center", showlegend=False)
    nodes.marker = {"size": 11, "color": TEXT, "symbol": ["square" if name[0] == "m" else "circle" for name in names]}
    return nodes.update(hovertemplate="%{text}<extra></extra>", textfont={"size": 12})
