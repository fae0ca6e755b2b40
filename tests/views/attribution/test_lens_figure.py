"""The figure of a lens: every cell's token, colours that match, hostile text as text, and a table without scripts."""

import json
from dataclasses import replace

import pytest
from parsed import parse

from interp import InterpError
from interp.attribution import Lens
from interp.views import Report, plot_lens, render_report


@pytest.fixture
def reading(tiny):
    return Lens().read(tiny("llama"), "w5 w9 w77 w5", top=4)


@pytest.mark.parametrize("colour", ["probability", "entropy"])
def test_a_cell_has_the_likeliest_token_and_its_colour(reading, colour):
    figure = json.loads(plot_lens(reading, colour).to_json())
    heat, texts = figure["data"]
    expected = reading.probability[..., 0] if colour == "probability" else reading.entropy
    assert heat["z"] == expected.tolist()
    assert heat["zmin"] == 0
    assert heat["zmax"] >= expected.max()
    words = [[reading.best(layer, position)[0][0].strip() for position in range(4)] for layer in range(3)]
    assert heat["text"] == words
    assert [words[y][x] for x, y in zip(texts["x"], texts["y"], strict=True)] == texts["text"]
    for layer in range(3):
        for position in range(4):
            assert all(f"{word!r} {chance:.3f}".replace("'", "&#x27;") in heat["customdata"][layer][position]
                       for word, chance in reading.best(layer, position))  # fmt: skip
    assert figure["layout"]["xaxis"]["ticktext"] == [token.strip() for token in reading.tokens], (
        "columns of one name stay apart"
    )
    with pytest.raises(InterpError, match="did you mean entropy"):
        plot_lens(reading, "entrpy")


def test_tokens_of_space_and_quotation_marks_are_seen(reading):
    words = dict.fromkeys(reading.words, "\n") | {int(reading.top[2, 3, 0]): '"'}
    figure = json.loads(plot_lens(replace(reading, words=words)).to_json())
    assert figure["data"][0]["text"][2][3] == "&#34;"
    assert "&#x27;\\n&#x27;" in {text for row in figure["data"][0]["text"] for text in row}


def test_a_page_has_the_picture_as_a_table_and_decides_nothing(reading):
    tree = parse(render_report(Report("A lens", reading.model, lens=reading, lens_colour="entropy")))
    (table,) = tree.id("lens").all("table")
    assert len(table.all("tr")) == 1 + len(reading.sites)
    assert [cell.words for cell in table.all("td")] == [
        row["next"][0][0].strip()
        for layer in range(3)
        for row in (reading.rows(position)[layer] for position in range(4))
    ]
    assert not any("No decision" in element.text for element in tree.all("p"))
