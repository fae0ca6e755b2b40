"""INLP stops when held-out rows are at chance."""

import pytest
import torch
from labelled_activations import data, fitted, moved
from sklearn.linear_model import LogisticRegression

from interp import InterpError
from interp.directions.methods.erasure import NothingToErase
from interp.directions.methods.nullspace_projection import inlp
from interp.directions.scores import auroc


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
