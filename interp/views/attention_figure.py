"""The figure of attention patterns: where every head attends from one token, or one head from every token."""

from collections.abc import Sequence

import plotly.graph_objects as go

from interp.attribution.attention import AttentionPatterns
from interp.core.errors import InterpError
from interp.views.figures import COLOUR_BAR, over_tokens, plotted
from interp.views.palette import SCALE, TEXT

_CELL = 26  # pixels of a column
_LOW, _HIGH = (10, 8), (20, 11)  # pixels of a row and of its label, for many rows and for few
_FEW = 48


def plot_attention(patterns: AttentionPatterns, head: tuple[int, int] | None = None, query: int = -1) -> go.Figure:
    """A heat map of attention: heads by positions for one query, or queries by positions for one head.

    A hover text has the head, the pair of tokens and the weight.

    Args:
        patterns: What `attention_patterns` returns, value-weighted or not.
        head: Draw the whole pattern of this head: layer and head. Default: all heads, layer by layer from the top.
        query: The token that attends, where all heads are drawn; negative counts from the end.

    Raises:
        InterpError: The head or the query is not in the patterns.

    Example:
        >>> from interp.views import plot_attention
        >>> patterns = interp.attribution.attention_patterns(model, "The river of", [0, 1])
        >>> len(plot_attention(patterns).data[0].z), len(plot_attention(patterns, head=(1, 0)).data[0].z)
        (12, 4)
    """
    tokens, heads, width = patterns.tokens, patterns.weights.shape[1], len(patterns.tokens)
    if not -width <= query < width:
        raise InterpError(f"query {query} is not in the prompt; expected {-width} to {width - 1}")
    if head is None:
        values, last = patterns.weights[:, :, query].flatten(0, 1), query % width
        rows = [(f"{layer}.{number}", last) for layer in patterns.layers for number in range(heads)]
        labels, title = [name for name, _ in rows], f"layer.head, from {plotted(repr(tokens[query]), 24)}"
    else:
        values, last = patterns.weights[patterns.place(*head)], width - 1
        rows = [(f"{head[0]}.{head[1]}", number) for number in range(width)]
        labels, title = [plotted(token.strip() or repr(token), 12) for token in tokens], f"head {rows[0][0]}, from"
    cells = [line[: at + 1] + [None] * (last - at) for (_, at), line in zip(rows, values.tolist(), strict=True)]
    heat = go.Heatmap(z=cells, colorscale=SCALE, zmin=0, xgap=1, ygap=1, hoverongaps=False)
    heat.zmax = max(float(values.max()), 1e-6) if patterns.value_weighted else 1
    heat.customdata = [_hovers(tokens, *row, line) for row, line in zip(rows, cells, strict=True)]
    heat.hovertemplate = "%{customdata}<extra></extra>"
    heading = "attention × length of value W_O" if patterns.value_weighted else "attention"
    bar = {"lenmode": "pixels", "len": 230, "title": {"text": heading, "side": "bottom", "font_size": 13}}
    heat.colorbar = COLOUR_BAR | bar
    height, font = _HIGH if len(rows) <= _FEW else _LOW
    figure = go.Figure(heat, layout_height=max(90, height * len(rows)))
    for row in range(heads, len(rows) if head is None else 0, heads):
        figure.add_hline(y=row - 0.5, line={"color": TEXT, "width": 3})  # between layers
    figure = over_tokens(figure, tokens[: last + 1], labels, _CELL)
    return figure.update_yaxes(title_text=title, tickfont_size=font, range=[len(rows) - 0.5, -0.5])


def _hovers(tokens: Sequence[str], name: str, query: int, line: Sequence[float | None]) -> list[str]:
    return [
        ""
        if weight is None
        else f"head {name}, position {query} to {key}<br>"
        f"{plotted(f'{tokens[query]!r} attends to {tokens[key]!r}')}<br>{weight:.3f}"
        for key, weight in enumerate(line)
    ]
