"""The page of an attribution graph: what a browser shows and does by the keyboard, hostile text, and bad graphs."""

import json
import re
import shutil
import subprocess
from copy import deepcopy
from pathlib import Path
from urllib.parse import quote

import pytest
from parsed import parse

from interp import InterpError
from interp.views import graph_page

HOSTILE = "</script><img src=x onerror=alert(1)>\"'<b>\u202e"
TRACED = Path(__file__).parents[1] / "attribution" / "circuit_tracer" / "plain.json"


EXAMPLE = {"tokens": ["by the ", HOSTILE, " river"], "tokens_acts_list": [0.0, 0.5, 2.0]}


def node(name, kind="cross layer transcoder", **values):
    layer, _, position = name.split("_")
    return {"node_id": name, "layer": layer, "ctx_idx": int(position), "feature_type": kind, **values}


def link(source, target, weight):
    return {"source": source, "target": target, "weight": weight}


def graph():
    """Three tokens, four latents, an error and two outputs; the second output is never reached."""
    embeddings = [node(f"E_{number}_{number}", "embedding") for number in range(3)]
    latents = [
        node("0_7_1", measured=-0.5, predicted=-0.4, activation=2.0, top_tokens=[[HOSTILE, 3.0], [" river", 1.0]]),
        node("0_8_1", measured=0.25, predicted=0.2, examples=[EXAMPLE]), node("1_7_2", clerp=HOSTILE), node("1_9_2"),
    ]  # fmt: skip
    outputs = [node("3_5_2", "logit", clerp='Output " water" (p=0.800)'), node("3_6_2", "logit")]
    links = [
        link("E_1_1", "0_7_1", 1.0), link("E_2_2", "1_7_2", 0.25), link("0_-1_2", "1_7_2", -3.0),
        link("0_7_1", "1_7_2", 2.0), link("0_8_1", "1_7_2", 0.5), link("0_7_1", "1_9_2", -1.0),
        link("1_7_2", "3_5_2", 4.0), link("1_9_2", "3_5_2", -0.125),
    ]  # fmt: skip
    scores = {"replacement_score": 0.625, "completeness_score": 0.75, "error_share": 0.125, "correlation": None}
    return {
        "metadata": {"slug": HOSTILE, "scan": "tiny", "prompt_tokens": ["The", HOSTILE, "\n"], "interp": scores},
        "qParams": {"pinnedIds": ["1_9_2"], "supernodes": []},
        "nodes": [*embeddings, node("0_-1_2", "mlp reconstruction error"), *latents, *outputs],
        "links": links,
    }


def data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)[1])


def test_a_page_holds_the_graph_with_its_labels_and_scores():
    page = graph_page(graph(), labels={"0_7_1": "rivers"})
    content = data(page)
    assert content["rows"] == ["tokens", "layer 0", "layer 1", "output"]
    labels = {node["id"]: node["label"] for node in content["nodes"]}
    assert (labels["0_7_1"], labels["1_9_2"], labels["0_-1_2"]) == ("rivers", "latent 9", "error")
    assert labels["E_0_0"] == 'token "The"'
    texts = {node["id"]: [[value for _, value in text] for text in node["top"]] for node in content["nodes"]}
    assert (texts["0_7_1"], texts["0_8_1"], texts["1_9_2"]) == ([[3.0], [1.0]], [[0.0, 0.5, 2.0]], [])
    weights = [weight for _, _, weight in content["links"]]
    assert weights == [4.0, -3.0, 2.0, 1.0, -1.0, 0.5, 0.25, -0.125]
    (keys,) = parse(page).all("dl")
    assert [term.words for term in keys.all("dt")] == ["replacement", "completeness", "error share"]
    assert page == graph_page(graph(), labels={"0_7_1": "rivers"})
    assert not re.search(r"https?://(?!www\.w3\.org/)", page), "names of XML are no requests"


def test_hostile_text_stays_text():
    plain = json.loads(json.dumps(graph()).replace(json.dumps(HOSTILE)[1:-1], "plain"))
    page = graph_page(graph(), labels={"1_9_2": HOSTILE})
    assert page.count("<script") == page.count("</script") == graph_page(plain).count("<script")
    assert "\u202e" not in page
    assert "<img" not in page


def test_a_graph_of_circuit_tracer_has_a_page():
    traced = json.loads(TRACED.read_text())
    content = data(graph_page(traced))
    assert len(content["nodes"]) == len(traced["nodes"])
    strongest = max(traced["links"], key=lambda link: abs(link["weight"]))
    source, target, weight = content["links"][0]
    assert (content["nodes"][source]["id"], content["nodes"][target]["id"]) == (
        strongest["source"],
        strongest["target"],
    )
    assert weight == pytest.approx(strongest["weight"], rel=1e-3)


BAD = {
    r"payload: links is missing": lambda graph: graph.pop("links"),
    r"nodes is empty; expected at least one": lambda graph: graph["nodes"].clear(),
    r"layer is 'top'": lambda graph: graph["nodes"][0].update(layer="top"),
    r"links.0.weight is nan; expected a number that is finite": lambda graph: graph["links"][0].update(
        weight=float("nan")
    ),
    r"measured is inf": lambda graph: graph["nodes"][4].update(measured=float("inf")),
    r"the link E_1_1 to 0_77_1: no node has the id '0_77_1'; did you mean 0_7_1": (
        lambda graph: graph["links"][0].update(target="0_77_1")
    ),
    r"2 nodes have the id '0_7_1'.*ambiguous": lambda graph: graph["nodes"].append(node("0_7_1")),
    r"node 'E_0_0' is at position 3, of 3 prompt_tokens": lambda graph: graph["nodes"][0].update(ctx_idx=3),
}


@pytest.mark.parametrize(("message", "spoil"), BAD.items(), ids=lambda value: value if isinstance(value, str) else "")
def test_a_bad_graph_is_refused_by_name(message, spoil):
    spoilt = deepcopy(graph())
    spoil(spoilt)
    with pytest.raises(InterpError, match=message):
        graph_page(spoilt)


def test_a_label_of_no_node_is_refused():
    with pytest.raises(InterpError, match=r"labels: no node has the id '0_7_2'; did you mean .*0_7_1"):
        graph_page(graph(), labels={"0_7_2": "rivers"})
    with pytest.raises(InterpError, match="labels: 1 is not the id of a node; expected a text such as 'E_0_0'"):
        graph_page(graph(), labels={"0_7_1": "rivers", 1: "rivers"})


# Presses keys from the first output on, groups what is pinned, and writes down what the page then shows.
USE = """<pre id="seen"></pre><script>
const all = (query) => [...document.querySelectorAll(query)];
const at = () => document.activeElement.getAttribute("aria-label")?.split(",")[0];
const press = (key) => {
  document.activeElement.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
  return at();
};
const seen = { edges: all("#edges path").length, drawn: drawn.textContent, pinned: JSON.parse(saved.value).pinnedIds };
all("svg .node[tabindex='0']")[0].focus();
seen.path = [at(), ...["i", "Enter", "i", "o", "ArrowDown", "ArrowLeft", "ArrowUp"].map(press)];
press("ArrowDown");
press("ArrowLeft");
seen.path.push(press("ArrowLeft"));
press("Enter");
seen.panel = all("#node dd").map((value) => value.textContent);
seen.inputs = all("#node .number").map((value) => value.textContent);
seen.effects = all("#largest .number").map((value) => value.textContent);
const boxes = all("#group input[type=checkbox]");
boxes[0].click();
boxes[1].click();
all("#group input:not([type])")[0].value = NAME;
all("#group button")[0].click();
seen.saved = JSON.parse(saved.value);
seen.kept = JSON.parse(decodeURIComponent(location.hash.slice(1)));
seen.between = all("#subgraph path title").map((title) => title.textContent.split(": ").at(-1));
const finder = document.getElementById("find"); // `find` is the window's
finder.value = "river";
finder.dispatchEvent(new Event("input"));
seen.results = all("#results button").map((button) => button.textContent);
amount.value = 0;
amount.dispatchEvent(new Event("input"));
seen.fewer = all("#edges path").length;
document.documentElement.style.width = "400px";
seen.width = document.querySelector("main").scrollWidth;
seen.foreign = all("img, b").length;
document.getElementById("seen").textContent = JSON.stringify(seen);
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
def test_a_browser_walks_pins_and_groups_by_the_keyboard(tmp_path):
    many = graph()
    others = [node(f"2_{number}_0") for number in range(450)]
    many["nodes"] += others
    many["links"] += [link("E_0_0", other["node_id"], 1e-3) for other in others]
    page = graph_page(many, labels={"0_7_1": "rivers"}).replace("</body>", USE.replace("NAME", json.dumps("a <b>name")))
    file = tmp_path / "graph.html"
    file.write_text(page, encoding="utf-8")
    address = f"{file.as_uri()}#{quote(json.dumps([['1_9_2', 'gone'], []]))}"
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--enable-logging=stderr")
    options = (
        "--virtual-time-budget=4000",
        "--window-size=500,900",
        "--dump-dom",
        f"--user-data-dir={tmp_path / 'user'}",
    )
    browser = subprocess.run(
        ["chromium", *quiet, *options, address], capture_output=True, text=True, timeout=120, check=True
    )
    assert "CONSOLE" not in browser.stderr
    seen = json.loads(parse(browser.stdout).id("seen").words)
    assert (seen["edges"], seen["fewer"]) == (400, 0)
    assert seen["drawn"] == "the 400 strongest of 458 links; 58 hidden"
    assert seen["pinned"] == ["1_9_2"]
    water, hostile = 'Output " water" (p=0.800)', HOSTILE.replace("\u202e", "")
    strongest = [water, hostile, hostile, "error", hostile]  # i, Enter, i, o
    assert seen["path"] == [*strongest, "error", "latent 8", hostile, "rivers"]
    place = "layer 0, position 1, " + json.dumps(hostile)
    assert seen["panel"] == ["0_7_1", place, "2", "−0.5", "−0.4"]
    assert seen["inputs"] == ["1", "2", "−1"], "one input, and two outputs, the strongest first"
    assert seen["effects"] == ["−0.5", "−0.4", "0.25", "0.2"]
    pins, supernodes = ["1_9_2", "1_7_2", "0_7_1"], [["a <b>name", "1_9_2", "1_7_2"]]
    assert seen["saved"] == {"pinnedIds": pins, "supernodes": supernodes}
    assert seen["kept"] == [pins, supernodes], "a page that is opened again has them"
    assert seen["between"] == ["1"], "-1 and 2"
    assert seen["results"] == ["rivers"]
    assert seen["width"] == 400
    assert seen["foreign"] == 0
