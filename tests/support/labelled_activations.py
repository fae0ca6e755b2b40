"""Activations with classes that move them, and what erasers of the classes are compared by."""

import torch

from interp.directions.methods.erasure import ErasureFitter


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
