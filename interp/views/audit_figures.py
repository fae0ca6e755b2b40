"""Figures of audits: a forest plot of differences with their intervals, and a heat map of edits by behaviours."""

from html import escape
from textwrap import wrap

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from interp.auditing.auditor import Audit
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.statistics.comparison import Estimate
from interp.views.figures import short, styled
from interp.views.palette import BEFORE, CHANGE, SERIES, ink_on

_UNITS = {
    "rate": "<b>Shares of items</b>",
    "margin": "<b>Margins</b>, nats",
    "nats": "<b>Losses</b>, nats per token",
}
_BASELINE_STYLES = {"random": (SERIES[1], "diamond-open"), "prompt": (SERIES[2], "square-open")}


def plot_forest(audit: Audit) -> go.Figure:
    """A forest plot: after minus before with 95 % intervals, for the edit and its baselines.

    Args:
        audit: An audit of an edit.

    Returns:
        The figure, with one panel per unit: shares of items, margins in nats, losses in nats per token.

    Example:
        >>> from interp.views import plot_forest
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> audit = interp.audit(model, recipe, interp.suite("organism", items=2)[:1], baselines=())
        >>> [dots.name for dots in plot_forest(audit).data]
        ['the edit']
    """
    groups = {unit: [row for row in audit.rows if row.unit == unit] for unit in _UNITS}
    groups = {unit: rows for unit, rows in groups.items() if rows}
    heights = [(46 + 14 * len(audit.baselines)) * len(rows) for rows in groups.values()]
    total = sum(heights) + 66 * (len(heights) - 1)
    titles = [_UNITS[unit] for unit in groups]
    spacing = {"vertical_spacing": 66 / total if len(heights) > 1 else 0, "row_heights": heights}
    figure = make_subplots(rows=len(groups), subplot_titles=titles, **spacing)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    figure.update_layout(height=total)
    for number, rows in enumerate(groups.values(), 1):
        names = [row.name for row in rows]
        series = [("the edit", [row.difference for row in rows], SERIES[0], "circle")]
        series += [
            (b.name, [b.changes[n] for n in names], *_BASELINE_STYLES[b.name]) for b in audit.baselines if b.changes
        ]
        for order, (name, differences, colour, symbol) in enumerate(series):
            dots = _dots(names, differences, 0.05 + 0.19 * order)
            dots.update(name=name, legendgroup=name, showlegend=number == 1, marker_symbol=symbol)
            dots.marker.color = dots.error_x.color = colour
            figure.add_trace(dots, row=number, col=1)
        for height, name in enumerate(names):
            label = {"text": short(name), "x": 0, "xref": "x domain", "y": height - 0.33, "xanchor": "left"}
            figure.add_annotation(label, showarrow=False, row=number, col=1)
        figure.update_yaxes(range=[len(names) - 0.5, -0.6], visible=False, row=number, col=1)
        figure.add_vline(x=0, line={"dash": "dot", "color": BEFORE}, row=number, col=1)
    figure.update_xaxes(zeroline=False)
    figure.update_xaxes(title_text="after - before", row=len(groups), col=1)
    return styled(figure, top=70, bottom=54)


def plot_entanglement(entanglement: Entanglement) -> go.Figure:
    """A heat map of effects: one row per behaviour, one column per edit or baseline; blue is better.

    Args:
        entanglement: The effects, as `interp.entanglement` returns them.

    Returns:
        The figure. The full colour is a rate moved by 0.5, a margin by 1 nat, or a loss by 0.25 nats.

    Example:
        >>> from interp.views import plot_entanglement
        >>> recipes = {"ones": interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])}
        >>> effects, _ = interp.entanglement(model, recipes, interp.suite("organism", items=2)[:1], baselines=())
        >>> plot_entanglement(effects).data[0].type
        'heatmap'
    """
    edits, behaviours = list(entanglement.columns), entanglement.behaviours
    cells = [[entanglement.columns[edit][name] for edit in edits] for name in behaviours]
    z = [[cell.shade for cell in row] for row in cells]
    # Shortened names may coincide, so cells are placed by number, and names serve as tick labels only.
    labels, names = ["<br>".join(_lines(edit)) for edit in edits], [short(name) for name in behaviours]
    hover = [
        [f"{name}, {short(edit)}<br>{cell.difference}, {cell.unit}, p {cell.p_holm:.2g}" for edit, cell in pairs]
        for name, pairs in ((name, zip(edits, row, strict=True)) for name, row in zip(names, cells, strict=True))
    ]
    figure = go.Figure(layout_height=34 * len(names))
    heat = go.Heatmap(z=z, customdata=hover, colorscale=CHANGE, zmin=-1, zmax=1, xgap=2, ygap=2)
    heat.hovertemplate = "%{customdata}<extra></extra>"
    bar = {"orientation": "h", "thickness": 10, "len": 0.8, "outlinewidth": 0, "x": 0, "xanchor": "left"}
    bar |= {"y": 0, "yref": "container", "yanchor": "bottom"}
    heat.colorbar = bar | {"tickvals": [-1, 0, 1], "ticktext": ["worse", "as before", "better"]}
    figure.add_trace(heat)
    flat = [(x, y, cell) for y, row in enumerate(cells) for x, cell in enumerate(row)]
    colours = sample_colorscale(CHANGE, [(cell.shade + 1) / 2 for _, _, cell in flat])
    texts = go.Scatter(x=[x for x, _, _ in flat], y=[y for _, y, _ in flat], text=[str(c) for _, _, c in flat])
    texts.update(mode="text", hoverinfo="skip", showlegend=False)
    texts.textfont = {"size": 12, "color": [ink_on(colour) for colour in colours]}
    figure.add_trace(texts)
    bare = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(tickvals=list(range(len(edits))), ticktext=labels, side="top", tickangle=0, **bare)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", **bare)
    figure.update_layout(meta={"least_width": 150 + 92 * len(edits)})
    return styled(figure, top=24 + 17 * max(label.count("<br>") + 1 for label in labels), bottom=60)


def _lines(name: str) -> list[str]:
    """A name broken into lines that fit a column, escaped; a long name keeps its first and last line."""
    lines = wrap(name.replace("_", "_ "), 13) or [name]
    lines = [line.replace("_ ", "_") for line in lines]
    return [escape(line) for line in ([lines[0], "…", lines[-1]] if len(lines) > 3 else lines)]


def _dots(names: list[str], differences: list[Estimate], shift: float) -> go.Scatter:
    heights = [number + shift for number in range(len(names))]
    dots = go.Scatter(x=[d.estimate for d in differences], y=heights, mode="markers", marker={"size": 9})
    dots.error_x = {"type": "data", "symmetric": False, "thickness": 2, "width": 3}
    dots.error_x.array = [d.high - d.estimate for d in differences]
    dots.error_x.arrayminus = [d.estimate - d.low for d in differences]
    dots.customdata = [[escape(name), d.low, d.high, d.n] for name, d in zip(names, differences, strict=True)]
    interval = "%{x:+.3f} [%{customdata[1]:+.3f}, %{customdata[2]:+.3f}], %{customdata[3]} items"
    dots.hovertemplate = f"%{{customdata[0]}}, %{{fullData.name}}<br>{interval}<extra></extra>"
    return dots
