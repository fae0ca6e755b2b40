"""A small corpus, its store, two autoencoders, and a book of both."""

import random

import pytest
import torch
from sae_samples import autoencoder, draw
from tiny_models import one_site
from torch.nn.functional import normalize

from interp import SparseAutoencoder, harvest
from interp.features import ScanOptions, scan
from interp.sae import JumpReLU

SITE = "resid_post.1"
OPTIONS = ScanOptions(context=32, chunk=200, top=3, sampled=8, before=4, after=2, ablate=5)


def jump(model):
    return SparseAutoencoder(
        W_enc=draw(24, 32, seed=5),
        b_enc=torch.zeros(24),
        W_dec=normalize(draw(24, 32, seed=6), dim=1),
        b_dec=torch.zeros(32),
        nonlinearity=JumpReLU(),
        threshold=torch.full((24,), 4.0),
        **one_site(32, SITE, model.reference),
    )


@pytest.fixture(scope="session")
def corpus():
    rng = random.Random(0)
    return [" ".join(f"w{rng.randint(4, 60)}" for _ in range(rng.randint(0, 50))) for _ in range(60)]


@pytest.fixture(scope="session")
def saes(tiny):
    return {"top": autoencoder(tiny("llama")), "jump": jump(tiny("llama"))}


@pytest.fixture(scope="session")
def store(tiny, corpus, tmp_path_factory):
    return harvest(tiny("llama"), corpus, [SITE], tmp_path_factory.mktemp("s") / "store", context=32, shard_tokens=512)


@pytest.fixture(scope="session")
def scanned(tiny, corpus, saes, tmp_path_factory):
    return scan(saes, tiny("llama"), tmp_path_factory.mktemp("b") / "book", OPTIONS, texts=corpus)


@pytest.fixture
def book(scanned, tmp_path):
    """A copy of the book, to be written to."""
    import shutil

    from interp.features import Book

    return Book.open(shutil.copytree(scanned.folder, tmp_path / "book"))
