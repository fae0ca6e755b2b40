"""The widget does what is clicked, shows replies as they are written, and keeps its state as text that cannot act."""

import json
import re
from base64 import b64encode
from importlib.resources import files
from xml.etree import ElementTree

import chromium
import pytest
import torch

import interp
from interp import Add, InterpError, Recipe
from interp.search import RecipeFile
from interp.views import ChatWidget, Conversation, chat

EVIL = "</script><img src=x onerror=alert(1)>'\"&\u2028\u202e אב"


def recipe(seed=0):
    return Recipe([("resid_post.1", Add(torch.randn(32, generator=torch.Generator().manual_seed(seed)), 9.0))])


@pytest.fixture
def widget(tiny, tmp_path):
    by = {"loss": "loss", EVIL: "resid_post.1"}
    return chat(tiny("llama"), {"edit": recipe(), EVIL: recipe(1)}, by, folder=tmp_path, max_new_tokens=5)


def click(widget, **request):
    """What the front end sends, and what the kernel sends back, in order."""
    sent = []
    widget.comm.send = lambda data=None, **options: sent.append(data["state"])
    click.number = getattr(click, "number", 0) + 1
    widget.set_state({"request": request | {"number": str(click.number)}})
    return sent


def test_a_message_is_answered_while_it_is_written(widget):
    sent = click(widget, do="say", text="w5 w9")
    assert {"busy": True} in sent
    talk = widget.conversation
    for name, side in talk.sides.items():
        partial = [state["partial"][name] for state in sent if name in state.get("partial", {})]
        assert side.replies[0].text in partial
        assert partial == sorted(partial, key=len)
        assert len(partial) >= 3
    assert [state["busy"] for state in sent if "busy" in state] == [True, False]
    assert (widget.busy, widget.partial, widget.status) == (False, {}, "")
    assert all(reply.text.split()[0] in widget.html for side in talk.sides.values() for reply in side.replies)


def test_without_readings_replies_are_plain(tiny):
    widget = chat(tiny("llama"), {"edit": recipe()}, by={}, max_new_tokens=5)
    click(widget, do="say", text="w5 w9")
    assert (widget.readings, widget.reading) == ([], "")
    assert all(side.replies[0].text in widget.html for side in widget.conversation.sides.values())
    assert not re.search("shaded|Trace|background", widget.html)


def test_what_is_clicked_is_done(widget, tmp_path):
    click(widget, do="say", text="w5 w9")
    before = widget.html
    click(widget, do="strength", side="edit", value=0.0)
    assert widget.strengths == {"edit": 0.0, EVIL: 1.0}
    sides = widget.conversation.sides
    assert sides["edit"].replies[0].ids == sides["unedited"].replies[0].ids
    assert widget.html != before
    click(widget, do="save", side="edit")
    assert widget.status == f"saved {tmp_path / 'edit-0.yaml'}"
    assert RecipeFile.read(tmp_path / "edit-0.yaml").strength == 0
    click(widget, do="save", side=EVIL)
    (named,) = set(tmp_path.glob("*.yaml")) - {tmp_path / "edit-0.yaml"}
    assert re.fullmatch(r"[a-z0-9-]+-1\.yaml", named.name)
    widget.set_state({"reading": EVIL})
    assert "norm" not in widget.html
    assert "img src" in "".join(page(widget.html).itertext())
    click(widget, do="clear")
    assert "Nothing is said yet" in widget.html


def test_problems_are_shown_and_the_widget_goes_on(widget):
    click(widget, do="say", text="w5 " * 9999)
    assert "context" in widget.status
    assert not widget.busy
    click(widget, do="say", text="w5")
    assert widget.status == ""
    assert widget.conversation.messages == ("w5",)


def page(html):
    return ElementTree.fromstring(f"<body>{html}</body>".replace("&nbsp;", " "))


def test_everything_in_the_conversation_is_text(widget):
    click(widget, do="say", text=EVIL)
    for html in (widget.html, widget._static()["text/html"]):
        root = page(html)
        assert {element.tag for element in root.iter()} <= {
            *("body", "section", "p", "div", "span", "b", "i", "bdi", "style", "figure", "figcaption", "ul", "li"),
            *("svg", "line", "text", "polyline", "circle", "title"),
        }
        assert not [name for element in root.iter() for name in element.attrib if name.startswith("on")]
        assert "<img src=x" in "".join(root.itertext())
        assert "\u202e" not in html


def test_the_bundle_has_the_widget_and_html_that_needs_no_kernel(widget):
    click(widget, do="say", text="w5 w9")
    data, _ = widget._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == widget.model_id
    assert widget.html in data["text/html"]
    assert "<script" not in data["text/html"]
    assert data["text/plain"].startswith("unedited: w")


def test_marimo_takes_it(widget):
    marimo = pytest.importorskip("marimo", reason="marimo is not among the extras; 130 MB")
    assert widget.model_id in marimo.ui.anywidget(widget).text


def test_a_trace_leaves_out_what_is_not_a_number(tiny):
    model = tiny("llama")
    talk = Conversation(model, {}, max_new_tokens=1, eos_token_id=list(range(128)))
    talk.say("w5")
    assert talk.sides["unedited"].replies[0].text == ""
    html = ChatWidget(talk).html
    assert "nan" not in html
    assert "(nothing)" in html
    talk.say("w6")  # an empty reply is a turn, too
    assert len(talk.trace("loss")["unedited"]) == 4


def test_recipes_and_readings_without_a_name_get_one(tiny, tmp_path):
    model = tiny("llama")
    recipe().save(tmp_path / "calm")
    assert list(chat(model, recipe()).strengths) == ["edit"]
    assert list(chat(model, "calm", folder=tmp_path).strengths) == ["calm"]
    assert chat(model, by="resid_post.1").readings == ["resid_post.1"]
    assert chat(model, by=(interp.attribution.Lens(), "resid_post.1")).readings == ["reading"]
    with pytest.raises(InterpError, match="by is neither"):
        chat(model, by="los")


FRONT_END = """<meta charset="utf-8"><pre></pre><div id="at"></div><script type="module">
const { default: front } = await import("data:text/javascript;base64,SCRIPT");
const state = STATE, heard = {}, requests = [];
const model = {
  get: (name) => state[name],
  set: (name, value) => { state[name] = value; if (name === "request") requests.push(value); },
  save_changes: () => {},
  on: (name, call) => { (heard[name] ??= []).push(call); },
};
const change = (name, value) => { state[name] = value; for (const call of heard[`change:${name}`] ?? []) call(); };
const el = document.querySelector("#at");
front.render({ model, el });
const find = (query) => el.querySelector(query);
const shown = { first: el.textContent };
find("textarea").value = "hello";
find("textarea").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", shiftKey: true, bubbles: true }));
find("textarea").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
shown.emptied = find("textarea").value;
change("busy", true);
find("textarea").value = "later";
find("form").requestSubmit();
shown.waits = [find("textarea").value, find("[type=submit]").disabled, find("[type=range]").disabled];
change("partial", { edit: "<b>wri" });
shown.partial = el.textContent.includes("<b>wri");
change("busy", false);
find("[type=range]").value = 0.5;
find("[type=range]").dispatchEvent(new Event("input"));
shown.strength = find("output").textContent;
find("[type=range]").dispatchEvent(new Event("change"));
[...el.querySelectorAll("button")].find((button) => button.textContent.startsWith("Save")).click();
[...el.querySelectorAll("button")].find((button) => button.textContent.startsWith("Begin")).click();
find("select").value = state.readings[1];
find("select").dispatchEvent(new Event("change"));
change("status", "saved <i>");
shown.status = find("[aria-live]").textContent;
shown.hidden = getComputedStyle(document.querySelector("[data-interp-chat]")).display;
shown.names = [...el.querySelectorAll("input, select, textarea, button")].map((node) =>
  node.getAttribute("aria-label") || node.textContent || node.closest("label")?.textContent);
shown.reading = state.reading;
document.querySelector("pre").textContent = JSON.stringify({ shown, requests, alerted: window.alerted ?? false });
</script><div data-interp-chat="KEY">the copy</div>"""


@chromium.needed
def test_the_front_end_sends_what_is_typed_and_clicked(widget, tmp_path):
    widget.conversation.say(EVIL)
    names = ("html", "key", "strengths", "readings", "reading", "partial", "busy", "status")
    script = (files("interp.views") / "templates" / "chat.js").read_bytes()
    state = json.dumps({name: getattr(widget, name) for name in names}).replace("<", "\\u003c")
    text = FRONT_END.replace("SCRIPT", b64encode(script).decode()).replace("STATE", state).replace("KEY", widget.key)
    (tmp_path / "page.html").write_text(text, encoding="utf-8")
    dumped = re.search(r"<pre>(.*?)</pre>", chromium.browse(tmp_path / "page.html", "--dump-dom"), re.DOTALL)
    result = json.loads(dumped[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))
    shown, requests = result["shown"], result["requests"]
    assert "user" in shown["first"]
    assert [{key: each[key] for key in each if key != "number"} for each in requests] == [
        {"do": "say", "text": "hello"},
        {"do": "strength", "side": "edit", "value": 0.5},
        {"do": "save", "side": "edit"},
        {"do": "clear"},
    ]
    assert len({each["number"] for each in requests}) == 4
    assert (shown["emptied"], shown["waits"], shown["partial"]) == ("", ["later", True, True], True)
    assert (shown["strength"], shown["status"], shown["hidden"]) == ("0.50", "saved <i>", "none")
    assert shown["reading"] == EVIL
    assert all(shown["names"]), "every control has a name"
