"""Figures and sections of audits say what the records say."""

import pytest
import sample_records as sample
from parsed import parse

from interp.auditing.auditor import Audit
from interp.auditing.baselines import Baseline
from interp.auditing.entanglement_matrix import Entanglement
from interp.auditing.policy.decision import Policy, decide
from interp.views.audit_figures import plot_entanglement, plot_forest
from interp.views.report_page import Report, render_report

POLICY = Policy(target="hostility", capability_drop_at_most=0.05)


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
