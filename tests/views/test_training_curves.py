"""Curves of training hold the points, and the live ones grow with each report."""

from itertools import count

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


@pytest.fixture
def drawn(monkeypatch):
    """Figures as they are drawn, those of an output that is updated in one list; a minute passes between reports."""
    display = pytest.importorskip("IPython.display", reason="IPython comes with the notebook extra")
    outputs, minutes = [], count()

    class Handle:
        def display(self, figure):
            outputs.append([figure])

        def update(self, figure):
            outputs[-1].append(figure)

    monkeypatch.setattr(display, "DisplayHandle", Handle)
    monkeypatch.setattr("interp.views.training_curves.time.monotonic", lambda: 60.0 * next(minutes))
    return outputs


def test_live_curves_grow(drawn, monkeypatch):
    monkeypatch.setattr("interp.views.training_curves._SHARE", 1.0)
    live = LiveCurves(["TopK"])
    for number, point in enumerate(_history(3)):
        live(TrainingReport(0, point, number + 1, 3, 100.0, False))
        live(TrainingReport(1, point, number + 1, 3, 100.0, number == 2))
    assert [len(figure.data) for figure in drawn[0]] == [3, 6, 6, 6, 6, 6]
    assert [line.name for line in drawn[0][-1].data[::3]] == ["TopK", "sae 1"]
    assert len(drawn[0][-1].data[0].x) == 3


def test_drawing_takes_a_small_share_of_the_time_and_the_last_point_is_drawn(drawn):
    live = LiveCurves()
    for number, point in enumerate(_history(50)):
        live(TrainingReport(0, point, number + 1, 50, 100.0, number == 49))
    assert [len(figure.data[0].x) for figure in drawn[0]] == [1, 21, 41, 50]


def test_a_run_that_starts_again_has_a_figure_of_its_own(drawn):
    live = LiveCurves()
    for _ in range(2):
        for number, point in enumerate(_history(3)):
            live(TrainingReport(0, point, number + 1, 3, 100.0, number == 2))
    assert [len(figures[-1].data[0].x) for figures in drawn] == [3, 3]
