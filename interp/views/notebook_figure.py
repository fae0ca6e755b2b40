"""Figures that show wherever a notebook is opened, with or without a kernel, a network or scripts.

A `NotebookFigure` is a plotly figure with a second form in HTML: a table of its values, which stays where scripts are
stripped, as on code-hosting sites and in e-mail, and which a script replaces by the interactive figure elsewhere. The
script and plotly.js (gzip, 2 MB) are in the document once, in an output of their own in the cell of its first figure.
"""

import gzip
import json
import os
import re
import sys
from base64 import b64encode
from collections.abc import Sequence
from functools import cache
from html import unescape
from importlib.resources import files
from typing import Any

import plotly.graph_objects as go
from plotly.colors import sample_colorscale
from plotly.offline import get_plotlyjs

from interp.core.display import escaped
from interp.core.progress import notebook_shell
from interp.views.palette import ink_on

_COLUMNS = 12  # columns of a table of curves with more than twice as many points, evenly spaced
# Set by the user, or by services that need a renderer of their own.
_RENDERED = (
    *("PLOTLY_RENDERER", "COLAB_NOTEBOOK_ID", "KAGGLE_KERNEL_RUN_TYPE"),
    *("AZURE_NOTEBOOKS_HOST", "COCALC_PROJECT_ID", "DATABRICKS_RUNTIME_VERSION"),
)
_DOCUMENT: list[Any] = [None, None]  # the cell whose output has the script, and the request that last ran it
_Row = tuple[str, list[str]]  # a heading, and cells in HTML


class NotebookFigure(go.Figure):
    """A plotly figure that is shown interactively, or as a table where scripts or plotly.js are missing.

    Example:
        >>> import plotly.graph_objects as go
        >>> from interp.views.notebook_figure import NotebookFigure
        >>> figure = NotebookFigure(go.Figure(go.Bar(x=["low", "high"], y=[1, 20])))
        >>> figure
        NotebookFigure(bar)
        >>> "<td>20</td>" in figure.to_table()
        True
    """

    def to_table(self) -> str:
        """The values of the figure as HTML tables, one per panel, without scripts."""
        panels: dict[str, list[Any]] = {}
        for trace in filter(_has_values, self.data):
            panels.setdefault(trace.yaxis or "y", []).append(trace)
        titles = {f"y{number}": title for number, title in enumerate((self.layout.meta or {}).get("panels", ()), 1)}
        titles["y"] = titles.get("y1", "")
        return "".join(_table(self, traces, titles.get(panel, "")) for panel, traces in panels.items())

    def show(self, *args: Any, **kwargs: Any) -> None:
        """Show the figure: in a notebook as the last value of a cell is shown, elsewhere as plotly does."""
        if notebook_shell() is None or args or kwargs:
            super().show(*args, **kwargs)
            return
        from IPython.display import display

        display(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(dict.fromkeys(trace.type for trace in self.data))})"

    def _ipython_display_(self) -> None:
        if notebook_shell() is None:
            super()._ipython_display_()
        else:
            raise NotImplementedError  # IPython asks for the MIME bundle then, and can update the output

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """plotly's interactive form, or what its renderer makes where one is chosen, with HTML if that has none."""
        text = self.to_json()
        # plotly's renderers import validators of notebooks, which can take seconds.
        if "plotly.io._renderers" in sys.modules or any(name in os.environ for name in _RENDERED):
            bundle = super()._repr_mimebundle_(*args, **kwargs)
        else:
            bundle = {"application/vnd.plotly.v1+json": json.loads(text)}
        if "text/html" not in bundle:
            script = "" if _put_script_into_document() else _script()
            figure = text.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&#39;")
            draw = "<script>window.drawInterpFigures?.()</script>"
            bundle["text/html"] = f"{script}<div data-interp-figure='{figure}'>{self.to_table()}</div>{draw}"
        return bundle | {"text/plain": repr(self)}


def _put_script_into_document() -> bool:
    """Put the script into the outputs of this cell if it is the first cell of the document with a figure, once a run.

    Returns False outside a notebook.
    """
    shell = notebook_shell()
    if shell is None:
        return False
    from IPython.display import display

    parent = shell.get_parent()
    cell = parent.get("metadata", {}).get("cellId") or parent.get("content", {}).get("code")
    if _DOCUMENT[0] in (None, cell) and _DOCUMENT[1] != parent["header"]["msg_id"]:
        _DOCUMENT[:] = cell, parent["header"]["msg_id"]
        display({"text/html": _script(), "text/plain": ""}, raw=True)
    return True


@cache
def _script() -> str:
    source = (files("interp.views") / "templates" / "notebook_figure.js").read_text(encoding="utf-8")
    packed = b64encode(gzip.compress(get_plotlyjs().encode(), mtime=0)).decode()
    # In an attribute, not in the script: what strips the tags of scripts and keeps their text drops attributes.
    return f"<div data-interp-plotly='{packed}'></div><script>{source}</script>"


def _has_values(trace: Any) -> bool:
    """Whether a trace can be written as a table: the figures of this package can, most others of plotly cannot."""
    if trace.type == "heatmap":
        return bool(trace.coloraxis or (trace.colorscale and None not in (trace.zmin, trace.zmax)))
    drawn = trace.type == "bar" or (trace.type == "scatter" and trace.mode != "text")
    return drawn and trace.x is not None and trace.y is not None


def _table(figure: go.Figure, traces: Sequence[Any], caption: str) -> str:
    """The traces of one panel as a table: a heat map by its cells, intervals and curves by a row or column each."""
    label = next((_plain(axis.title.text) for axis in figure.select_xaxes() if axis.title.text), "")
    heat = next((trace for trace in traces if trace.type == "heatmap"), None)
    if heat is not None:
        columns, rows = _cells(figure, heat)
    elif all(trace.error_x.array is not None for trace in traces):
        columns, rows = _intervals(traces)
    else:
        columns, rows = _curves(traces, figure.layout.yaxis.title.text or "")
    head = "".join(f"<th>{column}</th>" for column in columns)
    lines = "".join(f"<tr><th>{_plain(name)}</th>{''.join(cells)}</tr>" for name, cells in rows)
    title = f"<p><b>{_plain(caption)}</b></p>" if caption else ""
    return f"{title}<div style='overflow-x:auto'><table><tr><th>{label}</th>{head}</tr>{lines}</table></div>"


def _cells(figure: go.Figure, heat: Any) -> tuple[list[str], list[_Row]]:
    shared = figure.layout.coloraxis if heat.coloraxis else None
    low, high = (shared.cmin, shared.cmax) if shared else (heat.zmin, heat.zmax)
    scale = [list(stop) for stop in (shared or heat).colorscale]
    texts = heat.text or [[None if z is None else f"{z:.2f}" for z in row] for row in heat.z]

    def cell(z: float | None, text: str | None) -> str:
        if z is None:
            return "<td></td>"
        (colour,) = sample_colorscale(scale, [min(max((z - low) / (high - low), 0.0), 1.0)])
        return f"<td style='background:{colour};color:{ink_on(colour)}'>{_plain(text)}</td>"

    layout = figure.layout
    x = layout.xaxis.ticktext if heat.x is None else heat.x
    y = layout.yaxis.ticktext if heat.y is None else heat.y
    rows = ([*map(cell, *row)] for row in zip(heat.z, texts, strict=True))
    return [*map(_plain, x)], [*zip(map(str, y), rows, strict=True)]


def _intervals(traces: Sequence[Any]) -> tuple[list[str], list[_Row]]:
    names = [point[0] for point in traces[0].customdata]
    cells = ([f"<td>{_plain(trace.customdata[row][1])}</td>" for trace in traces] for row in range(len(names)))
    return [_plain(trace.name) for trace in traces], [*zip(names, cells, strict=True)]


def _curves(traces: Sequence[Any], title: str) -> tuple[list[str], list[_Row]]:
    points = [dict(zip(trace.x, trace.y, strict=False)) for trace in traces]
    x = list(dict.fromkeys(value for curve in points for value in curve))
    if len(x) > 2 * _COLUMNS:
        x = [x[round(number * (len(x) - 1) / (_COLUMNS - 1))] for number in range(_COLUMNS)]
    rows = [[f"<td>{_plain(curve.get(value, ''))}</td>" for value in x] for curve in points]
    return [*map(_plain, x)], [*zip((trace.name or title for trace in traces), rows, strict=True)]


def _plain(value: object) -> str:
    """A value as escaped text, without the few tags that plotly reads in labels."""
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
    return escaped(unescape(re.sub(r"<[^<>]*>", "", str(value).replace("<br>", " "))))
