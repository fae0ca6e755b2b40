"""Figures of findings, of a latent and of rates: one plotly figure from one record.

Backgrounds are transparent and fonts are inherited, so that a figure matches the page around it. Names come from data
and are escaped, because plotly interprets a few HTML tags in labels and hover texts.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from interp.auditing.auditor import Audit, AuditRow
from interp.core.errors import InterpError
from interp.directions.findings import Finding, Findings
from interp.models.sites import Site
from interp.sae.feature import Feature
from interp.views.palette import AFTER, BEFORE, CHOSEN, GRID, SCALE, SERIES, TEXT, ink_on

_KINDS = {
    "harm": "<b>Harm</b>: should fall",
    "protected": "<b>Protected</b>: must hold",
    "capability": "<b>Capability</b>: must hold",
}
_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_NUMBERED = 12  # most columns for which a cell has room for its number on a phone
_CLEAR = "rgba(0,0,0,0)"
_Table = list[list[float | None]]


def plot_heat_map(findings: Findings, chosen: Finding | None = None) -> go.Figure:
    """A heat map of held-out AUROC by layer and method, baselines last.

    With several positions or kinds of site, each method has a panel of its own, with a row for each of them.

    Args:
        findings: The record of `find`.
        chosen: The finding whose cell is outlined; by default the best.

    Returns:
        The figure. Cells show their value where there are at most 12 layers.

    Raises:
        InterpError: There are no findings.

    Example:
        >>> from interp.views import plot_heat_map
        >>> findings = interp.find(model, contrast, "resid_post.*", "diff_means", bootstrap=0)
        >>> plot_heat_map(findings).data[0].type
        'heatmap'
    """
    grid = _Grid.of(findings)
    chosen = chosen or findings.best()[0]
    tables = _by_method(findings, grid)
    floor = min(0.5, *(f.auroc for f in findings))
    numbered = len(grid.layers) <= _NUMBERED
    shown, (column, row, outlined) = _panels(grid, tables, chosen)
    figure = panels([panel.title for panel in shown], [34 * len(panel.rows) for panel in shown], gap=34)
    for number, panel in enumerate(shown, 1):
        cells = go.Heatmap(z=panel.z, x=grid.layers, y=panel.rows, name=panel.title, coloraxis="coloraxis")
        cells.update(xgap=int(numbered), ygap=1, hoverongaps=False)
        cells.update(hovertemplate="%{fullData.name}<br>layer %{x}, %{y}<br>AUROC %{z:.3f}<extra></extra>")
        figure.add_trace(cells, row=number, col=1)
        if numbered:
            figure.add_trace(_numbers(grid.layers, panel, floor), row=number, col=1)
    _outline(figure, column, row, outlined)
    figure.update_xaxes(type="category", showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="layer", row=len(shown), col=1)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, zeroline=False)
    return styled(_scaled(figure, floor), top=34, bottom=112)


def plot_layer_curve(findings: Findings) -> go.Figure:
    """The best held-out AUROC at each layer, over positions and kinds of site, as one line per method.

    Args:
        findings: The record of `find`.

    Returns:
        The figure; a dotted line marks chance, 0.5.

    Raises:
        InterpError: There are no findings.

    Example:
        >>> from interp.views import plot_layer_curve
        >>> findings = interp.find(model, contrast, "resid_post.*", "diff_means", bootstrap=0)
        >>> [line.name for line in plot_layer_curve(findings).data]
        ['diff_means']
    """
    layers = _Grid.of(findings).layers
    figure = go.Figure(layout_height=230)
    for number, (method, curve) in enumerate(_best_by_layer(findings).items()):
        x = [layer for layer in layers if layer in curve]
        line = go.Scatter(x=x, y=[curve[layer] for layer in x], name=escape(method), mode="lines+markers")
        cycle, style = divmod(number, len(SERIES))
        line.marker = {"symbol": _SYMBOLS[style], "size": 8}
        line.line = {"color": SERIES[style], "dash": "dash" if cycle else "solid"}
        line.hovertemplate = "%{fullData.name}<br>layer %{x}<br>AUROC %{y:.3f}<extra></extra>"
        figure.add_trace(line)
    figure.add_hline(y=0.5, line={"dash": "dot", "color": BEFORE}, annotation_text="chance")
    figure.update_annotations(x=0, xanchor="left", yanchor="bottom")
    lowest = min(0.45, *(f.auroc for f in findings))
    figure.update_xaxes(title_text="layer", type="category", categoryarray=layers)
    figure.update_yaxes(title_text="held-out AUROC", range=[lowest - 0.03, 1.03])
    return styled(figure, top=40, bottom=50)


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
    groups = {kind: [row for row in rates if row.kind == kind] for kind in _KINDS}
    groups = {kind: rows for kind, rows in groups.items() if rows}
    if not groups:
        raise InterpError("the audit measures no rate, only losses; use plot_forest, which draws these")
    titles = [_KINDS[kind] for kind in groups]
    figure = panels(titles, [58 * len(rows) for rows in groups.values()], gap=46)
    for number, rows in enumerate(groups.values(), 1):
        for side, colour, symbol in (("before", BEFORE, "circle-open"), ("after", AFTER, "circle")):
            dots = _dots(rows, side).update(marker_symbol=symbol, showlegend=number == 1)
            dots.marker.color = dots.marker.line.color = dots.error_x.color = colour
            figure.add_trace(dots, row=number, col=1)
        for height, row in enumerate(rows):
            label = {"text": short(row.name), "x": 0, "y": height - 0.3, "xanchor": "left"}
            figure.add_annotation(label, showarrow=False, row=number, col=1)
        figure.update_yaxes(range=[len(rows) - 0.5, -0.5], visible=False, row=number, col=1)
    figure.update_xaxes(range=[-0.02, 1.02], zeroline=False)
    figure.update_xaxes(title_text="share of items", row=len(groups), col=1)
    return styled(figure, top=64, bottom=54)


def plot_activation_histogram(feature: Feature) -> go.Figure:
    """A histogram of a latent's activations over the tokens on which it fires.

    Args:
        feature: The latent's page, as `interp.sae.feature_page` returns it.

    Returns:
        The figure. The axis of token counts is logarithmic.

    Example:
        >>> from interp.sae.feature import Feature
        >>> from interp.views import plot_activation_histogram
        >>> counts, edges = (9, 3), (0.0, 1.0, 2.0)
        >>> feature = Feature(7, model.resolve("resid_post.1")[0], 0.1, counts, edges, (), (), (), ())
        >>> plot_activation_histogram(feature).data[0].y
        (9, 3)
    """
    bins = list(pairwise(feature.edges))
    bars = go.Bar(x=[(low + high) / 2 for low, high in bins], y=feature.counts, marker_color=SERIES[0])
    bars.update(width=[high - low for low, high in bins], marker_line_width=0)
    figure = go.Figure(bars, layout_height=180)
    figure.update_traces(hovertemplate="activation %{x:.3g}: %{y} tokens<extra></extra>")
    figure.update_xaxes(title_text="activation")
    figure.update_yaxes(title_text="tokens", type="log", dtick=1)
    return styled(figure, top=10, bottom=50)


@dataclass(frozen=True)
class _Grid:
    """Columns (layers) and rows (positions, one kind of site after another) of the findings."""

    layers: list[str]
    rows: list[tuple[str, int]]

    @classmethod
    def of(cls, findings: Findings) -> "_Grid":
        if not len(findings):
            raise InterpError("no findings to draw; expected at least one method at one site")
        sites = {f.direction.site for f in findings}
        ordered = sorted(sites, key=lambda site: -1 if site.layer is None else site.layer)
        rows = sorted({(f.direction.site.kind, f.direction.position) for f in findings})
        return cls(list(dict.fromkeys(map(_layer, ordered))), rows)

    @property
    def row_names(self) -> list[str]:
        """Names of the rows."""
        several = len({kind for kind, _ in self.rows}) > 1
        return [f"{kind} {pos}" if several else f"position {pos}" for kind, pos in self.rows]

    def cell(self, site: Site, position: int) -> tuple[int, int]:
        """Column and row of a site and position."""
        return self.layers.index(_layer(site)), self.rows.index((site.kind, position))

    def filled(self, scored: Iterable[tuple[Site, int, float]]) -> _Table:
        """The best AUROC in each cell, rows first; None where there is none."""
        table: _Table = [[None] * len(self.layers) for _ in self.rows]
        for site, position, score in scored:
            if (site.kind, position) in self.rows and _layer(site) in self.layers:
                column, row = self.cell(site, position)
                table[row][column] = max(score, table[row][column] or 0.0)
        return table


@dataclass(frozen=True)
class _Panel:
    """A heat map: its title, the names of its rows, and its values."""

    title: str
    rows: list[str]
    z: _Table


def _by_method(findings: Findings, grid: _Grid) -> dict[str, _Table]:
    """The grid of each method, and then of each baseline."""
    scored = [(f.direction.method, (f.direction.site, f.direction.position, f.auroc)) for f in findings]
    scored += [(f"{b.name} (baseline)", (b.site, b.position, b.auroc)) for b in findings.baselines]
    return {
        name: grid.filled(cell for method, cell in scored if method == name)
        for name in dict.fromkeys(method for method, _ in scored)
    }


def _panels(grid: _Grid, tables: dict[str, _Table], chosen: Finding) -> tuple[list[_Panel], tuple[int, int, int]]:
    """The panels, and the column, row and panel of the chosen finding."""
    number = list(tables).index(chosen.direction.method)
    column, row = grid.cell(chosen.direction.site, chosen.direction.position)
    if len(grid.rows) > 1:
        return [_Panel(short(name), grid.row_names, z) for name, z in tables.items()], (column, row, number + 1)
    kind, position = grid.rows[0]
    title = f"{kind}, position {position}"
    return [_Panel(title, [short(name) for name in tables], [z[0] for z in tables.values()])], (column, number, 1)


def short(name: str) -> str:
    """A name for a label, escaped, and shortened to fit the width of a phone."""
    return escape(name if len(name) <= 40 else name[:39] + "…")


def _layer(site: Site) -> str:
    return "input" if site.layer is None else str(site.layer)


def _best_by_layer(findings: Findings) -> dict[str, dict[str, float]]:
    curves: dict[str, dict[str, float]] = {}
    for f in findings:
        layer, curve = _layer(f.direction.site), curves.setdefault(f.direction.method, {})
        curve[layer] = max(f.auroc, curve.get(layer, 0.0))
    return curves


def _numbers(columns: list[str], panel: _Panel, floor: float) -> go.Scatter:
    """The value of each cell, in black or white, whichever is legible on its colour."""
    filled = [
        (layer, name, value)
        for name, row in zip(panel.rows, panel.z, strict=True)
        for layer, value in zip(columns, row, strict=True)
        if value is not None
    ]
    layers, names, values = zip(*filled, strict=True)
    texts = go.Scatter(x=layers, y=names, text=[f"{v:.2f}" for v in values], mode="text")
    colours = sample_colorscale(SCALE, [(v - floor) / (1 - floor) for v in values])
    font = {"size": 11, "color": [ink_on(colour) for colour in colours]}
    return texts.update(textfont=font, hoverinfo="skip", showlegend=False)


def _outline(figure: go.Figure, column: int, row: int, panel: int) -> None:
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    figure.add_shape(type="rect", **corners, line={"color": CHOSEN, "width": 4}, row=panel, col=1)


def _dots(rows: list[AuditRow], side: str) -> go.Scatter:
    """Estimates and intervals before or after the edit; those after lie lower in their row."""
    estimates = [row.before if side == "before" else row.after for row in rows]
    heights = [number + (0.25 if side == "after" else 0) for number in range(len(rows))]
    dots = go.Scatter(x=[e.estimate for e in estimates], y=heights, name=side, mode="markers")
    dots.update(legendgroup=side, marker={"size": 10, "line_width": 2})
    dots.error_x = {"type": "data", "symmetric": False, "thickness": 2, "width": 4}
    dots.error_x.array = [e.high - e.estimate for e in estimates]
    dots.error_x.arrayminus = [e.estimate - e.low for e in estimates]
    dots.customdata = [[escape(row.name), e.low, e.high, e.n] for row, e in zip(rows, estimates, strict=True)]
    interval = "%{x:.3f} [%{customdata[1]:.3f}, %{customdata[2]:.3f}]<br>%{customdata[3]} items"
    dots.hovertemplate = f"%{{customdata[0]}}, {side}<br>{interval}<extra></extra>"
    return dots


def panels(titles: list[str], heights: list[int], gap: int) -> go.Figure:
    """Empty panels, one below the other: `heights` and `gap` in pixels, titles on the left."""
    total = sum(heights) + gap * (len(heights) - 1)
    spacing = {"vertical_spacing": gap / total, "row_heights": heights}
    figure = make_subplots(rows=len(titles), shared_xaxes=True, subplot_titles=titles, **spacing)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    return figure.update_layout(height=total)


def _scaled(figure: go.Figure, floor: float) -> go.Figure:
    """The figure with a colour scale of AUROC, from `floor` to 1, and its bar below the panels."""
    title = {"text": "held-out AUROC (0.5 is chance)", "side": "bottom", "font_size": 13}
    bar = {"orientation": "h", "thickness": 10, "len": 0.8, "outlinewidth": 0, "title": title}
    bar |= {"x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom"}
    return figure.update_layout(coloraxis={"colorscale": SCALE, "cmin": floor, "cmax": 1, "colorbar": bar})


def styled(figure: go.Figure, top: int, bottom: int) -> go.Figure:
    """The figure in the style that all share; the margins, in pixels, are added to its height."""
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    figure.update_layout(template="none", paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR, legend=legend)
    figure.update_layout(height=figure.layout.height + top + bottom, dragmode=False)
    figure.update_layout(margin={"l": 8, "r": 12, "t": top, "b": bottom})
    font = {"family": "inherit", "size": 13, "color": TEXT}
    figure.update_layout(font=font, hoverlabel_font_family="inherit")
    axes = {"fixedrange": True, "automargin": True, "title": {"font_size": 13}, "gridcolor": GRID}
    axes |= {"linecolor": GRID, "tickcolor": GRID}
    return figure.update_xaxes(**axes).update_yaxes(**axes)
