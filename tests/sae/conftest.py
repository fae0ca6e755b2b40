"""A store of activations made of known directions: what training finds can be told right from wrong."""

import pytest
import torch
from planted import write_store
from torch.nn.functional import normalize


@pytest.fixture(scope="session")
def dictionary():
    """64 directions in 32 dimensions."""
    return normalize(torch.randn(64, 32, generator=torch.Generator().manual_seed(7)), dim=1)


@pytest.fixture(scope="session")
def activations(dictionary):
    """Sums of three of the directions, of lengths from 1 to 2."""
    generator = torch.Generator().manual_seed(1)
    chosen = torch.rand(16384, 64, generator=generator).topk(3).indices
    lengths = 1 + torch.rand(16384, 3, generator=generator)
    return torch.zeros(16384, 64).scatter(1, chosen, lengths) @ dictionary


@pytest.fixture(scope="session")
def planted(activations, tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("planted") / "store", activations)
