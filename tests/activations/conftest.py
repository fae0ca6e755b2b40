"""A store that the tests of reading share, and a copy of it to damage."""

import random

import pytest

from interp.activations.harvester import harvest

SITE = "resid_post.1"


@pytest.fixture(scope="session")
def stored(tiny, tmp_path_factory):
    draw = random.Random(0)
    corpus = [" ".join(f"w{draw.randint(4, 127)}" for _ in range(draw.randint(0, 40))) for _ in range(150)]
    out = tmp_path_factory.mktemp("stores") / "store"
    return harvest(tiny("llama"), corpus, [SITE, "embed"], out, context=32, shard_tokens=512)


@pytest.fixture
def copy(stored, tmp_path):
    """The store in a folder of its own, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in stored.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
