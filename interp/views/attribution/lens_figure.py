"""The figure of a lens: layers by positions, with the likeliest next token in each cell."""

from typing import Literal

import plotly.graph_objects as go
from plotly.colors import sample_colorscale

from interp.attribution.lens_reading import LensReading
from interp.views.figures import COLOUR_BAR, cell_texts, over_tokens, plotted, token_label
from interp.views.palette import SCALE

Colour = Literal["probability", "entropy"]

_CELL = 62  # pixels
_TITLES = {"probability": "probability of the token shown", "entropy": "entropy of the next token, nats"}


def plot_lens(reading: LensReading, colour: Colour = "probability") -> go.Figure:
    """A heat map of what a lens reads: the last layer on top, a column per token of the prompt.

    A cell shows the likeliest next token at its layer and position, and a hover text the likeliest ones with their
    probabilities, the entropy, and the divergence from the model's own prediction.

    Args:
        reading: What `Lens.read` returns.
        colour: What colours the cells: the probability of the token shown, or the entropy of all.

    Example:
        >>> from interp.views import plot_lens
        >>> reading = interp.attribution.Lens().read(model, "The river of")
        >>> [words[-1] for words in plot_lens(reading).data[0].text][-1] == reading.best(-1, -1)[0][0].strip()
        True
    """
    layers, positions = range(len(reading.sites)), range(len(reading.tokens))
    values = reading.probability[..., 0] if colour == "probability" else reading.entropy
    highest = 1.0 if colour == "probability" else max(float(values.max()), 1e-6)
    words = [[token_label(reading.best(layer, position)[0][0]) for position in positions] for layer in layers]
    heat = go.Heatmap(z=values.tolist(), text=words, colorscale=SCALE, zmin=0, zmax=highest, xgap=1, ygap=1)
    heat.customdata = [[_hover(reading, layer, position) for position in positions] for layer in layers]
    heat.hovertemplate = "%{customdata}<extra></extra>"
    heading = {"text": _TITLES[colour], "side": "bottom", "font_size": 13}
    heat.colorbar = COLOUR_BAR | {"lenmode": "pixels", "len": 230, "title": heading}
    x, y, flat = zip(*[(x, y, words[y][x]) for y in layers for x in positions], strict=True)
    colours = sample_colorscale(SCALE, (values / highest).clamp(0, 1).flatten().tolist())
    figure = go.Figure(layout_height=max(90, 30 * len(layers)))
    figure.add_traces([heat, cell_texts(x, y, list(flat), colours)])
    kinds = {site.kind for site in reading.sites}
    names = [str(site if len(kinds) > 1 else site.layer) for site in reading.sites]
    figure.update_yaxes(title_text="layer" if kinds == {"resid_post"} else "/".join(sorted(kinds)))
    return over_tokens(figure, reading.tokens, names, _CELL)


def _hover(reading: LensReading, layer: int, position: int) -> str:
    lines = [f"{word!r} {chance:.3f}" for word, chance in reading.best(layer, position)]
    entropy, divergence = reading.entropy[layer, position].item(), reading.divergence[layer, position].item()
    head = f"{reading.sites[layer]}, position {position}, after {reading.tokens[position]!r}"
    foot = f"entropy {entropy:.2f} nats, KL from the model {divergence:.2f} nats"
    return "<br>".join(plotted(line, 60) for line in [head, *lines, foot])
