"""The GPU's kernels do what the CPU's embedding bags do; without a GPU, through Triton's interpreter."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton", reason="Triton is for Linux alone")

_COMPARE = """
import torch
from interp.sae import code
from interp.sae.compiled import kernels
from interp.sae.config import SaeConfig
from interp.sae.training.gradients import Auxiliary, Objective, Weights, gradients

device = "cuda" if torch.cuda.is_available() else "cpu"
torch.manual_seed(0)


def close(found, right, tolerance):
    torch.testing.assert_close(found.float().cpu(), right.float().cpu(), atol=tolerance, rtol=tolerance)


for width, dtype, tolerance in ((8, torch.float32, 1e-5), (150, torch.float32, 1e-5), (200, torch.bfloat16, 2e-2)):
    rows = torch.randn(30, width, dtype=dtype, requires_grad=True)
    bags = torch.randint(0, 12, (90,)).sort().values
    bags = bags[bags != 5]  # an empty bag
    index, weights = torch.randint(0, 30, bags.shape), torch.randn(len(bags), dtype=dtype, requires_grad=True)
    along = torch.randn(12, width, dtype=dtype)
    leaves = [x.detach().to(device).requires_grad_() for x in (rows, weights)]
    right = code.bag_sums(rows, index, weights, bags, 12)
    found = kernels.triton_bag_sums(leaves[0], index.to(device), leaves[1], bags.to(device), 12)
    assert not right[5].any() and not found[5].any() and right.any()
    close(found, right, tolerance)
    right.backward(along)
    found.backward(along.to(device))
    close(leaves[0].grad, rows.grad, 4 * tolerance)
    close(leaves[1].grad, weights.grad, 20 * tolerance)

for kind, prefixes in (("topk", ()), ("batchtopk", (4, 9, 20)), ("gated", ())):
    weights = Weights.initial(SaeConfig(d_sae=20, kind=kind), 8).map(lambda x: x + 0.3 * torch.randn_like(x))
    weights.b_enc.sub_(2.5)
    x, aux = torch.randn(40, 8), Auxiliary(torch.tensor([1, 4, 5]), 2, 0.5)
    objective = Objective(kind, 3, 0.0 if kind != "gated" else 0.07, prefixes)
    plain = gradients(weights, x, objective, aux)
    used, code._has_kernels = code._has_kernels, lambda device: True
    there = weights.map(lambda x: x.to(device))
    fast = gradients(there, x.to(device), objective, Auxiliary(aux.dead.to(device), 2, 0.5))
    code._has_kernels = used
    close(fast.loss, plain.loss, 1e-5)
    for one, other in zip(fast.gradients.tensors, plain.gradients.tensors, strict=True):
        close(one, other, 1e-4)
print("same")
"""


def test_kernels_do_what_embedding_bags_do():
    import torch

    # The interpreter has to be chosen before Triton is imported.
    environment = {} if torch.cuda.is_available() else {"TRITON_INTERPRET": "1"}
    words, settings = [sys.executable, "-c", _COMPARE], os.environ | environment
    printed = subprocess.run(words, env=settings, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "same"
