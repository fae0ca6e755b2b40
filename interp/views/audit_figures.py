"""Figures of audits: differences and rates with their intervals, and a heat map of edits by behaviours."""

from collections.abc import Mapping, Sequence
from textwrap import wrap

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from interp.auditing.audit_row import AuditRow
from interp.auditing.auditor import Audit
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.statistics.comparison import Estimate
from interp.core.display import escaped
from interp.core.errors import InterpError
from interp.views.figures import COLOUR_BAR, cell_texts, panels, short, styled
from interp.views.palette import AFTER, BEFORE, CHANGE, SERIES

_UNITS = {
    "rate": "<b>Shares of items</b>",
    "margin": "<b>Margins</b>, nats",
    "nats": "<b>Losses</b>, nats per token",
}
_KINDS = {
    "harm": "<b>Harm</b>: should fall",
    "protected": "<b>Protected</b>: must hold",
    "capability": "<b>Capability</b>: must hold",
}
_STYLES = {
    "the edit": (SERIES[0], "circle"),
    "random": (SERIES[1], "diamond-open"),
    "prompt": (SERIES[2], "square-open"),
    "before": (BEFORE, "circle-open"),
    "after": (AFTER, "circle"),
}


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
    groups = {title: [row for row in audit.rows if row.unit == unit] for unit, title in _UNITS.items()}
    baselines = {b.name: b.changes for b in audit.baselines if b.changes}
    series = {"the edit": {row.name: row.difference for row in audit.rows}} | baselines
    figure = _interval_panels(groups, series, "after - before", height=46 + 14 * len(baselines), gap=66)
    figure.add_vline(x=0, line={"dash": "dot", "color": BEFORE}, row="all", col=1)
    return styled(figure, top=70, bottom=54)


def plot_rates(audit: Audit) -> go.Figure:
    """Rates before and after the edit with their 95 % intervals, grouped by kind of behaviour.

    Args:
        audit: An audit of an edit. Its losses and margins, in nats, are left out; `plot_forest` shows them.

    Returns:
        The figure, with one panel per kind: harm, protected, capability.

    Raises:
        InterpError: The audit measures no rate.

    Example:
        >>> from interp.views import plot_rates
        >>> recipe = interp.Recipe([("writers", interp.Project(torch.ones(model.d_model)))])
        >>> audit = interp.audit(model, recipe, interp.suite("organism", items=2)[:1], baselines=())
        >>> [dots.name for dots in plot_rates(audit).data]
        ['before', 'after']
    """
    rates = [row for row in audit.rows if row.unit == "rate"]
    if not rates:
        raise InterpError("the audit measures no rate, only losses; use plot_forest, which draws these")
    groups = {title: [row for row in rates if row.kind == kind] for kind, title in _KINDS.items()}
    series = {"before": {row.name: row.before for row in rates}, "after": {row.name: row.after for row in rates}}
    figure = _interval_panels(groups, series, "share of items", height=58, gap=46, shared_xaxes=True)
    return styled(figure.update_xaxes(range=[-0.02, 1.02]), top=64, bottom=54)


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
    # Shortened names may coincide, so cells are placed by number, and names serve as tick labels only.
    labels, names = ["<br>".join(_lines(edit)) for edit in edits], [short(name) for name in behaviours]
    hover = [
        [
            f"{name}, {short(edit)}<br>{cell.difference}, {cell.unit}, p {cell.p_holm:.2g}"
            for edit, cell in zip(edits, row, strict=True)
        ]
        for name, row in zip(names, cells, strict=True)
    ]
    figure = go.Figure(layout_height=34 * len(names))
    z = [[cell.shade for cell in row] for row in cells]
    heat = go.Heatmap(z=z, customdata=hover, colorscale=CHANGE, zmin=-1, zmax=1, xgap=2, ygap=2)
    heat.text = [[str(cell) for cell in row] for row in cells]
    heat.hovertemplate = "%{customdata}<extra></extra>"
    heat.colorbar = COLOUR_BAR | {"tickvals": [-1, 0, 1], "ticktext": ["worse", "as before", "better"]}
    columns, rows, flat = zip(*[(x, y, cell) for y, row in enumerate(cells) for x, cell in enumerate(row)], strict=True)
    colours = sample_colorscale(CHANGE, [(cell.shade + 1) / 2 for cell in flat])
    figure.add_traces([heat, cell_texts(columns, rows, list(map(str, flat)), colours)])
    bare = {"showgrid": False, "zeroline": False}
    figure.update_xaxes(tickvals=list(range(len(edits))), ticktext=labels, side="top", tickangle=0, **bare)
    figure.update_yaxes(tickvals=list(range(len(names))), ticktext=names, autorange="reversed", **bare)
    figure.update_layout(meta={"least_width": 150 + 92 * len(edits)})
    return styled(figure, top=24 + 17 * max(label.count("<br>") + 1 for label in labels), bottom=60)


def _lines(name: str) -> list[str]:
    """A name broken into lines that fit a column, escaped; a long name keeps its first and last line."""
    lines = wrap(name.replace("_", "_ "), 13) or [name]
    lines = [line.replace("_ ", "_") for line in lines]
    return [escaped(line) for line in ([lines[0], "…", lines[-1]] if len(lines) > 3 else lines)]


def _interval_panels(
    groups: Mapping[str, Sequence[AuditRow]],
    series: Mapping[str, Mapping[str, Estimate]],
    x_title: str,
    height: int,
    gap: int,
    shared_xaxes: bool = False,
) -> go.Figure:
    """A panel for each group of rows: below the name of a row, its estimate in each series, with its interval."""
    groups = {title: rows for title, rows in groups.items() if rows}
    heights = [height * len(rows) for rows in groups.values()]
    figure = panels(list(groups), heights, gap, shared_xaxes)
    for number, rows in enumerate(groups.values(), 1):
        for order, (name, estimates) in enumerate(series.items()):
            dots = _dots([row.name for row in rows], estimates, 0.05 + 0.2 * order)
            colour, symbol = _STYLES[name]
            dots.update(name=name, legendgroup=name, showlegend=number == 1, marker_symbol=symbol)
            dots.marker.color = dots.marker.line.color = dots.error_x.color = colour
            figure.add_trace(dots, row=number, col=1)
        for place, row in enumerate(rows):
            label = {"text": short(row.name), "x": 0, "xref": "x domain", "y": place - 0.33, "xanchor": "left"}
            figure.add_annotation(label, showarrow=False, row=number, col=1)
        figure.update_yaxes(range=[len(rows) - 0.5, -0.6], visible=False, row=number, col=1)
    figure.update_xaxes(zeroline=False)
    return figure.update_xaxes(title_text=x_title, row=len(groups), col=1)


def _dots(names: Sequence[str], estimates: Mapping[str, Estimate], shift: float) -> go.Scatter:
    drawn = [estimates[name] for name in names]
    heights = [number + shift for number in range(len(names))]
    dots = go.Scatter(x=[e.estimate for e in drawn], y=heights, mode="markers", marker={"size": 9, "line_width": 2})
    dots.error_x = {"type": "data", "symmetric": False, "thickness": 2, "width": 3}
    dots.error_x.array = [e.high - e.estimate for e in drawn]
    dots.error_x.arrayminus = [e.estimate - e.low for e in drawn]
    dots.customdata = [[escaped(name), str(e), e.n] for name, e in zip(names, drawn, strict=True)]
    lines = ("%{customdata[0]}, %{fullData.name}", "%{customdata[1]}", "%{customdata[2]} items")
    dots.hovertemplate = "<br>".join(lines) + "<extra></extra>"
    return dots
