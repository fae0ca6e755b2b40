"""The pages as files: every link leads to a file, nothing is asked of a network, and Chromium opens them from disk."""

import re
from pathlib import Path

import pytest
from browser_pages import EVIL, Elements

from interp import InterpError
from interp.views import export_pages


@pytest.fixture(scope="module")
def folder(scanned, tmp_path_factory):
    place = tmp_path_factory.mktemp("static")
    (place / "graph.html").write_text("<p>a graph</p>")
    count = export_pages(scanned, place / "pages", links=[place / "graph.html"])
    assert count == len(list((place / "pages").glob("*.html")))
    return place / "pages"


def test_every_link_leads_to_a_file_and_there_are_no_forms(folder):
    reached, waiting = set(), ["index.html"]
    while waiting:
        name = waiting.pop()
        if name in reached:
            continue
        reached.add(name)
        for tag, values in Elements((folder / name).read_text()).elements if name.endswith(".html") else ():
            assert tag != "form" or values == {"method": "dialog"}
            assert tag not in ("iframe", "img", "object", "embed", "base")
            for link in filter(None, (values.get("href"), values.get("src"))):
                if link != "data:," and not link.startswith("#"):
                    assert re.fullmatch(r"[a-z0-9.-]+", link), link
                    waiting.append(link)
    assert reached == {path.name for path in folder.iterdir()}
    assert {"latent-0-39.html", "latent-1-23.html", "compare-0-1.html", "link-0.html"} <= reached
    for path in folder.iterdir():
        assert not re.search(r"https?://|@import|url\(", path.read_text()), path
        assert path.stat().st_size < 300_000


def test_the_pages_have_what_the_book_has(folder, scanned):
    page = Elements((folder / "latent-0-3.html").read_text())
    for x in scanned.examples(3, "one"):
        if EVIL not in x["tokens"]:
            assert "".join(x["tokens"]) in page.words
    assert "⟨U+202E⟩" in page.words
    assert "\u202e" not in page.words
    numbers = re.findall(r'href="latent-(\d)-(\d+).html" data-row', (folder / "latents-2-latent-1.html").read_text())
    assert numbers == [("1", str(n)) for n in range(24)]


def test_what_cannot_be_written(scanned, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    with pytest.raises(InterpError, match="exists already"):
        export_pages(scanned, tmp_path / "taken")
    with pytest.raises(InterpError, match="is no HTML file"):
        export_pages(scanned, tmp_path / "pages", links=["no.html"])
    assert not (tmp_path / "pages").exists()
    export_pages(scanned, tmp_path / "pages", autoencoders={"one": str(tmp_path)})
    assert "one and other are not compared" in capsys.readouterr().err
    assert not list((tmp_path / "pages").glob("compare-*"))
    assert "Compare" not in (tmp_path / "pages" / "index.html").read_text()


def test_chromium_opens_it_from_disk(folder, page):
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((Path(folder) / "index.html").as_uri())
    page.keyboard.press("j")
    page.keyboard.press("Enter")
    page.wait_for_url("**/latent-0-0.html")
    assert page.evaluate("getComputedStyle(document.querySelector('.token')).unicodeBidi") == "isolate", "it is styled"
    page.keyboard.press("j")
    page.wait_for_url("**/latent-0-1.html")
    page.keyboard.press("?")
    assert page.locator("dialog").is_visible()
    assert page.problems == []
    assert asked
    assert all(url.startswith("file://") or url == "data:," for url in asked)
