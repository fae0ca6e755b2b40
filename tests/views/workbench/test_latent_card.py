"""A latent's page in a notebook is what its book has, in text that cannot act."""

import dataclasses
import random
from xml.etree import ElementTree

import pytest
from sae_samples import autoencoder

from interp import InterpError
from interp.features import Book, FeatureLabel, ScanOptions, scan
from interp.views import feature

EVIL = "</script><b>'&\u2028\u202e"


@pytest.fixture(scope="module")
def scanned(tiny, tmp_path_factory):
    rng = random.Random(0)
    corpus = [" ".join(f"w{rng.randint(4, 60)}" for _ in range(30)) for _ in range(30)]
    options = ScanOptions(context=32, top=3, sampled=8, before=4, after=2)
    saes = {"top": autoencoder(tiny("llama")), "other": autoencoder(tiny("llama"))}
    return scan(saes, tiny("llama"), tmp_path_factory.mktemp("b") / "book", options, texts=corpus)


@pytest.fixture
def book(scanned):
    yield scanned
    scanned.labels.file.unlink(missing_ok=True)


def test_it_has_what_the_book_has(book):
    book.labels.add([FeatureLabel(sae="top", latent=4, text="numbers", verdict="benign", note="of all", rater="ana")])
    shown = feature(book, "Numbers", sae="top")
    assert (shown.page, shown.labels[0].rater) == (book.feature(4, "top"), "ana")
    root = ElementTree.fromstring(f"<body>{shown._repr_html_()}</body>")
    text = "".join(root.itertext())
    row = book.latents("sae = 'top' AND latent = 4")[0]
    for wanted in ("numbers", "benign", "of all", f"{row['count']:,}", f"{row['cofiring'][0]['latent']} ("):
        assert wanted in text
    sampled = [x for x in book.examples(4, "top") if x["kind"] != "top"]
    titles = [div.text for div in root.find("details") if (div.text or "").startswith("quarter")]
    assert titles == [x["kind"] for x in sampled]
    assert titles
    assert feature(str(book.folder), 5, "top").labels == []
    assert "numbers" not in feature(Book.open(book.folder), 5, "top")._repr_html_(), "control"
    assert "numbers" in repr(shown)


def test_markup_in_labels_and_tokens_is_text(book):
    book.labels.add([FeatureLabel(sae="top", latent=4, text=EVIL, note=EVIL, rater=EVIL)])
    shown = feature(book, 4, "top")
    examples = [x | {"tokens": [EVIL] * len(x["tokens"])} for x in shown.examples]
    html = dataclasses.replace(shown, examples=examples)._repr_html_()
    root = ElementTree.fromstring(f"<body>{html}</body>")
    assert not root.findall(".//b")
    assert not root.findall(".//script")
    assert "\u202e" not in html
    assert html.count("&lt;/script&gt;") > 3


def test_what_is_not_there_is_said(book, tmp_path):
    book.labels.add([FeatureLabel(sae="top", latent=each, text="both", rater="ana") for each in (1, 2)])
    for latent, sae, problem in (
        (99, "top", "latent 99 does not exist; autoencoder top has latents 0 to 39"),
        ("kind", "top", "no latent of top has the label 'kind'"),
        ("both", "top", "2 latents have the label 'both'; give one: 1, 2"),
        (3, None, "the book has 2 autoencoders; name one: other, top"),
        (3, "tops", "did you mean top"),
    ):
        with pytest.raises(InterpError, match=problem):
            feature(book, latent, sae)
    with pytest.raises(InterpError, match="is no feature book"):
        feature(tmp_path / "none", 3)
