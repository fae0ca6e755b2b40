"""Figures, curves, a conversation and progress in a notebook: as they run, and exported, without kernel or network."""

import json
import re
import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import chromium
import numpy as np
import plotly.graph_objects as go
import pytest
import sample_records as sample

from interp.views import plot_activation_histogram, plot_heat_map, plot_layer_curve, plot_rates, plot_training
from interp.views.notebook_figure import NotebookFigure

SUPPORT = Path(sample.__file__).parent
LIVE, CHAT, PROGRESS = 3, 4, 5
CELLS = (
    f"""
import sys, time
sys.path.insert(0, {str(SUPPORT)!r})
import sample_records as sample
from interp.core.progress import track
from interp.sae.training.run_folder import TrainingReport
from interp.sae.training.state import ProgressPoint
from interp.views import LiveCurves, plot_heat_map, plot_layer_curve
""",
    "plot_heat_map(sample.findings())",
    "plot_layer_curve(sample.findings()).show()",
    """
live = LiveCurves(["TopK"])
for n in range(30):
    live(TrainingReport(0, ProgressPoint(1000 * (n + 1), 1.0, 1 / (n + 1), 8.0, n, 1e-3, 0.0), n, 30, 1.0, n == 29))
""",
    """
import torch, tiny_models, interp
from interp.views import chat
edit = interp.Recipe([("resid_post.1", interp.Add(torch.ones(32), 9.0))])
talk = chat(tiny_models.build("llama"), {"the <b>edit</b>": edit}, max_new_tokens=4)
talk
""",
    """
talk.request = {"do": "say", "text": "w5 </script> w9"}
for _ in track(range(12), "wait"):
    time.sleep(0.1)
""",
)


def outputs(cell, kind="text/html"):
    return [output["data"][kind] for output in cell.outputs if kind in output.get("data", {})]


def scripts(cell):
    return sum("drawInterpFigures = async" in html for html in outputs(cell))


@pytest.fixture(scope="module")
def messages():
    return []


@pytest.fixture(scope="module")
def nbformat():
    return pytest.importorskip("nbformat", reason="nbformat comes with the notebook extra")


@pytest.fixture(scope="module")
def notebook(nbformat, messages, tmp_path_factory):
    """The cells, executed; the first figure, the live curves and the conversation twice."""
    client = pytest.importorskip("nbclient", reason="nbclient is needed to execute notebooks")
    from traitlets.config import Config  # comes with nbclient

    class Client(client.NotebookClient):
        def process_message(self, message, cell, number):
            messages.append((number, message["msg_type"], message["content"].get("data", {})))
            return super().process_message(message, cell, number)

    metadata = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, CELLS)], metadata=metadata)
    # Sockets that are files: another process may take a TCP port between its choice and its use.
    sockets = {"transport": "ipc", "ip": str(tmp_path_factory.mktemp("kernel") / "k")}
    runner = Client(notebook, timeout=120, config=Config(KernelManager=sockets))
    with runner.setup_kernel():
        for number in (*range(CHAT + 1), 1, LIVE, CHAT, PROGRESS):
            runner.execute_cell(notebook.cells[number], number)
    return notebook


def test_plotly_is_in_the_document_once_and_stays_when_its_cell_runs_again(notebook):
    assert [scripts(cell) for cell in notebook.cells] == [0, 1, 0, 0, 0, 0]
    assert len(json.dumps(notebook)) < 2_100_000


def test_figures_have_an_interactive_and_a_static_form(notebook):
    for cell, figure in zip(notebook.cells[1:3], (plot_heat_map, plot_layer_curve), strict=True):
        (interactive,) = outputs(cell, "application/vnd.plotly.v1+json")
        assert len(interactive["data"]) == len(figure(sample.findings()).data)
        assert figure(sample.findings()).to_table() in outputs(cell)[-1]
        assert outputs(cell, "text/plain")[-1].startswith("NotebookFigure(")


def test_live_curves_are_one_figure_that_is_updated_in_place(notebook, messages):
    (figure,) = outputs(notebook.cells[LIVE], "application/vnd.plotly.v1+json")
    assert len(figure["data"][0]["x"]) == 30
    kinds = [kind for number, kind, _ in messages if number == LIVE and "display" in kind]
    assert kinds.count("display_data") == 2, "one for each time the cell ran"
    assert "update_display_data" in kinds


def test_a_conversation_stays_in_the_notebook_as_it_was_last(notebook, messages):
    widget, copy = notebook.cells[CHAT].outputs
    assert "application/vnd.jupyter.widget-view+json" in widget.data
    assert "text/html" not in widget.data, "the copy would be there twice"
    assert copy.data["text/plain"].startswith("unedited: w")
    assert "w5 &lt;/script&gt; w9" in copy.data["text/html"]
    assert "the &lt;b&gt;edit&lt;/b&gt;" in copy.data["text/html"]
    first = [
        data for number, kind, data in messages if number == CHAT and "data-interp-chat" in data.get("text/html", "")
    ]
    assert ["Nothing is said yet" in data["text/html"] for data in first] == [True, True], "one for each run"
    assert "Nothing is said yet" not in copy.data["text/html"]


def test_progress_shows_in_the_cell_and_leaves_nothing(notebook, messages):
    lines = [data["text/plain"] for number, kind, data in messages if number == PROGRESS and "display" in kind]
    assert any(re.match(r"wait .* 8\d % of 12 items, +\d.* items/s, 00:00 left", line) for line in lines)
    assert [output.data for output in notebook.cells[PROGRESS].outputs] == [{"text/plain": "", "text/html": ""}]


def exported(notebook, theme="light"):
    nbconvert = pytest.importorskip("nbconvert", reason="nbconvert comes with the notebook extra")
    return nbconvert.HTMLExporter(theme=theme, exclude_input=True).from_notebook_node(notebook)[0]


@chromium.needed
def test_an_export_is_not_blank_in_light_in_dark_and_without_scripts(nbformat, notebook, tmp_path):
    cells = [notebook.cells[number] for number in (1, 2, LIVE, CHAT)]
    document, blank = (nbformat.from_dict({**notebook, "cells": shown}) for shown in (cells, []))
    pages = {theme: exported(document, theme) for theme in ("light", "dark")}
    pages["stripped"] = re.sub(r"<script\b.*?</script>", "", pages["light"], flags=re.DOTALL)
    pages |= {"blank": exported(blank), "blank and dark": exported(blank, "dark")}
    for name, html in pages.items():
        (tmp_path / f"{name}.html").write_text(html, encoding="utf-8")
    page, picture = tmp_path / "all.html", tmp_path / "all.png"
    page.write_text("<body style='margin:0;display:flex'>" + "".join(f"<iframe src='{p}.html'{FRAME}" for p in pages))
    chromium.browse(
        page, f"--screenshot={picture}", f"--window-size={WIDTH * len(pages)},{HEIGHT}", "--hide-scrollbars"
    )
    page.write_text(LINES.replace("PICTURE", b64encode(picture.read_bytes()).decode()))
    lines = json.loads(re.search(r"<pre>(.*?)</pre>", chromium.browse(page, "--dump-dom"))[1])
    assert lines[3:] == [0, 0]
    assert min(lines[:2]) > 900, "lines of pixels of three figures and a table"
    assert lines[2] > 400, "of six tables"


WIDTH, HEIGHT = 500, 1600
FRAME = f" style='width:{WIDTH}px;height:{HEIGHT}px;border:0'></iframe>"
# For each page, the number of lines of pixels in which any differs from the page's corner.
LINES = f"""<pre></pre><img src="data:image/png;base64,PICTURE"><script>
onload = () => {{
  const image = document.querySelector("img"), lines = [];
  const canvas = Object.assign(document.createElement("canvas"), {{ width: image.width, height: image.height }});
  const context = canvas.getContext("2d");
  context.drawImage(image, 0, 0);
  for (let left = 0; left < image.width; left += {WIDTH}) {{
    const pixels = new Uint32Array(context.getImageData(left, 0, {WIDTH}, {HEIGHT}).data.buffer);
    const line = (_, n) => pixels.subarray(n * {WIDTH}, (n + 1) * {WIDTH}).some((pixel) => pixel !== pixels[0]);
    lines.push(Array.from({{ length: {HEIGHT} }}, line).filter(Boolean).length);
  }}
  document.querySelector("pre").textContent = JSON.stringify(lines);
}};
</script>"""


def test_outside_a_notebook_the_html_is_complete():
    html = plot_rates(sample.audit())._repr_html_()
    assert "drawInterpFigures = async" in html
    assert "data-interp-figure" in html


def test_tables_hold_the_values_of_each_kind_of_figure():
    audit, feature = sample.audit(), sample.feature()
    rates = plot_rates(audit).to_table()
    for row in audit.rows:
        assert (f"<th>{row.name}</th><td>{row.before}</td><td>{row.after}</td>" in rates) == (row.unit == "rate")
    bars = re.findall(r"<td>([\d,]+)</td>", plot_activation_histogram(feature).to_table())
    assert tuple(int(count.replace(",", "")) for count in bars) == feature.counts
    heat = plot_heat_map(sample.findings()).to_table()
    assert heat.count("<td style=") == len(sample.findings())
    assert "<td style='background:rgb(254, 232, 56);color:#000000'>1.00</td>" in heat


def test_labels_are_text_in_the_table_and_in_the_attribute():
    hostile = "</div><script>alert('1')</script>&amp;"
    figure = NotebookFigure(go.Figure(go.Scatter(x=[1, 2], y=[0.5, 1.0], name=hostile, text=hostile)))
    html = figure._repr_mimebundle_()["text/html"].partition("<div data-interp-figure=")[2]
    assert "alert" not in figure.to_table().replace("alert(&#x27;1&#x27;)", "")
    assert html.count("<script") == 1
    drawn = html.partition("'>")[0].removeprefix("'")
    for entity, sign in (("&#39;", "'"), ("&lt;", "<"), ("&amp;", "&")):
        drawn = drawn.replace(entity, sign)
    assert json.loads(drawn) == json.loads(figure.to_json())


def test_a_long_curve_is_told_by_evenly_spaced_points():
    figure = NotebookFigure(go.Figure(go.Scatter(x=list(range(100)), y=list(range(100)))))
    assert re.findall(r"<td>(\d+)</td>", figure.to_table()) == [str(9 * number) for number in range(12)]


@pytest.mark.parametrize(
    "trace",
    [
        go.Pie(values=[1, 2]),
        go.Heatmap(z=[[1, 2]]),
        go.Scatter(y=[1, 2]),
        go.Scatter(x=[1], y=[1], mode="text"),
        go.Box(y=[1]),
    ],
)
def test_a_trace_that_a_user_adds_does_not_keep_a_figure_from_showing(trace):
    bare = plot_layer_curve(sample.findings())
    figure = plot_layer_curve(sample.findings()).add_trace(trace)
    assert figure.to_table() == bare.to_table()
    assert "data-interp-figure" in figure._repr_mimebundle_()["text/html"]


def test_a_line_that_a_user_adds_is_in_the_table():
    line = go.Scatter(x=np.arange(7), y=np.arange(6) / 4, name="mine")
    for figure in (plot_rates(sample.audit()), plot_layer_curve(sample.findings())):
        assert "<th>mine</th>" in figure.add_trace(line).to_table()


def test_a_figure_without_points_is_empty():
    assert plot_training({}).to_table() == ""


def test_the_renderer_that_a_user_chooses_is_used(monkeypatch):
    monkeypatch.setattr("plotly.io.renderers.default", "json")
    assert "application/json" in plot_layer_curve(sample.findings())._repr_mimebundle_()


def test_the_first_figure_does_not_import_the_renderers_of_plotly():
    code = (
        "import sys, plotly.graph_objects as go; from interp.views.notebook_figure import NotebookFigure; "
        "NotebookFigure(go.Figure(go.Bar(x=[1], y=[2])))._repr_mimebundle_(); assert 'jsonschema' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
