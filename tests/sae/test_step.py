"""The hand-made gradients are autograd's, and the auxiliary loss reaches dead latents alone."""

import pytest
import torch

from interp.sae.step import Auxiliary, Weights, gradients


@pytest.fixture(params=[(40, 6, 3), (1100, 20, 5)], ids=["one chunk", "several chunks"])
def problem(request):
    """Weights away from their start (no zero bias, nothing tied), a batch, and k."""
    rows, d_sae, k = request.param
    torch.manual_seed(rows)
    start = Weights.initial(d_sae, 8, seed=0)
    weights = Weights(*(tensor + 0.3 * torch.randn_like(tensor) for tensor in start.tensors))
    return weights, torch.randn(rows, 8) + 0.5, k


def _slow(weights, x, k, aux):
    """The objective written densely, and autograd's gradients."""
    W_enc, b_enc, W_dec, b_dec = leaves = [tensor.clone().requires_grad_() for tensor in weights.tensors]
    pre = x @ W_enc.T + b_enc

    def decoded(scores, number):
        chosen = scores.topk(number, dim=1)
        return torch.zeros_like(pre).scatter(1, chosen.indices, chosen.values.relu()) @ W_dec

    error = x - decoded(pre, k) - b_dec
    loss = error.square().sum() / (x - x.mean(0)).square().sum()
    if aux:
        living = torch.ones(len(b_enc)).index_fill(0, aux.dead, 0).bool()
        target = error.detach()
        missed = target - decoded(pre.masked_fill(living, -torch.inf), min(aux.k, len(aux.dead)))
        loss = loss + aux.weight * missed.square().sum() / target.square().sum()
    loss.backward()
    return loss.detach(), [leaf.grad for leaf in leaves]


@pytest.mark.parametrize(
    "aux", [None, Auxiliary(torch.tensor([1, 4, 5]), 2, 0.5), Auxiliary(torch.tensor([0]), 9, 2.0)]
)
def test_gradients_are_those_of_autograd(problem, aux):
    weights, x, k = problem
    step = gradients(weights, x, k, aux)
    loss, expected = _slow(weights, x, k, aux)
    assert torch.allclose(step.loss, loss, rtol=1e-5)
    for found, right in zip(step.gradients.tensors, expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-4, atol=1e-6 * float(right.abs().max()))


def test_the_auxiliary_loss_moves_dead_latents_alone(problem):
    weights, x, k = problem
    dead = torch.tensor([1, 4])
    plain, aided = gradients(weights, x, k), gradients(weights, x, k, Auxiliary(dead, 2, 1.0))
    living = torch.ones(len(weights.b_enc)).index_fill(0, dead, 0).bool()
    for name in ("W_enc", "b_enc", "W_dec"):
        difference = getattr(aided.gradients, name) - getattr(plain.gradients, name)
        assert not difference[living].any()
        assert difference[dead].flatten(1).abs().amax(1).min() > 0 if name != "b_enc" else difference[dead].all()
    assert aided.fvu == plain.fvu
    assert aided.loss > plain.loss


def test_firings_are_counted(problem):
    weights, x, k = problem
    pre = x @ weights.W_enc.T + weights.b_enc
    kth = pre.topk(k).values[:, -1:]
    assert torch.equal(gradients(weights, x, k).fired, ((pre >= kth) & (pre > 0)).sum(0))


def test_bfloat16_products_keep_the_direction(problem):
    weights, x, k = problem
    exact, rough = gradients(weights, x, k), gradients(weights, x, k, compute=torch.bfloat16)
    for right, found in zip(exact.gradients.tensors, rough.gradients.tensors, strict=True):
        assert found.dtype == torch.float32
        assert torch.cosine_similarity(right.flatten(), found.flatten(), dim=0) > 0.99
