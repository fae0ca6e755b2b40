"""Figures show the records' numbers, and names as text."""

import json
from dataclasses import replace
from typing import Any

import pytest
import sample_records as sample

from interp.core.errors import InterpError
from interp.directions.controls import ControlScore
from interp.directions.findings import Findings
from interp.models.sites import Site
from interp.views import figures


def plain(figure: Any) -> Any:
    return json.loads(figure.to_json())


def traces(figure: Any, kind: str) -> list[Any]:
    return [trace for trace in plain(figure)["data"] if trace["type"] == kind]


def outlined(figure: Any) -> tuple[float, float, str]:
    (shape,) = plain(figure)["layout"]["shapes"]
    return (shape["x0"] + shape["x1"]) / 2, (shape["y0"] + shape["y1"]) / 2, shape["yref"]


def test_heat_map_holds_every_finding_and_nothing_else() -> None:
    findings = sample.findings()
    drawn: dict[tuple[str, str, str], float] = {}
    for panel in traces(figures.plot_heat_map(findings), "heatmap"):
        for place, row in zip(panel["y"], panel["z"], strict=True):
            values = zip(panel["x"], row, strict=True)
            drawn |= {(panel["name"], layer, place): value for layer, value in values if value is not None}
    directions = [f.direction for f in findings]
    keys = [(d.method, str(d.site.layer), f"position {d.position}") for d in directions]
    assert drawn == dict(zip(keys, [f.auroc for f in findings], strict=True))


def test_heat_map_outlines_the_chosen_finding_or_else_the_best() -> None:
    findings = sample.findings()
    chosen = next(f for f in findings if f.direction.method == "logistic" and f.direction.position == -3)
    assert outlined(figures.plot_heat_map(findings, chosen)) == (0, 0, "y2")
    assert findings.best()[0].direction.site == Site("resid_post", 4)
    assert outlined(figures.plot_heat_map(findings)) == (4, 2, "y")


def test_sites_of_several_kinds_and_without_a_layer_have_their_own_cells() -> None:
    pairs = sample.contrast()
    sites = (Site("embed"), Site("mlp_out", 2), Site("resid_post", 2))
    findings = tuple(sample.finding("lda", site, -1, 0.4 + 0.1 * number) for number, site in enumerate(sites))
    (panel,) = traces(figures.plot_heat_map(Findings(findings, pairs, 2)), "heatmap")
    assert panel["x"] == ["input", "2"]
    assert panel["y"] == ["embed -1", "mlp_out -1", "resid_post -1"]
    assert panel["z"] == [[0.4, None], [None, 0.5], [None, pytest.approx(0.6)]]


def test_one_position_is_one_panel_of_layers_and_methods_with_the_baselines_last() -> None:
    sites = [Site("resid_post", layer) for layer in range(3)]
    rows = {"lda": (0.6, 0.9, 0.7), "pca": (0.4, 0.8, None)}
    findings = tuple(
        sample.finding(method, site, -1, area)
        for method, areas in rows.items()
        for site, area in zip(sites, areas, strict=True)
        if area is not None
    )
    baselines = tuple(ControlScore("random", site, -1, 0.55, (0.55,)) for site in sites)
    drawn = figures.plot_heat_map(Findings(findings, sample.contrast(), 2, baselines))
    (panel,) = traces(drawn, "heatmap")
    assert panel["y"] == ["lda", "pca", "random (baseline)"]
    assert panel["x"] == ["0", "1", "2"]
    assert panel["z"] == [[0.6, 0.9, 0.7], [0.4, 0.8, None], [0.55, 0.55, 0.55]]
    assert outlined(drawn) == (1, 0, "y")
    assert plain(drawn)["layout"]["annotations"][0]["text"] == "resid_post, position -1"


def test_baselines_have_panels_of_their_own_where_there_are_several_positions() -> None:
    findings = sample.findings()
    baselines = tuple(ControlScore("shuffled", Site("resid_post", layer), -2, 0.5, (0.5,)) for layer in range(6))
    *_, last = traces(figures.plot_heat_map(replace(findings, baselines=baselines)), "heatmap")
    assert last["name"] == "shuffled (baseline)"
    assert last["z"] == [[None] * 6, [0.5] * 6, [None] * 6]


def test_layer_curve_takes_the_best_position_of_each_layer() -> None:
    findings = sample.findings()
    for line in traces(figures.plot_layer_curve(findings), "scatter"):
        of_method = [f for f in findings if f.direction.method == line["name"]]
        for layer, value in zip(line["x"], line["y"], strict=True):
            at_layer = [f.auroc for f in of_method if str(f.direction.site.layer) == layer]
            assert value == max(at_layer)
            assert line["name"] == "sae_latent" or min(at_layer) < value


def test_density_keeps_counts_and_edges() -> None:
    feature = sample.feature()
    (bars,) = traces(figures.plot_activation_histogram(feature), "bar")
    assert tuple(bars["y"]) == feature.counts
    lows = [x - width / 2 for x, width in zip(bars["x"], bars["width"], strict=True)]
    assert lows == pytest.approx(feature.edges[:-1])


def test_what_is_empty_is_refused() -> None:
    findings = sample.findings()
    for draw in (figures.plot_heat_map, figures.plot_layer_curve):
        with pytest.raises(InterpError, match="no findings"):
            draw(replace(findings, rows=()))
