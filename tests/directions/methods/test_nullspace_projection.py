"""INLP stops when held-out rows are at chance."""

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from interp import InterpError
from interp.directions.methods.erasure import ErasureFitter, NothingToErase
from interp.directions.methods.nullspace_projection import inlp
from interp.directions.scores import auroc


def data(n=400, d=8, classes=3, gap=3.0, seed=0, share=None, mixed=True):
    """Activations off the origin, correlated and of unlike scales if mixed, and classes that move them."""
    draw = torch.Generator().manual_seed(seed)
    mixing = torch.randn(d, d, generator=draw, dtype=torch.float64) * torch.logspace(-1, 1, d, dtype=torch.float64)
    mixing = mixing if mixed else torch.eye(d, dtype=torch.float64)
    odds = torch.ones(classes) if share is None else torch.tensor([1 - share, share])
    z = odds.multinomial(n, replacement=True, generator=draw)
    means = gap * torch.randn(classes, d, generator=draw, dtype=torch.float64)
    x = torch.randn(n, d, generator=draw, dtype=torch.float64)
    return (x + means[z]) @ mixing + 20, z


def fitted(x, z, classes=3):
    return ErasureFitter(x.shape[1], classes).update(x, z)


def moved(eraser, x):
    return float((eraser(x) - x).square().sum(1).mean())


def test_inlp_stops_when_held_out_rows_are_at_chance():
    x, z = data(n=4000, gap=1.0)
    eraser = inlp(x, z)
    torch.testing.assert_close(eraser.read @ eraser.read.T, torch.eye(len(eraser.read), dtype=torch.float64))
    assert eraser.statistics["p_after"] > 1e-3
    fresh, truth = eraser(x)[2000:], z[2000:]
    for c in range(3):
        probe = LogisticRegression(max_iter=5000).fit(eraser(x)[:2000].numpy(), (z[:2000] == c).numpy())
        control = LogisticRegression(max_iter=5000).fit(x[:2000].numpy(), (z[:2000] == c).numpy())
        read = torch.tensor(probe.decision_function(fresh.numpy()))
        before = torch.tensor(control.decision_function(x[2000:].numpy()))
        assert auroc(read[truth == c], read[truth != c]) < 0.6
        assert auroc(before[truth == c], before[truth != c]) > 0.7, "control"
    assert moved(eraser, x) >= moved(fitted(x, z).leace(), x)
    rare, few = data(n=8000, classes=2, share=0.01, gap=1.0)
    assert inlp(rare, few).statistics["auroc"] < 0.65
    with pytest.raises(NothingToErase, match="at chance"):
        inlp(x, z[torch.randperm(len(z), generator=torch.Generator().manual_seed(0))])
    with pytest.raises(InterpError, match="after 1 rounds held-out rows are still read"):
        inlp(*data(n=4000, d=30, gap=3.0), rounds=1, penalty=10.0)
