"""The figure of a patching: layers by positions, heads or other places, coloured by what each patch changes."""

import plotly.graph_objects as go
import torch
from plotly.colors import sample_colorscale

from interp.attribution.patching import Patching
from interp.views.figures import COLOUR_BAR, cell_texts, panels, plotted, styled, token_label
from interp.views.palette import CHANGE

_COLUMNS, _NUMBERED = 64, 12  # most columns that are drawn, and that have room for numbers
_CELL = 20  # least pixels of a column


def plot_patching(result: Patching) -> go.Figure:
    """A heat map of effects, a panel for each kind of site: the last layer on top, a column for each place.

    Colours show how far a patch moves the run that is patched: to the metric of the other run (blue), or away from it
    (orange). A hover text has the place, its effect and the 95 % interval. Of more than 64 columns, those with the most
    effect are drawn.

    Args:
        result: What `patch` returns.

    Example:
        >>> from interp.views import plot_patching
        >>> pairs = interp.attribution.Comparison.of_organism("hostility", 4)
        >>> result = interp.attribution.patch(model, pairs, "z.*", by="head")
        >>> [*plot_patching(result).data[0].z[0]] == result.changes[0].tolist()
        True
    """
    changes, effects = result.changes, result.effects
    readings = torch.cat([effects[..., None], result.intervals], -1).tolist()
    if result.pairs.comparison.convention == "noise":
        changes = -changes
    columns = sorted(changes.abs().amax(0).argsort(descending=True)[:_COLUMNS].tolist())
    limit = max(float(changes.abs().max()), 1e-6)
    kinds = list(dict.fromkeys(site.kind for site in result.sites))
    rows = {kind: [n for n, site in enumerate(result.sites) if site.kind == kind] for kind in kinds}
    figure = panels(kinds, [max(90, 22 * len(numbers)) for numbers in rows.values()], gap=34)
    names = [str(result.labels[column]) for column in columns]
    for panel, numbers in enumerate(rows.values(), 1):
        layers, values = [str(result.sites[n].layer) for n in numbers], changes[numbers][:, columns]
        heat = go.Heatmap(z=values.tolist(), x=names, y=layers, colorscale=CHANGE, zmin=-limit, zmax=limit)
        heat.customdata = [[_hover(result, n, place, readings[n][place]) for place in columns] for n in numbers]
        heat.update(hovertemplate="%{customdata}<extra></extra>", xgap=1, ygap=1, showscale=panel == 1)
        heat.text = [[f"{effects[n, place]:.2f}".replace("-0.00", "0.00") for place in columns] for n in numbers]
        heading = {"text": "change of the effect by the patch", "side": "bottom", "font_size": 13}
        heat.colorbar = COLOUR_BAR | {"lenmode": "pixels", "len": 230, "title": heading}
        figure.add_trace(heat, row=panel, col=1)
        if len(columns) <= _NUMBERED:
            colours = sample_colorscale(CHANGE, ((values / limit + 1) / 2).flatten().tolist())
            x, y = names * len(layers), [layer for layer in layers for _ in names]
            texts = [text for row in heat.text for text in row]
            figure.add_trace(cell_texts(x, y, texts, colours), row=panel, col=1)
    bare = {"type": "category", "showgrid": False, "zeroline": False, "ticks": ""}
    figure.update_yaxes(title_text="layer", dtick=1, **bare)
    angle, labels = (
        -45 if result.by in ("position", "neuron", "latent") else 0,
        [_named(result, column) for column in columns],
    )
    figure.update_xaxes(tickvals=names, ticktext=labels, tickangle=angle, **bare)
    figure.update_layout(meta=dict(figure.layout.meta) | {"least_width": 90 + _CELL * len(columns)})
    # The margin has room for the labels; plotly's own for them leaves none for the cells of a few layers.
    figure = styled(figure, top=34, bottom=165 if angle else 110).update_xaxes(automargin=False)
    return _from_the_end(figure) if result.by == "position" else figure


def _from_the_end(figure: go.Figure) -> go.Figure:
    """The figure with its layers, titles and colours at the last position, to which a page scrolls."""
    figure.update_yaxes(side="right").update_annotations(x=1, xanchor="right")
    figure.data[0].colorbar.update(x=1, xanchor="right")
    return figure.update_layout(meta=dict(figure.layout.meta) | {"from_end": True}, margin_l=60)


def _named(result: Patching, place: int) -> str:
    """A column's name; of a position, with the token where all patched prompts have the same."""
    token = result.token(place)
    return f"{token_label(token) if token else ''} {result.labels[place]}".strip()


def _hover(result: Patching, site: int, place: int, reading: list[float]) -> str:
    name = plotted(f"{result.name(site, place)} {result.token(place)!r}".removesuffix(" ''"), 60)
    return "{}<br>effect {:+.3f} [{:+.3f}, {:+.3f}]".format(name, *reading)
