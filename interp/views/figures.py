"""Figures of findings and of a latent: one plotly figure from one record.

Backgrounds are transparent and fonts are inherited, so that a figure matches the page around it. Names come from data
and are escaped, because plotly interprets a few HTML tags in labels and hover texts.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.subplots import make_subplots

from interp.core.display import clipped, escaped
from interp.core.errors import InterpError
from interp.directions.findings import Finding, Findings
from interp.models.sites import Site
from interp.sae.feature import Feature
from interp.views.notebook_figure import NotebookFigure
from interp.views.palette import BEFORE, CHOSEN, GRID, SCALE, SERIES, TEXT, ink_on

_SYMBOLS = ("circle", "square", "diamond", "triangle-up")
_NUMBERED = 12  # most columns for which a cell has room for its number on a phone
_LETTERS = 8  # of a token for which a cell or an axis has room
_CLEAR = "rgba(0,0,0,0)"
# A colour bar below the panels.
COLOUR_BAR = {
    "orientation": "h", "thickness": 10, "len": 0.8, "outlinewidth": 0,
    "x": 0, "xanchor": "left", "y": 0, "yref": "container", "yanchor": "bottom",
}  # fmt: skip
_Row = tuple[str, int]  # a kind of site, and a position
_Panel = dict[str, list[float | None]]  # the values of each row of a heat map, one per layer


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
    layers, cells = _layers(findings), _best_cells(findings)
    chosen = chosen or findings.best()[0]
    floor = min(0.5, *(f.auroc for f in findings))
    numbered = len(layers) <= _NUMBERED
    shown, (outlined, row) = _panels(findings, cells, layers, chosen)
    figure = panels(list(shown), [34 * len(panel) for panel in shown.values()], gap=34)
    for number, (title, panel) in enumerate(shown.items(), 1):
        heat = go.Heatmap(z=list(panel.values()), x=layers, y=list(panel), name=title, coloraxis="coloraxis")
        heat.update(xgap=int(numbered), ygap=1, hoverongaps=False)
        heat.update(hovertemplate="%{fullData.name}<br>layer %{x}, %{y}<br>AUROC %{z:.3f}<extra></extra>")
        figure.add_trace(heat, row=number, col=1)
        if numbered:
            figure.add_trace(_numbers(layers, panel, floor), row=number, col=1)
    column = layers.index(_layer(chosen.direction.site))
    corners = {"x0": column - 0.5, "x1": column + 0.5, "y0": row - 0.5, "y1": row + 0.5}
    figure.add_shape(type="rect", **corners, line={"color": CHOSEN, "width": 4}, row=outlined, col=1)
    figure.update_xaxes(type="category", showgrid=False, zeroline=False)
    figure.update_xaxes(title_text="layer", row=len(shown), col=1)
    figure.update_yaxes(type="category", autorange="reversed", showgrid=False, zeroline=False)
    heading = {"text": "held-out AUROC (0.5 is chance)", "side": "bottom", "font_size": 13}
    scale = {"colorscale": SCALE, "cmin": floor, "cmax": 1, "colorbar": COLOUR_BAR | {"title": heading}}
    return styled(figure.update_layout(coloraxis=scale), top=34, bottom=112)


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
    layers = _layers(findings)
    curves: dict[str, dict[str, float]] = {}
    for (method, _, layer), auroc in _best_cells(replace(findings, baselines=())).items():
        curve = curves.setdefault(method, {})
        curve[layer] = max(auroc, curve.get(layer, 0.0))
    figure = go.Figure(layout_height=230)
    for number, (method, curve) in enumerate(curves.items()):
        x = [layer for layer in layers if layer in curve]
        line = go.Scatter(x=x, y=[curve[layer] for layer in x], name=escaped(method), mode="lines+markers")
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


def _layers(findings: Findings) -> list[str]:
    """The columns of a figure. Raises if there are no findings."""
    if not len(findings):
        raise InterpError("no findings to draw; expected at least one method at one site")
    sites = {f.direction.site for f in findings}
    ordered = sorted(sites, key=lambda site: -1 if site.layer is None else site.layer)
    return list(dict.fromkeys(map(_layer, ordered)))


def _layer(site: Site) -> str:
    return "input" if site.layer is None else str(site.layer)


def _best_cells(findings: Findings) -> dict[tuple[str, _Row, str], float]:
    """The best AUROC by method (the baselines last), row and layer."""
    scored = [(f.direction.method, f.direction.site, f.direction.position, f.auroc) for f in findings]
    scored += [(f"{b.name} (baseline)", b.site, b.position, b.auroc) for b in findings.baselines]
    cells: dict[tuple[str, _Row, str], float] = {}
    for method, site, position, auroc in scored:
        cell = method, (site.kind, position), _layer(site)
        cells[cell] = max(auroc, cells.get(cell, 0.0))
    return cells


def _panels(
    findings: Findings, cells: dict[tuple[str, _Row, str], float], layers: list[str], chosen: Finding
) -> tuple[dict[str, _Panel], tuple[int, int]]:
    """The panels by title, and the panel (from 1) and row of the chosen finding."""
    methods = list(dict.fromkeys(method for method, _, _ in cells))
    rows = sorted({(f.direction.site.kind, f.direction.position) for f in findings})
    values = {(m, row): [cells.get((m, row, layer)) for layer in layers] for m in methods for row in rows}
    method = methods.index(chosen.direction.method)
    if len(rows) == 1:
        panel = {short(m): values[m, rows[0]] for m in methods}
        return {f"{rows[0][0]}, position {rows[0][1]}": panel}, (1, method)
    one_kind = len({kind for kind, _ in rows}) == 1
    names = {row: f"position {row[1]}" if one_kind else f"{row[0]} {row[1]}" for row in rows}
    row = rows.index((chosen.direction.site.kind, chosen.direction.position))
    return {short(m): {names[row]: values[m, row] for row in rows} for m in methods}, (method + 1, row)


def short(name: str) -> str:
    """A name for a label, escaped, and shortened to fit the width of a phone."""
    return escaped(name if len(name) <= 40 else name[:39] + "…")


def _numbers(columns: list[str], panel: _Panel, floor: float) -> go.Scatter:
    """The value of each cell, in black or white, whichever is legible on its colour."""
    filled = [
        (layer, name, value)
        for name, row in panel.items()
        for layer, value in zip(columns, row, strict=True)
        if value is not None
    ]
    layers, names, values = zip(*filled, strict=True)
    colours = sample_colorscale(SCALE, [(v - floor) / (1 - floor) for v in values])
    return cell_texts(layers, names, [f"{v:.2f}" for v in values], colours)


def cell_texts(x: Sequence[Any], y: Sequence[Any], texts: list[str], colours: list[str]) -> go.Scatter:
    """Texts on the cells of a heat map, legible on the colours of the cells."""
    font = {"size": 11, "color": [ink_on(colour) for colour in colours]}
    return go.Scatter(x=x, y=y, text=texts, mode="text", textfont=font, hoverinfo="skip", showlegend=False)


def panels(titles: list[str], heights: list[int], gap: int, shared_xaxes: bool = True) -> go.Figure:
    """Empty panels, one below the other: `heights` and `gap` in pixels, titles on the left."""
    total = sum(heights) + gap * (len(heights) - 1)
    spacing = {"vertical_spacing": gap / total if len(titles) > 1 else 0, "row_heights": heights}
    figure = make_subplots(rows=len(titles), shared_xaxes=shared_xaxes, subplot_titles=titles, **spacing)
    figure.update_annotations(x=0, xanchor="left", font_size=14)
    return figure.update_layout(height=total, meta={"panels": titles})


def token_label(token: str) -> str:
    """A token in the room of a cell: without the spaces around it, or quoted where nothing else can be seen of it."""
    word = token.strip()
    return plotted(word if word.isprintable() and word else repr(token), _LETTERS)


def plotted(text: str, letters: int = 60) -> str:
    """A text for plotly, which does not know the entity of quotation marks."""
    return escaped(clipped(text, letters)).replace("&quot;", "&#34;")


def over_tokens(figure: go.Figure, tokens: Sequence[str], rows: Sequence[str], cell: int) -> NotebookFigure:
    """A heat map with a column for each token of a prompt, at least `cell` pixels wide, in the style that all share."""
    bare = {"showgrid": False, "zeroline": False, "ticks": ""}
    columns = {"tickvals": list(range(len(tokens))), "ticktext": list(map(token_label, tokens)), "tickangle": -45}
    figure.update_xaxes(**columns, range=[-0.5, len(tokens) - 0.5], **bare)
    figure.update_yaxes(tickvals=list(range(len(rows))), ticktext=list(rows), range=[-0.5, len(rows) - 0.5], **bare)
    figure.update_layout(meta={"least_width": 90 + cell * len(tokens)})
    # The margin has room for the labels; plotly's own for them leaves none for the cells of a few rows.
    return styled(figure, top=10, bottom=146).update_xaxes(automargin=False)


def styled(figure: go.Figure, top: int, bottom: int) -> NotebookFigure:
    """The figure in the style that all share; the margins, in pixels, are added to its height."""
    figure = NotebookFigure(figure)
    legend = {"orientation": "h", "x": 0, "xanchor": "left", "y": 1, "yref": "container", "yanchor": "top"}
    figure.update_layout(template="none", paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR, legend=legend)
    figure.update_layout(height=figure.layout.height + top + bottom, dragmode=False)
    figure.update_layout(margin={"l": 8, "r": 12, "t": top, "b": bottom})
    font = {"family": "inherit", "size": 13, "color": TEXT}
    figure.update_layout(font=font, hoverlabel_font_family="inherit")
    axes = {"fixedrange": True, "automargin": True, "title": {"font_size": 13}, "gridcolor": GRID}
    axes |= {"linecolor": GRID, "tickcolor": GRID}
    return figure.update_xaxes(**axes).update_yaxes(**axes)
