"""The web application: what its pages show, what it refuses, labels that are not lost, texts typed to the model."""

import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from browser_pages import Elements, form
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from interp import Clamp, InterpError, Recipe, SparseAutoencoder
from interp.features import Book, FeatureLabel, ScanOptions, scan
from interp.features.latent_search import token_firings
from interp.views import compare
from interp.views.browser.application import book_application

ORIGIN = "http://127.0.0.1:8765"


def client(book, model=None, **options):
    return TestClient(book_application(book, model, port=8765, **options), base_url=ORIGIN, headers={"origin": ORIGIN})


def listed(page):
    return [(int(a), int(n)) for a, n in re.findall(r'href="/latent/(\d+)/(\d+)" data-row', page.text)]


def test_a_list_is_what_a_slow_filter_finds(book):
    browser, rows = client(book), book.latents()
    names, labels = list(book.card.autoencoders), book.labels.current()
    sizes = {"density": lambda x: -x["density"], "largest": lambda x: -x["largest"]}

    @settings(max_examples=12)
    @given(
        sae=st.sampled_from(["", *names]),
        sort=st.sampled_from(["latent", "density", "largest", "labelled"]),
        verdict=st.sampled_from(["", "any", "none", "harmful", "unsure"]),
        low=st.sampled_from([0, 5, 12.5]),
        word=st.sampled_from(["", "w40", "w4 "]),
    )
    def check(sae, sort, verdict, low, word):
        query = {"sae": sae, "sort": sort, "verdict": verdict, "low": low, "q": word}
        has = {(x.sae, x.latent) for x in labels if verdict in ("", "any", "none", x.verdict)}
        having = {(x["sae"], x["latent"]) for x in book.query("SELECT * FROM examples") if word in x["text"].lower()}
        expected = [
            (x["sae"], x["latent"])
            for x in rows
            if sae in ("", x["sae"]) and 100 * x["density"] >= low and (not word or (x["sae"], x["latent"]) in having)
            if not verdict or ((x["sae"], x["latent"]) in has) == (verdict != "none")
        ]
        pages = [browser.get("/", params=query | {"page": page}) for page in (1, 2)]
        found = [pair for page in pages[: 1 + ("page 1 of 2" in pages[0].text)] for pair in listed(page)]
        shown = [(names[number], latent) for number, latent in found]
        assert sorted(shown) == sorted(expected)
        by_key = {(x["sae"], x["latent"]): x for x in rows}
        if sort in sizes:
            assert [sizes[sort](by_key[x]) for x in shown] == sorted(sizes[sort](by_key[x]) for x in shown)
        if sort == "labelled":
            first = [x in {(y.sae, y.latent) for y in labels} for x in shown]
            assert first == sorted(first, reverse=True)

    check()


def test_searches_in_labels_and_promoted_tokens(book):
    browser = client(book)
    assert listed(browser.get("/", params={"q": "TOWN", "by": "label"})) == [(1, 5)]
    token = book.latents("sae = 'one' AND latent = 7")[0]["promoted"][0]["token"]
    assert (0, 7) in listed(browser.get("/", params={"q": token, "by": "token"}))
    nothing = browser.get("/", params={"q": "tows", "by": "label"})
    assert (nothing.status_code, "did you mean towns?" in nothing.text) == (400, True)


def test_a_latent_page_shows_what_the_book_has(book):
    page = client(book).get("/latent/1/5")
    row, examples = book.latents("sae = 'other' AND latent = 5")[0], book.examples(5, "other")
    parsed = Elements(page.text)
    assert page.text.count("<mark") == sum(value > 0 for x in examples for value in x["values"])
    for x in examples:
        assert "".join(x["tokens"]) in parsed.words
    for near in (*row["nearest_decoder"], *row["nearest_encoder"], *row["cofiring"]):
        assert ("a", {"href": f"/latent/1/{near['latent']}"}) in parsed.elements
    for word in (*row["promoted"], *row["suppressed"]):
        assert f"{word['effect']:+.3f}" in parsed.words
    counts = [int(n.replace(",", "")) for n in re.findall(r"<title>[^<]* to [^<]*: ([\d,]+)</title>", page.text)]
    assert sum(counts) == row["count"]
    assert (f"{row['ablation']:+.4f}" in parsed.words) if row["ablation"] is not None else "nats" not in parsed.words
    assert "towns" in parsed.words
    assert "detection 0.75 [0.50, 0.88]; <b> 0.50 [0.25, 1.00]" in " ".join(parsed.words.split())
    assert len(page.content) < 300_000


def test_what_models_and_people_wrote_is_text(book):
    browser = client(book)
    pages = [browser.get(x) for x in ("/latent/0/3", "/", "/compare")]
    for page in pages:
        parsed = Elements(page.text)
        assert [x for x in parsed.elements if x[0] in ("img", "script") or any(k.startswith("on") for k in x[1])] == [
            ("script", {"src": "/browser.js", "defer": None})
        ]
        assert not {"\u2028", "\u202e"} & set(page.text)
    assert "⟨U+2028⟩⟨U+202E⟩a" in Elements(pages[0].text).words
    assert "onerror" in Elements(pages[0].text).words, "control: it is shown"


@pytest.mark.parametrize(
    ("method", "address", "headers", "fields", "status"),
    [
        ("GET", "/", {}, None, 200),
        ("GET", "/", {"host": "localhost:8765", "origin": "http://localhost:8765"}, None, 200),
        ("GET", "/", {"host": "evil.example"}, None, 421),
        ("GET", "/", {"host": "127.0.0.1:8766"}, None, 421),
        ("GET", "/", {"host": "127.0.0.1"}, None, 421),
        ("GET", "/", {"origin": "http://evil.example"}, None, 403),
        ("GET", "/", {"origin": "null"}, None, 403),
        ("POST", "/latent/0/1", {}, {}, 303),
        ("POST", "/latent/0/1", {"origin": ""}, {}, 403),
        ("POST", "/latent/0/1", {"origin": "https://127.0.0.1:8765"}, {}, 403),
        ("POST", "/latent/0/1", {"origin": "http://127.0.0.1:8765.evil.example"}, {}, 403),
        ("POST", "/latent/0/1", {}, {"token": "guess"}, 403),
        ("POST", "/latent/0/1", {}, {"token": "é"}, 403),
        ("POST", "/latent/0/1", {}, {"note": "x" * 100_000}, 413),
        ("POST", "/latent/0/1", {}, {"verdict": "bad"}, 400),
        ("POST", "/latent/0/1", {}, {"text": "x" * 501}, 400),
        ("POST", "/latent/0/40", {}, {}, 404),
        ("GET", "/latent/2/0", {}, None, 404),
        ("GET", "/latent/0/x", {}, None, 404),
        ("GET", "/..%2fbook.json", {}, None, 404),
        ("GET", "/?sae=two", {}, None, 400),
        ("GET", "/?low=nan", {}, None, 400),
        ("GET", "/?by=SELECT", {}, None, 400),
        ("GET", "/compare?second=2", {}, None, 400),
        ("POST", "/", {}, {}, 405),
    ],
)
def test_what_is_refused(book, method, address, headers, fields, status):
    browser, before = client(book), len(book.labels.all())
    page = browser.get("/latent/0/1")
    sent = None if fields is None else form(page, text="new", verdict="unsure", rater="ben") | fields
    answer = browser.request(method, address, headers=headers, data=sent, follow_redirects=False)
    assert answer.status_code == status
    assert len(book.labels.all()) == before + (status == 303)
    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_two_tabs_do_not_overwrite_each_other_silently(book):
    browser = client(book)
    first, second = browser.get("/latent/0/1"), browser.get("/latent/0/1")
    assert browser.post("/latent/0/1", data=form(first, text="rivers", rater="ana")).status_code == 200
    conflict = browser.post("/latent/0/1", data=form(second, text="streams", rater="ana"))
    assert (conflict.status_code, "rivers" in conflict.text, "streams" in conflict.text) == (409, True, True)
    assert [x.text for x in book.labels.current("one", 1)] == ["rivers"]
    assert browser.post("/latent/0/1", data=form(second, text="streams", rater="ben")).status_code == 200, "control"
    again = browser.post("/latent/0/1", data=form(conflict, text="streams", rater="ana"))
    assert again.status_code == 200
    assert {x.rater: x.text for x in book.labels.current("one", 1)} == {"ana": "streams", "ben": "streams"}
    book.labels.add([FeatureLabel(sae="one", latent=1, text="from elsewhere", rater="ana")])
    late = browser.post("/latent/0/1", data=form(again, text="x", rater="ana"))
    assert (late.status_code, "from elsewhere" in late.text) == (409, True)
    assert "from elsewhere" in browser.get("/").text


def test_a_text_is_shown_with_what_fires(book, tiny):
    model = tiny("llama")
    browser = client(book, model)
    answer = browser.post("/text", data=form(browser.get("/text"), text="w5 w9 w44"))
    coders = {name: SparseAutoencoder.load(x.path, model.reference) for name, x in book.card.autoencoders.items()}
    fired = token_firings(book.card, coders, model, "w5 w9 w44")
    names = list(coders)
    for at, (_, firings) in enumerate(fired):
        panel = answer.text.partition(f'id="token-{at}" data-panels')[2].partition("</section>")[0]
        shown = re.findall(r'href="/latent/(\d+)/(\d+)">\d+</a> <span class="number">([^<]+)<', panel)
        assert [(names[int(a)], int(n), value) for a, n, value in shown] == [
            (sae, latent, f"{value:.3g}") for sae, latent, value in firings[:8]
        ]
    assert any(firings for _, firings in fired), "control"
    for text, message in [("", "2 to"), ("w5 " * 2000, "at most"), ("w5 w9 unknownword", "does not know")]:
        answer = browser.post("/text", data=form(browser.get("/text"), text=text))
        assert (answer.status_code, message in answer.text) == (400, True), answer.text


def test_replies_grow_to_those_of_generate(book, tiny):
    model = tiny("llama")
    browser = client(book, model)
    page = browser.get("/steer/0/7")
    answer = browser.post("/steer/0/7", data=form(page, text="w5 w9", times=3, new_tokens=6))
    events = [json.loads(line) for line in answer.text.splitlines()]
    largest = book.latents("sae = 'one' AND latent = 7")[0]["largest"]
    sae = SparseAutoencoder.load(book.card.autoencoders["one"].path, model.reference)
    recipe = Recipe([("resid_post.1", Clamp(sae, 7, 3 * largest))], model.reference)
    expected = {
        side: model.generate("w5 w9", edit, 6, chat=True)[0]
        for side, edit in {"unedited": (), "steered": recipe}.items()
    }
    assert dict(events) == expected
    assert expected["unedited"] != expected["steered"], "control"
    for side in ("unedited", "steered"):
        texts = [text for name, text in events if name == side]
        assert len(set(texts)) > 2, "it is streamed"
    for fields, status in [({"times": "nan"}, 400), ({"new_tokens": 1000}, 400)]:
        assert browser.post("/steer/0/7", data=form(page, text="w5") | fields).status_code == status
    failed = browser.post("/steer/0/7", data=form(page, text="w5 " * 900, new_tokens=4))
    assert json.loads(failed.text.splitlines()[-1])[0] == "error"


def test_without_a_model_and_with_another_one(book, tiny):
    browser = client(book)
    page = browser.get("/latent/0/1")
    answer = browser.post("/text", data=form(page, text="w5"))
    assert (answer.status_code, "--model" in answer.text, '/text"' in page.text) == (400, True, False)
    with pytest.raises(InterpError, match="this book"):
        client(book, tiny("llama", seed=1))


def test_a_comparison_is_what_a_plain_loop_finds(book, tmp_path, scanned):
    book.labels.add([FeatureLabel(sae="other", latent=4, text=text, rater=text) for text in ("rivers", "mills")])
    page = client(book).get("/compare", params={"least": 0.9})
    assert ("mills; rivers" in page.text, "towns; " in page.text) == (True, False), "what all raters say"
    rows = [SparseAutoencoder.load(book.card.autoencoders[x].path).W_dec for x in ("one", "other")]
    cosine = torch.nn.functional.cosine_similarity(rows[0][:, None], rows[1][None], dim=2)
    pairs = {
        (a, b)
        for a in range(40)
        for b in range(24)
        if cosine[a, b] >= 0.9 and cosine[a].argmax() == b and cosine[:, b].argmax() == a
    }
    cells = re.findall(
        r'<td class="number">0\.\d+</td><td><a href="/latent/0/(\d+)".*?<a href="/latent/1/(\d+)"', page.text
    )
    assert {(int(a), int(b)) for a, b in cells} == pairs == {(n, n) for n in range(0, 24, 2)}
    alone = [int((cosine.amax(side) < 0.9).sum()) for side in (1, 0)]
    text = " ".join(Elements(page.text).words.split())
    assert f"{len(pairs)} pairs" in text
    assert f"{alone[0]} of 40 in one, {alone[1]} of 24 in other." in text
    beside = client(book, beside=[scanned]).get("/compare", params={"first": 0, "second": 2})
    assert "40 pairs" in " ".join(Elements(beside.text).words.split()), "an autoencoder is like itself"
    moved = client(book, autoencoders={"one": str(tmp_path)}).get("/compare")
    assert (moved.status_code, "--sae one=FOLDER" in moved.text) == (400, True)
    other = client(book, autoencoders={"one": book.card.autoencoders["other"].path}).get("/compare")
    assert (other.status_code, "not of this autoencoder" in other.text) == (400, True)
    with pytest.raises(InterpError, match="autoencoder 'on' is not in the book; did you mean one"):
        client(book, autoencoders={"on": "x"})


def silenced(book, sae, latents):
    """The book, as if some latents had never fired."""
    file = book.folder / "latents.parquet"
    table = pq.read_table(file)
    rows = [
        row | {"count": 0, "density": 0.0, "largest": 0.0, "histogram": [0] * len(row["histogram"])}
        if row["sae"] == sae and row["latent"] in latents else row
        for row in table.to_pylist()
    ]  # fmt: skip
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    return Book.open(book.folder)


def test_silent_latents_are_left_out_of_a_comparison_as_in_a_notebook(book):
    one, other = (SparseAutoencoder.load(book.card.autoencoders[x].path).W_dec for x in ("one", "other"))
    cosine = torch.nn.functional.cosine_similarity(one[:, None], other[None], dim=2)
    whole = compare((book, "one"), (book, "other"), least=0.0)
    silent = {first for first, _, value in whole.shared if value > 0.9}
    book = silenced(book, "one", silent)
    fires = torch.tensor([n not in silent for n in range(40)])
    cosine[~fires] = -1
    pairs = {
        (a, b): float(cosine[a, b])
        for a in range(40)
        for b in range(24)
        if cosine[a, b] >= 0 and cosine[a].argmax() == b and cosine[:, b].argmax() == a
    }
    difference = compare((book, "one"), (book, "other"), least=0.0)
    assert {pair[:2]: pair[2] for pair in difference.shared} == pytest.approx(pairs)
    assert len(pairs) > len(whole.shared) - len(silent), "control: latents whose nearest is silent find another one"
    page = client(book).get("/compare", params={"least": 0.3})
    difference = compare((book, "one"), (book, "other"), least=0.3)
    text = " ".join(Elements(page.text).words.split())
    sizes = [f"{len(alone)} of {fire} in" for alone, fire in zip(difference.alone, (40 - len(silent), 24), strict=True)]
    assert f"{len(difference.shared)} pairs" in text
    assert all(size in text for size in sizes), text


def test_a_silent_latent_is_not_steered_with(book, tiny):
    browser = client(silenced(book, "one", {7}), tiny("llama"))
    page, loud = (Elements(browser.get(f"/latent/0/{latent}").text) for latent in (7, 8))
    assert ("a", {"class": "button", "href": "/steer/0/8"}) in loud.elements, "control"
    assert ("button", {"type": "button", "disabled": None}) in page.elements
    assert "no largest activation" in page.words
    assert not any("steer" in (values.get("href") or "") for _, values in page.elements)
    sent = form(browser.get("/steer/0/8"), text="w5")
    for answer in (browser.get("/steer/0/7"), browser.post("/steer/0/7", data=sent)):
        assert (answer.status_code, "latent 7 never fired" in answer.text) == (400, True)


def test_a_page_behind_the_last_is_the_last(book):
    browser = client(book)
    last, behind, first = (browser.get("/", params={"page": page}) for page in (2, 999, 1))
    assert "page 2 of 2" in behind.text
    assert listed(behind) == listed(last) != listed(first)
    assert len(listed(behind)) == 64 - 50


def test_one_autoencoder_has_nothing_to_be_compared_with(tmp_path, tiny, scanned):
    model = tiny("llama")
    sae = SparseAutoencoder.load(scanned.card.autoencoders["one"].path, model)
    book = scan(sae, model, tmp_path / "book", ScanOptions(context=32), texts=["w5 w9 w44 w7"] * 3)
    answer = client(book).get("/compare")
    assert (answer.status_code, "give interp browse another book with --beside" in answer.text) == (400, True)


@pytest.mark.parametrize(
    ("fields", "status", "problem"),
    [
        ({"text": "é" * 501}, 400, "at most 500 characters"),
        ({"text": "kept </b>", "verdict": "bad"}, 400, "verdict"),
        ({"text": "kept </b>", "token": "of an earlier run"}, 403, "earlier run"),
    ],
)
def test_what_was_typed_stays_in_the_form(book, fields, status, problem):
    browser, before = client(book), len(book.labels.all())
    sent = form(browser.get("/latent/0/1"), note="and </textarea> this", rater="ben") | fields
    answer = browser.post("/latent/0/1", data=sent)
    parsed = Elements(answer.text)
    assert (answer.status_code, problem in parsed.words, len(book.labels.all())) == (status, True, before)
    typed = {values["name"]: values.get("value") for tag, values in parsed.elements if tag == "input"}
    assert (typed["text"], typed["rater"]) == (fields["text"], "ben")
    assert "and </textarea> this" in parsed.words
    again = browser.post("/latent/0/1", data=form(answer, text="short", rater="ben", verdict="unsure"))
    assert (again.status_code, book.labels.current("one", 1)[0].text) == (200, "short")


def test_linked_pages_are_apart(book, tmp_path):
    (tmp_path / "graph.html").write_text("<script>1</script>")
    browser = client(book, links=[tmp_path / "graph.html"])
    assert '<a href="/link/0">graph.html</a>' in browser.get("/").text
    answer = browser.get("/link/0")
    assert answer.text == "<script>1</script>"
    assert answer.headers["content-security-policy"].startswith("sandbox allow-scripts; default-src 'none'")
    assert browser.get("/link/1").status_code == 404
    for name in ("no.html", "book.json"):
        with pytest.raises(InterpError, match="is no HTML file"):
            client(book, links=[tmp_path / name])


def test_a_damaged_book_says_so(book):
    (book.folder / "examples.parquet").write_bytes(b"x")
    with pytest.raises(InterpError, match="damaged"):
        client(Book.open(book.folder))
