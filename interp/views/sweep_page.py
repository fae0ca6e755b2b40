"""The page of a sweep: its front with hover, what was confirmed on other items, every trial; one HTML file."""

import json
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from interp.core.display import clipped, escaped
from interp.core.errors import InterpError
from interp.core.files import write_text
from interp.search.sweeps.sweep_record import SweepRecord
from interp.search.sweeps.trials import SweepTrial
from interp.views._page import rendered_page
from interp.views.figures import styled
from interp.views.palette import BEFORE, CHOSEN, SERIES

_LINES = 12  # of parameters in a hover text


def plot_front(record: SweepRecord) -> go.Figure:
    """The complete trials by their first two objectives, the front as a line; hover has the values that were chosen.

    What was confirmed is drawn where it is on the confirming items, and linked to where it was on the choosing ones.

    Args:
        record: A sweep.

    Raises:
        InterpError: It has one objective only, or no trial is complete.
    """
    complete = [trial for trial in record.trials if trial.state == "complete"]
    if len(record.objectives) < 2 or not complete:
        raise InterpError(f"{record.title}: a front is drawn of complete trials with two objectives or more")
    first, second = record.objectives[:2]
    front = sorted(record.front, key=lambda trial: trial.costs)
    groups = {
        "breaks a bound": ([trial for trial in complete if trial.broken], BEFORE, "x-thin-open", "markers"),
        "in bounds": ([trial for trial in complete if trial.feasible], SERIES[0], "circle", "markers"),
        "front": (front, CHOSEN, "diamond", "lines+markers"),
    }
    figure = go.Figure(layout_height=380)
    for name, (trials, colour, symbol, mode) in groups.items():
        values = [record.values(trial.costs) for trial in trials]
        points = go.Scatter(x=[x[0] for x in values], y=[x[1] for x in values], mode=mode, name=name)
        points.marker, points.line = {"size": 10, "symbol": symbol, "color": colour}, {"color": colour, "width": 1}
        points.update(customdata=[_hover(record, trial) for trial in trials])
        figure.add_trace(points.update(hovertemplate="%{customdata}<extra></extra>"))
    x, y = record.values(record.unedited)[:2]
    unedited = go.Scatter(x=[x], y=[y], mode="markers", name="unedited", marker_color=BEFORE, marker_symbol="star")
    figure.add_trace(unedited.update(marker_size=13, hovertemplate="unedited<extra></extra>"))
    figure.add_trace(_confirmed(record, first, second))
    figure.update_xaxes(title_text=escaped(first), zeroline=False)
    figure.update_yaxes(title_text=escaped(second), zeroline=False)
    return styled(figure, top=60, bottom=54)


def _hover(record: SweepRecord, trial: SweepTrial) -> str:
    pairs = zip(record.objectives, record.values(trial.costs), strict=True)
    values = [f"{name} {value:z.3f}" for name, value in pairs]
    chosen = [f"{name}: {_brief(value)}" for name, value in trial.params.items()]
    broken = [f"breaks {name}" for name in trial.broken]
    lines = [f"trial {trial.number}", *values, *broken, *chosen[:_LINES]]
    return "<br>".join(escaped(clipped(line, 90)) for line in lines)


def _brief(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _confirmed(record: SweepRecord, first: str, second: str) -> go.Scatter:
    """Each confirmed point on the confirming items, linked to where it was on the choosing ones."""
    x: list[float | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    chosen = {trial.number: trial.costs for trial in record.trials}
    for point in record.confirmed:
        ends = [point[name].after.estimate for name in (first, second)]
        start = record.values(chosen[point.trial])
        x += [start[0], ends[0], None]
        y += [start[1], ends[1], None]
        shown = [f"{name} {point[name].after}" for name in (first, second)]
        texts += ["", "<br>".join(map(escaped, [f"trial {point.trial}, confirmed", *shown])), ""]
    confirmed = go.Scatter(x=x, y=y, mode="lines+markers", name="on confirming items", customdata=texts)
    confirmed.marker, confirmed.line = {"symbol": "square-open", "size": 9, "color": SERIES[2]}, {"dash": "dot"}
    return confirmed.update(line_color=SERIES[2], hovertemplate="%{customdata}<extra></extra>")


def write_sweep_page(record: SweepRecord, path: str | Path) -> None:
    """Write the page of a sweep as one HTML file.

    Args:
        record: The sweep.
        path: The file; if it exists, it is replaced in one step.

    Raises:
        InterpError: The file cannot be written.
    """
    drawn = len(record.objectives) > 1 and any(trial.state == "complete" for trial in record.trials)
    trials = [
        {
            "trial": x.number,
            "state": x.state,
            "why": x.reason or ", ".join(f"breaks {name}" for name in x.broken),
            "seconds": x.seconds,
            "chosen": ", ".join(f"{name} {_brief(value)}" for name, value in x.params.items()),
        }
        for x in record.trials
    ]
    page = rendered_page(
        "sweep.html.j2",
        record=record,
        figure=json.loads(plot_front(record).to_json()) if drawn else None,
        front=record.rows(),
        arms=record.arm_rows(),
        confirmed=record.confirmed_rows(),
        parameters=record.importance_rows(),
        trials=trials,
        plotly=Markup(get_plotlyjs()),
    )
    write_text(Path(path), page)
