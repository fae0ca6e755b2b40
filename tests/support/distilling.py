"""Texts and a gated recipe for the tests of distillation."""

import torch

from interp import Add, Recipe
from interp.interventions.gate import Gate, Reads

TEXTS = [
    " ".join(f"w{n}" for n in torch.randint(4, 128, (14,), generator=torch.Generator().manual_seed(seed)).tolist())
    for seed in range(400)
]
FRESH = [" ".join(reversed(text.split())) for text in TEXTS[:32]]  # neither trained on nor held out
QUICK = {"rank": 2, "steps": 3, "batch_size": 4}


def row(seed):
    return torch.nn.functional.normalize(torch.randn(32, generator=torch.Generator().manual_seed(seed)), dim=0)


def gated(model, site="resid_post.1"):
    """A vector added where the stream points along another: at about half of all tokens."""
    return Recipe([(site, Gate(Add(3.0 * row(1)), Reads(row(2), 0.0), per="token"))], model.reference)


def kl(p, q):
    p, q = p.double().log_softmax(-1), q.double().log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())
