"""Figures and sections of audits say what the records say."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from html import unescape
from typing import Any

import pytest
import sample_records as sample
from hypothesis import given, settings
from hypothesis import strategies as st
from parsed import parse

from interp.auditing.auditor import Audit
from interp.auditing.baselines import Baseline
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.policy.decision import Policy, decide
from interp.core.errors import InterpError, printable
from interp.views.audit_figures import plot_entanglement, plot_forest, plot_rates
from interp.views.report_page import Report, render_report

TAGS = "</?(b|br|extra)>"  # what the figures write themselves
POLICY = Policy(target="hostility", capability_drop_at_most=0.05)


def plain(figure: Any) -> Any:
    return json.loads(figure.to_json())


def strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from strings(part)


def baseline(name: str, each: int = 0) -> Baseline:
    changes = {row.name: sample.audit()[row.name].difference for row in sample.audit().rows}
    scores = dict.fromkeys(changes, 0.25)
    return Baseline(name, scores, ({**scores},) * each, changes, dict.fromkeys(changes, 0.5))


def audit() -> Audit:
    plain = sample.audit()
    return Audit(plain.rows, plain.before, plain.after, plain.examples, (baseline("random", 5), baseline("prompt")))


def test_a_forest_has_every_difference_with_its_interval() -> None:
    traces = plot_forest(audit()).data
    assert [trace.name for trace in traces] == ["the edit", "random", "prompt"] * 2
    rates = [row for row in audit().rows if row.unit == "rate"]
    edit = traces[0]
    assert list(edit.x) == [row.difference.estimate for row in rates]
    for row, x, above, below in zip(rates, edit.x, edit.error_x.array, edit.error_x.arrayminus, strict=True):
        assert (x - below, x + above) == pytest.approx((row.difference.low, row.difference.high))
    assert [trace.showlegend for trace in traces] == [True] * 3 + [False] * 3
    assert len(set(map(tuple, (trace.y for trace in traces[:3])))) == 3, "baselines are drawn below the edit"


def test_a_matrix_shades_by_what_is_good() -> None:
    whole = Entanglement.of({"edit": audit()})
    heat, texts = plot_entanglement(whole).data
    figure = plot_entanglement(whole)
    assert list(figure.layout.xaxis.ticktext) == ["edit", "random", "prompt"]
    shades = {name: row[0] for name, row in zip(figure.layout.yaxis.ticktext, heat.z, strict=True)}
    assert shades["hostility"] == 1, "a harm that falls is better"
    assert shades["facts"] < 0
    assert shades["everyday_loss"] == pytest.approx(-audit()["everyday_loss"].difference.estimate / 0.25)
    assert len(texts.text) == 3 * len(audit().rows)


def test_edits_whose_names_begin_alike_have_columns_of_their_own() -> None:
    base = "a_long_recipe_name_that_goes_on_and_on_for_more_than_forty"
    figure = plot_entanglement(Entanglement.of({f"{base}_one": sample.audit(), f"{base}_two": sample.audit()}))
    assert len(figure.layout.xaxis.ticktext) == len(figure.data[0].z[0])
    assert set(figure.data[1].x) == set(figure.layout.xaxis.tickvals)


def test_the_page_shows_baselines_and_matrix() -> None:
    measured, whole = audit(), Entanglement.of({"edit": audit()})
    decision = decide(measured, POLICY)
    page = parse(
        render_report(
            Report("An audit", sample.MODEL, audit=measured, baselines=measured.baselines, entanglement=whole,
                   policy=POLICY, decision=decision)
        )
    )  # fmt: skip
    text = page.id("baselines").text
    assert "0.250" in text
    assert "unedited" in text
    cell = whole.columns["edit"]["hostility"].difference
    assert f"{cell.estimate:+.3f}" in page.id("entanglement").text
    assert {"figure-forest", "figure-matrix"} <= {p.attributes["data-figure"] for p in page.all("div", class_="plot")}


def test_several_edits_have_a_table_and_a_decision_each() -> None:
    audits = {"first": audit(), "second": sample.audit()}
    decisions = {name: decide(measured, POLICY) for name, measured in audits.items()}
    whole = Entanglement.of(audits)
    page = parse(render_report(Report("Edits", sample.MODEL, entanglement=whole, edits=audits, decisions=decisions)))
    assert [title.text for title in page.id("edits").all("h3")] == ["first", "second"]
    assert page.id("edits").text.count("Decision:") == 2
    assert "No decision" not in page.text
    assert list(whole.columns) == ["first", "second", "random for first", "prompt"]


def test_before_after_draws_each_rate_with_its_interval() -> None:
    audit = sample.audit()
    drawn: dict[tuple[str, str], tuple[float, float, float]] = {}
    for trace in plain(plot_rates(audit))["data"]:
        bars = zip(trace["error_x"]["arrayminus"], trace["error_x"]["array"], strict=True)
        for (name, *_), x, (minus, plus) in zip(trace["customdata"], trace["x"], bars, strict=True):
            drawn[name, trace["name"]] = (x, x - minus, x + plus)
    rates = [row for row in audit.rows if row.unit == "rate"]
    sides = {(row.name, side): getattr(row, side) for row in rates for side in ("before", "after")}
    assert set(drawn) == set(sides)
    for key, estimate in sides.items():
        assert drawn[key] == pytest.approx((estimate.estimate, estimate.low, estimate.high))


def test_an_audit_without_rates_has_no_figure_of_rates() -> None:
    with pytest.raises(InterpError, match="no rate"):
        plot_rates(replace(sample.audit(), rows=sample.audit().rows[-1:]))


@settings(max_examples=10, deadline=None)
@given(st.text(st.sampled_from("ab<>&;/\"'%{}\u202e "), min_size=1, max_size=30))
def test_names_are_text_whatever_they_hold(name: str) -> None:
    audit = sample.audit()
    row = replace(audit.rows[0], name=name)
    drawn = plot_rates(Audit((row,), audit.before, audit.after))
    for text in strings(plain(drawn)):
        assert "<" not in re.sub(TAGS, "", text)
    labels = [unescape(note["text"]) for note in plain(drawn)["layout"]["annotations"]]
    assert printable(name) in labels
    assert {unescape(trace["customdata"][0][0]) for trace in plain(drawn)["data"]} == {printable(name)}
    assert all(name not in trace["hovertemplate"] for trace in plain(drawn)["data"] if len(name) > 3)
