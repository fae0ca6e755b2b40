"""The Python code of README and of the pages under docs runs: all blocks of a page, from the top, in one namespace.

Each page has an empty folder. A block with a title (```yaml title="harm.yaml") is a file that the reader writes, and is
written there. `my-model` and `my-sae` stand for what the reader has.
"""

import re
from pathlib import Path

import pytest
import torch
from sae_samples import draw
from tiny_models import one_site
from torch.nn.functional import normalize

import interp
from interp import organism
from interp.sae import TopK, write_autoencoder

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r'^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
FILES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
TEXTS = {page: page.read_text(encoding="utf-8") for page in FILES}
PAGES = [page for page, text in TEXTS.items() if "```python" in text]
EXTRAS = {"inspect": "inspect_ai", "lm_eval": "lm_eval"}  # the package that a page is about
LONGEST = 22  # lines of code in a block: a page shows a task, not a program


def run(page: Path) -> None:
    """Write the titled blocks of a page into the working directory, and run the Python blocks."""
    text, names = page.read_text(encoding="utf-8"), {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        language, title, source = block.groups()
        if title:
            Path(title).write_text(source, encoding="utf-8")
        elif language == "python":
            above = "\n" * text.count("\n", 0, block.start(3))  # so that a traceback has the page's line numbers
            exec(compile(above + source, str(page), "exec"), names)


@pytest.fixture(scope="session")
def autoencoder(tmp_path_factory):
    """An autoencoder of the organism in SAELens' files."""
    reference, folder = interp.load("organism").reference, tmp_path_factory.mktemp("saelens") / "sae"
    width, rows = reference.d_model, normalize(draw(24, reference.d_model), dim=1)
    place = one_site(width, "resid_post.3", reference)
    sae = interp.SparseAutoencoder(rows, torch.zeros(24), rows, torch.zeros(width), TopK(k=4), **place)
    write_autoencoder(sae, folder, "saelens")
    return folder


@pytest.fixture(autouse=True)
def reader(tmp_path, monkeypatch, autoencoder):
    """A folder with what the reader has, as the working directory."""
    monkeypatch.chdir(tmp_path)
    Path("my-model").symlink_to(organism.path())
    Path("my-sae").symlink_to(autoencoder)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_code_of_a_page_runs(page):
    if page.stem in EXTRAS:
        pytest.importorskip(EXTRAS[page.stem], reason="an extra that dev does not have")
    run(page)


def test_every_task_has_code_of_moderate_length():
    tasks = {page for page in (ROOT / "docs" / "howto").glob("*.md") if page.stem != "command_line"}
    assert tasks <= set(PAGES)
    blocks = [block for text in TEXTS.values() for block in BLOCK.findall(text)]
    sources = [source for language, _, source in blocks if language == "python"]
    assert max(len(re.findall(r"^\s*[^\s#]", source, re.MULTILINE)) for source in sources) <= LONGEST


def test_code_that_fails_names_its_page_and_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text('Text.\n\n```json title="a.json"\n1\n```\n\n```python\nopen("a.json")\nabsent\n```\n')
    with pytest.raises(NameError) as failure:
        run(page)
    assert (failure.traceback[-1].path, failure.traceback[-1].lineno + 1) == (page, 9)
