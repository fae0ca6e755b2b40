"""Activations have unit scale in training, and a few massive tokens spoil neither scale nor training."""

import pytest
import torch
from planted import matched, sparse_codes, unit_rows, write_store

from interp.core.errors import InterpError
from interp.sae.config import SaeConfig
from interp.sae.training.standardisation import Standardisation
from interp.sae.training.trainer import train

QUICK = {"d_sae": 64, "k": 3, "batch_size": 256, "tokens": 120_000, "lr": 6e-3, "dead_after": 5_000}
OUT = "mlp_out.0"


def test_a_start_from_the_geometric_median_is_not_moved_by_outliers(tmp_path):
    x = torch.randn(8192, 16, generator=torch.Generator().manual_seed(0)) + 2
    x[::10] += 9
    store = write_store(tmp_path / "store", {OUT: x})
    quick = {"d_sae": 32, "k": 2, "batch_size": 1024, "tokens": 1024, "lr": 1e-9}
    mean, median = (train(store, OUT, SaeConfig(**quick, start=start)).sae.b_dec for start in ("mean", "median"))
    assert (median - 2).norm() < 1 < (mean - 2).norm()


def recovered(folder, x):
    """Share of the directions in activations that training finds."""
    return matched(train(write_store(folder, {OUT: x}), OUT, SaeConfig(**QUICK)).sae.W_dec, unit_rows(64, 24, 8))


@pytest.fixture(scope="module")
def usual(tmp_path_factory):
    """Activations without massive tokens, and what training finds in them."""
    x = sparse_codes() @ unit_rows(64, 24, 8)
    return x, recovered(tmp_path_factory.mktemp("usual") / "store", x)


@pytest.mark.parametrize("alike", [True, False])
def test_massive_tokens_do_not_spoil_training(tmp_path, usual, alike):
    """A few tokens, as attention sinks do, hold more variance than all others together."""
    usual, share = usual
    sinks = usual.clone()
    sinks[1::500] = 1000 * unit_rows(1, 24, 9) + sinks[1::500] if alike else 500 * sinks[1::500]
    assert sinks.var(0).sum() > 100 * usual.var(0).sum()
    assert recovered(tmp_path / "sinks", sinks) > share - 0.15 > 0.6


def test_standardised_activations_are_within_reach_and_keep_their_directions():
    x = torch.randn(4096, 24, generator=torch.Generator().manual_seed(0)) * 3 + 1
    plain = Standardisation.of([x], [8, 16])
    x[5, :8] *= 1000
    scaling = Standardisation.of([x], [8, 16])
    assert torch.allclose(scaling.scale, plain.scale, rtol=0.05)
    u, raw = scaling(x), (x - scaling.mean) * scaling.scale
    assert float(u[5, :8].norm()) == pytest.approx(10 * 8**0.5, rel=1e-4)
    assert torch.cosine_similarity(u[5, :8], raw[5, :8], dim=0) > 0.9999
    raw[5, :8] = u[5, :8]
    assert torch.equal(u, raw)  # nothing else is changed, the same token's other place included
    rare = torch.zeros(64, 8).index_fill(0, torch.tensor([3]), 1.0)
    assert Standardisation.of([rare]).scale.isfinite().all()  # where most tokens are one point


def test_constant_activations_teach_nothing():
    with pytest.raises(InterpError, match="constant"):
        Standardisation.of([torch.ones(8, 4)])
