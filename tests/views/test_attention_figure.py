"""The figure of attention: every cell's weight and pair of tokens, and nothing above the diagonal."""

import json

import pytest

from interp import InterpError
from interp.attribution import attention_patterns
from interp.views import plot_attention


@pytest.fixture
def patterns(tiny):
    return attention_patterns(tiny("llama"), "w5 w9 <pad> w5", [0, 2])


def drawn(figure):
    document = json.loads(figure.to_json())
    return document["data"][0], document["layout"]


def test_heads_by_positions(patterns):
    heat, layout = drawn(plot_attention(patterns, query=2))
    assert heat["z"] == patterns.weights[:, :, 2, :3].flatten(0, 1).tolist()
    assert layout["yaxis"]["ticktext"] == [f"{layer}.{head}" for layer in (0, 2) for head in range(4)]
    assert layout["xaxis"]["ticktext"] == ["w5", "w9", "&lt;pad&gt;"], "text of the prompt is shown as text"
    assert (
        "head 2.1, position 2 to 1<br>&#x27; &lt;pad&gt;&#x27; attends to &#x27; w9&#x27;<br>"
        in heat["customdata"][5][1]
    )
    assert heat["customdata"][5][1].endswith(f"{patterns.weights[1, 1, 2, 1]:.3f}")
    assert heat["zmax"] == 1


def test_one_head_has_no_cells_above_the_diagonal(patterns):
    heat, layout = drawn(plot_attention(patterns, head=(2, 3)))
    for query, line in enumerate(heat["z"]):
        assert line == patterns.weights[1, 3, query, : query + 1].tolist() + [None] * (3 - query)
    assert layout["yaxis"]["range"] == [3.5, -0.5], "the first query is on top"
    assert "<td></td>" in plot_attention(patterns, head=(2, 3)).to_table()


def test_value_weighted_patterns_have_a_scale_of_their_own(tiny):
    weighted = attention_patterns(tiny("llama"), "w5 w9 w7 w5", value_weighted=True)
    heat, _ = drawn(plot_attention(weighted))
    assert heat["zmax"] == pytest.approx(weighted.weights[:, :, -1].max().item())
    assert heat["colorbar"]["title"]["text"] == "attention × length of value W_O"


def test_a_head_or_query_that_is_not_there_is_named(patterns):
    with pytest.raises(InterpError, match=r"head 1\.0 is not in these patterns; expected a layer of 0, 2"):
        plot_attention(patterns, head=(1, 0))
    with pytest.raises(InterpError, match="query 4 is not in the prompt; expected -4 to 3"):
        plot_attention(patterns, query=4)
