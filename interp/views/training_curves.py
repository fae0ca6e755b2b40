"""Curves of training: variance unexplained, latents per token (L0) and dead latents, for one or more autoencoders.

`plot_training` draws finished runs. `LiveCurves` is a callback that draws the same curves in a notebook during
training.
"""

import time
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from interp.core.display import escaped
from interp.sae.training.run_folder import TrainingReport
from interp.sae.training.state import ProgressPoint
from interp.views.figures import panels, styled
from interp.views.palette import SERIES

_CURVES = (("variance unexplained", "fvu"), ("latents per token", "l0"), ("dead latents", "dead"))
_SHARE = 0.05  # of the time of training that drawing may take


def plot_training(histories: Mapping[str, Sequence[ProgressPoint]]) -> go.Figure:
    """The course of training by tokens seen, with one panel per measure and one line per autoencoder.

    Args:
        histories: Points of progress by name, such as the `history` of what `train` returns.

    Returns:
        The figure.

    Example:
        >>> from interp.sae.training.state import ProgressPoint
        >>> from interp.views import plot_training
        >>> history = [ProgressPoint(4096 * n, 1 / n, 1 / n, 16.0, 0, 1e-3, 0.0) for n in (1, 2)]
        >>> [line.name for line in plot_training({"TopK": history}).data]
        ['TopK', 'TopK', 'TopK']
    """
    figure = panels([title for title, _ in _CURVES], [110] * len(_CURVES), gap=34)
    for number, (name, history) in enumerate(histories.items()):
        colour = SERIES[number % len(SERIES)]
        for row, (title, key) in enumerate(_CURVES, 1):
            values = [getattr(point, key) for point in history]
            line = go.Scatter(x=[point.tokens for point in history], y=values, name=escaped(name), mode="lines")
            line.update(line_color=colour, legendgroup=str(number), showlegend=row == 1)
            line.hovertemplate = f"%{{fullData.name}}<br>%{{x:,}} tokens<br>{title} %{{y:.4g}}<extra></extra>"
            figure.add_trace(line, row=row, col=1)
    figure.update_xaxes(title_text="tokens", row=len(_CURVES), col=1)
    figure.update_yaxes(rangemode="tozero")
    return styled(figure, top=34, bottom=50)


class LiveCurves:
    """A callback of `train` that draws the curves in the cell that trains, and updates them there at each new point.

    A run that starts again draws a figure of its own. A run that is read or continued from its folder is drawn from the
    beginning, by its stored points.

    Args:
        names: Names of the autoencoders, in the order of their configurations; the others are numbered.

    Raises:
        ModuleNotFoundError: IPython is missing; it comes with `pip install 'interp[notebook]'`.

    Example:
        >>> from interp.views import LiveCurves
        >>> callbacks = [LiveCurves(["TopK"])]  # doctest: +SKIP
        >>> interp.train(store, "resid_post.3", folder="run", callbacks=callbacks)  # doctest: +SKIP
    """

    replays = True

    def __init__(self, names: Sequence[str] = ()):
        from IPython.display import DisplayHandle

        self._names = dict(enumerate(names))
        self._histories: dict[str, list[ProgressPoint]] = {}
        self._new_handle, self._next = DisplayHandle, 0.0

    def __call__(self, report: TrainingReport) -> None:
        """Add the report's point; draw the figure again if it is the last, or if drawing is cheap enough."""
        name, start = self._names.get(report.number, f"sae {report.number}"), time.monotonic()
        if any(report.point.tokens <= point.tokens for point in self._histories.get(name, [])[-1:]):
            self._histories.clear()
        self._histories.setdefault(name, []).append(report.point)
        if first := sum(map(len, self._histories.values())) == 1:
            self._handle = self._new_handle()
        if first or report.last or start > self._next:
            show = self._handle.display if first else self._handle.update
            show(plot_training(self._histories))
            now = time.monotonic()
            self._next = now + (now - start) * (1 / _SHARE - 1)
