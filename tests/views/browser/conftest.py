"""A book of two autoencoders of a tiny model, with markup in a token, a label and a name; and Chromium."""

import shutil
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from browser_pages import EVIL
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import SparseAutoencoder
from interp.features import Book, FeatureLabel, ScanOptions, scan
from interp.sae import TopK

SITE = "resid_post.1"


def autoencoder(model, rows, seed):
    drawn = torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed))
    decoder = normalize(drawn, dim=1)
    place = one_site(32, SITE, model.reference)
    return SparseAutoencoder(decoder, torch.zeros(rows), decoder, torch.zeros(32), TopK(k=4), **place)


@pytest.fixture(scope="session")
def scanned(tiny, tmp_path_factory):
    model, folder = tiny("llama"), tmp_path_factory.mktemp("browsed")
    one, other = autoencoder(model, 40, 0), autoencoder(model, 24, 1)
    # Every second row of the other is one of the first, somewhat turned.
    decoder = torch.where((torch.arange(24) % 2 == 0)[:, None], one.W_dec[:24] + 0.1 * other.W_dec, other.W_dec)
    site = one_site(32, SITE, model.reference)
    other = SparseAutoencoder(decoder, torch.zeros(24), normalize(decoder, dim=1), torch.zeros(32), TopK(k=4), **site)
    saes = {"one": one, "other": other}
    for name, sae in saes.items():
        sae.save(folder / name)
    text = [" ".join(f"w{(7 * row + 3 * place * place) % 100 + 4}" for place in range(20)) for row in range(60)]
    options = ScanOptions(context=32, top=3, sampled=8, before=4, after=2, ablate=5)
    paths = {name: str(folder / name) for name in saes}
    book = scan(saes, model, folder / "book", options, texts=text, paths=paths)
    file = book.folder / "examples.parquet"
    table = pq.read_table(file)
    rows = table.to_pylist()
    worst = next(row for row in rows if (row["sae"], row["latent"]) == ("one", 3))
    worst["tokens"][worst["peak"]] = EVIL
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), file)
    return Book.open(book.folder)


@pytest.fixture
def book(scanned, tmp_path):
    """A copy of the book with labels, to be written to."""
    copied = Book.open(shutil.copytree(scanned.folder, tmp_path / "book"))
    words = {"verdict": "harmful", "note": EVIL, "rater": EVIL}
    copied.labels.add([FeatureLabel(sae="one", latent=3, text=EVIL, **words)])
    scores = {"detection": [0.75, 0.5, 0.875], "<b>": [0.5, 0.25, 1.0]}
    copied.labels.add([FeatureLabel(sae="other", latent=5, text="towns", verdict="benign", rater="ana", scores=scores)])
    return copied


@pytest.fixture(scope="session")
def chromium() -> Iterator[object]:
    """The system's Chromium, driven by Playwright."""
    playwright = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu", "--no-zygote"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A page of a fresh profile, and (in `problems`) what it complains of."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, reduced_motion="reduce")
    page = context.new_page()
    page.set_default_timeout(20_000)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda problem: page.problems.append(str(problem)))
    page.on("dialog", lambda dialog: page.problems.append(f"dialog {dialog.message}"))
    yield page
    context.close()
