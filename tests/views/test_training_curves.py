"""Curves of training hold the points, and the live ones grow with each report."""

import pytest

from interp.sae.training.state import ProgressPoint
from interp.sae.training.trainer import TrainingReport
from interp.views.training_curves import LiveCurves, plot_training


def _history(count):
    return [ProgressPoint(1000 * (n + 1), 1 / (n + 1), 0.5 / (n + 1), 8.0 + n, n, 1e-3, 0.0) for n in range(count)]


def test_each_measure_has_a_panel_and_each_history_a_line():
    figure = plot_training({"<b>first</b>": _history(3), "second": _history(5)})
    assert len(figure.data) == 6
    assert [line.name for line in figure.data[::3]] == ["&lt;b&gt;first&lt;/b&gt;", "second"]
    assert list(figure.data[3].x) == [1000, 2000, 3000, 4000, 5000]
    assert list(figure.data[3].y) == [0.5 / (n + 1) for n in range(5)]
    assert sum(bool(line.showlegend) for line in figure.data) == 2


def test_live_curves_grow(monkeypatch):
    display = pytest.importorskip("IPython.display", reason="IPython comes with the notebook extra")
    drawn = []

    class Handle:
        def update(self, figure):
            drawn.append(figure)

    monkeypatch.setattr(display, "display", lambda figure, display_id: Handle())
    live = LiveCurves(["TopK"])
    for number, point in enumerate(_history(3)):
        live(TrainingReport(0, point, number + 1, 3, 100.0, number == 2))
        live(TrainingReport(1, point, number + 1, 3, 100.0, number == 2))
    assert [len(figure.data) for figure in drawn] == [3, 6, 6, 6, 6, 6]
    assert [line.name for line in drawn[-1].data[::3]] == ["TopK", "sae 1"]
    assert len(drawn[-1].data[0].x) == 3
