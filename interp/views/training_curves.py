"""Training as curves: variance unexplained, L0 and dead latents by tokens, for one or several autoencoders.

`training` makes the figure of finished runs. `Live` is a callback that draws it in a notebook while training goes on.
"""

from collections.abc import Mapping, Sequence
from html import escape

import plotly.graph_objects as go

from interp.sae.training.run_folder import TrainingReport
from interp.sae.training.state import ProgressPoint
from interp.views.figures import panels, styled
from interp.views.palette import SERIES

_CURVES = (("variance unexplained", "fvu"), ("latents a token", "l0"), ("dead latents", "dead"))


def training(histories: Mapping[str, Sequence[ProgressPoint]]) -> go.Figure:
    """A panel for each measure, a line for each history, by its name."""
    figure = panels([title for title, _ in _CURVES], [110] * len(_CURVES), gap=34)
    for number, (name, history) in enumerate(histories.items()):
        colour = SERIES[number % len(SERIES)]
        for row, (title, key) in enumerate(_CURVES, 1):
            values = [getattr(point, key) for point in history]
            line = go.Scatter(x=[point.tokens for point in history], y=values, name=escape(name), mode="lines")
            line.update(line_color=colour, legendgroup=str(number), showlegend=row == 1)
            line.hovertemplate = f"%{{fullData.name}}<br>%{{x:,}} tokens<br>{title} %{{y:.4g}}<extra></extra>"
            figure.add_trace(line, row=row, col=1)
    figure.update_xaxes(title_text="tokens", row=len(_CURVES), col=1)
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, top=34, bottom=50)


class Live:
    """A callback for `train` that draws the curves so far in a notebook cell, at each new point.

    `names` are of the plans, in their order.
    """

    def __init__(self, names: Sequence[str] = ()):
        from IPython.display import display

        self._names = list(names)
        self._histories: dict[str, list[ProgressPoint]] = {}
        self._shown = display(training({}), display_id=True)

    def __call__(self, report: TrainingReport) -> None:
        """Draw the new point."""
        known = self._names[report.number : report.number + 1]
        self._histories.setdefault(known[0] if known else f"sae {report.number}", []).append(report.point)
        self._shown.update(training(self._histories))
