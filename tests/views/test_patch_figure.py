"""The figure of a patching: every effect, colour and interval; a panel per kind of site; the tables of its section."""

import json
from dataclasses import replace

import pytest
import sample_records as sample
import torch
from parsed import parse

from interp.models.sites import Site
from interp.views import Report, plot_patching, render_report


@pytest.mark.parametrize("convention", ["denoise", "noise"])
def test_a_cell_has_the_change_and_a_hover_text_the_effect(convention):
    result = sample.patching()
    comparison = replace(result.pairs.comparison, convention=convention)
    result = replace(result, pairs=replace(result.pairs, comparison=comparison))
    figure = json.loads(plot_patching(result).to_json())
    heat, texts = figure["data"]
    sign = 1 if convention == "denoise" else -1
    torch.testing.assert_close(torch.tensor(heat["z"]).double(), sign * result.changes)
    assert heat["zmax"] == -heat["zmin"] == pytest.approx(float(result.changes.abs().max()))
    for site in range(2):
        for place in range(3):
            low, high = result.intervals[site, place].tolist()
            reading = f"z.{site}, head {place}<br>effect {result.effects[site, place]:+.3f} [{low:+.3f}, {high:+.3f}]"
            assert heat["customdata"][site][place] == reading
    shown = dict(zip(zip(texts["x"], texts["y"], strict=True), texts["text"], strict=True))
    assert shown["0", "1"] == heat["text"][1][0]


def test_kinds_have_panels_and_many_places_give_way_to_those_with_most_effect():
    few = sample.patching()
    values = torch.zeros(2, 100, 2) + few.pairs.corrupt_values
    values[1, 70] = few.pairs.clean_values
    sites = (Site("mlp_post", 0), Site("attn_out", 3))
    figure = plot_patching(replace(few, sites=sites, by="neuron", labels=tuple(range(100)), values=values))
    first, second = figure.data
    assert (len(first.x), first.y, second.y) == (64, ("0",), ("3",))
    assert second.z[0][second.x.index("70")] == 1
    assert figure.layout.meta["panels"] == ["mlp_post", "attn_out"]


def test_a_position_has_its_token_where_all_prompts_agree():
    result = sample.patching()
    result = replace(result, by="position", labels=(-2, -1), values=result.values[:, :2])
    assert plot_patching(result).layout.xaxis.ticktext == ("The -2", "-1")
    caption = parse(render_report(Report("Patches", result.model, patching=result))).id("patching").all("figcaption")
    assert "a number alone is a mean over pairs with different wordings" in caption[0].words


def test_a_page_lists_places_misses_and_pairs():
    result = sample.patching()
    section = parse(render_report(Report("Patches", result.model, patching=result))).id("patching")
    _, places, misses = section.all("table")
    cells = [[cell.words for cell in row if cell.tag in ("td", "th")] for row in places.all("tr")][1:]
    assert [row[0] for row in cells if row] == [row["place"] for row in result.rows()]
    assert "z.0, head 1" in misses.words
    assert [element.text for element in section.all("p", class_="text")] == [
        "The Gant Gant", "The Teff Teff", "The Nim Nim", "The Tarn Tarn",
    ]  # fmt: skip
