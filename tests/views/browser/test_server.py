"""The local server: loopback only, labels that survive a kill, and a journey through its pages in Chromium."""

import gc
import os
import signal
import socket
import sys
from contextlib import contextmanager

import httpx
import pytest
from browser_pages import form

from interp import InterpError
from interp.features import Book, FeatureLabel
from interp.views import browse


@contextmanager
def served(book, model=None, port=0):
    """The address and the process of a server."""
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        gc.freeze()  # a collection here would end objects of the parent, some of which belong to its threads
        try:
            browse(book, model, port=port, ready=lambda address: os.write(writes, address.encode()))
        finally:
            os._exit(0)
    try:
        yield os.read(reads, 200).decode(), child
    finally:
        os.close(reads)
        os.close(writes)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def test_a_label_survives_a_kill_right_after_the_answer(book):
    with served(book) as (address, child):
        page = httpx.get(f"{address}latent/0/9")
        fields = form(page, text="kept", verdict="benign", rater="ana")
        answer = httpx.post(f"{address}latent/0/9", data=fields, headers={"origin": address.rstrip("/")})
        os.kill(child, signal.SIGKILL)
        assert answer.status_code == 303
    assert [x.text for x in Book.open(book.folder).labels.current("one", 9)] == ["kept"]


def test_only_this_machine_reaches_it_and_a_port_is_used_once(book):
    with served(book) as (address, _):
        port = int(address.rstrip("/").rpartition(":")[2])
        assert httpx.get(address).status_code == 200
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.2", port), timeout=1):
            pass
        with pytest.raises(InterpError, match=rf"port {port} is in use; give another one, or --port 0"):
            browse(book, port=port)
    with pytest.raises(InterpError, match="can't be used"):
        browse(book, port=70_000)


def test_without_the_extra(book, monkeypatch):
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    with pytest.raises(InterpError, match=r"pip install 'interp\[web\]'"):
        browse(book)


def test_a_journey_by_keyboard(book, tiny, page):
    with served(book, tiny("llama")) as (address, _):
        page.goto(address)
        page.keyboard.press("Tab")
        assert page.locator(":focus").inner_text() == "Skip to the content"
        assert page.locator(":focus").bounding_box()["x"] >= 0, "it is seen"
        page.keyboard.press("?")
        assert page.locator("dialog").is_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type("w40")
        page.keyboard.press("Enter")
        page.wait_for_url("**q=w40**")
        for key in "jjk":
            page.keyboard.press(key)
        row = page.locator("[data-row]").first
        assert row.evaluate("x => x === document.activeElement")
        assert row.evaluate("x => getComputedStyle(x).outlineStyle") == "solid"
        address_of_row = row.get_attribute("href")
        page.keyboard.press("Enter")
        page.wait_for_url(f"**{address_of_row}")
        page.goto(f"{address}latent/0/8")
        page.keyboard.press("j")
        page.wait_for_url("**/latent/0/9")
        page.fill("[name=text]", "towns </script>")
        page.fill("[name=rater]", "ana")
        page.check("[value=harmful]")
        page.click("text=Save the label")
        page.wait_for_url("**#labels")
        assert page.locator(".side").first.inner_text().startswith("harmful towns </script> by ana")
        for _ in range(100):  # by the page's script, which runs after it is loaded
            if remembered := page.locator("[name=rater]").input_value():
                break
            page.wait_for_timeout(50)
        assert remembered == "ana", "the name is remembered"
        page.evaluate("document.querySelector('[name=seen]').value = 0")
        page.click("text=Save the label")
        alert = page.locator("[role=alert]")
        alert.wait_for()
        for _ in range(100):  # the page scrolls after it is loaded
            if in_sight := 0 <= alert.bounding_box()["y"] < 900:
                break
            page.wait_for_timeout(50)
        assert in_sight, "what was not saved"
        assert page.problems.pop().endswith("409 (Conflict)")
        mark = page.locator("mark").first
        mark.hover()
        shown = "x => getComputedStyle(x, '::after').content"
        assert mark.evaluate(shown) == f'"{mark.get_attribute("data-value")}"'
        page.goto(f"{address}text")
        page.fill("textarea", "w5 w9 w44")
        page.locator("[data-panel]").nth(2).focus()
        assert page.locator(".panel:visible h3").inner_text().split() == ["Token", "2:", "w9"]
        page.goto(f"{address}steer/0/7")
        page.fill("textarea", "w5 w9")
        page.locator("[type=range]").fill("4")
        page.click("text=Reply twice")
        page.locator("[data-side=steered]:not(:empty)").wait_for()
        assert page.locator("[data-side=unedited]").inner_text() != ""
        assert page.problems == []


def test_a_label_that_was_typed_is_not_lost_with_the_server(book, page):
    with served(book) as (address, _):
        page.goto(f"{address}latent/0/9")
    page.fill("[name=text]", "rivers </b>")
    page.fill("[name=rater]", "ana")
    page.click("text=Save the label")
    alert = page.locator("[role=alert]")
    alert.wait_for()
    port = int(address.split(":")[-1].strip("/"))
    assert alert.inner_text().startswith(f"Not saved: interp browse does not answer; start it again with --port {port}")
    assert page.locator("[name=text]").input_value() == "rivers </b>"
    page.click("button:text('Try again')")
    page.wait_for_function("document.querySelector('.label-form button').disabled === false")
    assert (alert.count(), book.labels.current("one", 9)) == (1, [])
    with served(book, port=port):  # another server, whose forms have another token
        page.click("button:text('Try again')")
        page.locator(".side").wait_for()
        assert page.locator(".side").first.inner_text().startswith("unsure rivers </b> by ana")
        assert alert.count() == 0
    assert [x.text for x in Book.open(book.folder).labels.current("one", 9)] == ["rivers </b>"]
    assert any("Forbidden" in problem for problem in page.problems), "control: the first token was refused"


def test_no_page_is_wider_than_a_phone_and_colours_follow_the_theme(book, chromium):
    book.labels.add([FeatureLabel(sae="one", latent=4, text="W" * 400, rater="w" * 100, note="W" * 900)])
    with served(book) as (address, _):
        papers = {}
        for scheme in ("light", "dark"):
            context = chromium.new_context(viewport={"width": 390, "height": 844}, color_scheme=scheme)
            page = context.new_page()
            for name in ("", "latent/0/3", "compare"):
                page.goto(address + name)
                assert page.evaluate("document.documentElement.scrollWidth") == 390, name
            page.goto(address)
            table = page.locator(".scroll").first
            assert table.evaluate("x => x.scrollWidth <= x.clientWidth"), "a long word of a label is broken"
            papers[scheme] = page.evaluate("getComputedStyle(document.body).backgroundColor")
            context.close()
        assert papers == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 23, 28)"}
