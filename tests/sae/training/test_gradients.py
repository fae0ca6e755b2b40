"""The hand-made gradients are autograd's, and the auxiliary loss reaches dead latents alone."""

import pytest
import torch

from interp.sae.config import SaeConfig
from interp.sae.training.gradients import Auxiliary, Objective, Weights, gradients
from interp.sae.training.kinds import BANDWIDTH, KINDS


@pytest.fixture(params=[(40, 6, 3), (1100, 20, 5)], ids=["one chunk", "several chunks"])
def problem(request):
    """Weights away from their start (no zero bias, nothing tied), a batch, and k."""
    rows, d_sae, k = request.param
    torch.manual_seed(rows)
    start = Weights.initial(SaeConfig(d_sae=d_sae), 8)
    weights = start.map(lambda x: x + 0.3 * torch.randn_like(x))
    return weights, torch.randn(rows, 8) + 0.5, k


def _slow(weights, x, k, aux):
    """The objective written densely, and autograd's gradients."""
    W_enc, b_enc, W_dec, b_dec = leaves = [tensor.clone().requires_grad_() for tensor in weights.tensors]
    pre = (x - b_dec) @ W_enc.T + b_enc

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
    step = gradients(weights, x, Objective(k=k), aux)
    loss, expected = _slow(weights, x, k, aux)
    assert torch.allclose(step.loss, loss, rtol=1e-5)
    for found, right in zip(step.gradients.tensors, expected, strict=True):
        assert torch.allclose(found, right, rtol=1e-4, atol=1e-6 * float(right.abs().max()))


def test_the_auxiliary_loss_moves_dead_latents_alone(problem):
    weights, x, k = problem
    dead = torch.tensor([1, 4])
    plain, aided = gradients(weights, x, Objective(k=k)), gradients(weights, x, Objective(k=k), Auxiliary(dead, 2, 1.0))
    living = torch.ones(len(weights.b_enc)).index_fill(0, dead, 0).bool()
    for name in ("W_enc", "b_enc", "W_dec"):
        difference = getattr(aided.gradients, name) - getattr(plain.gradients, name)
        assert not difference[living].any()
        assert difference[dead].flatten(1).abs().amax(1).min() > 0 if name != "b_enc" else difference[dead].all()
    assert aided.fvu == plain.fvu
    assert aided.loss > plain.loss


def test_firings_are_counted(problem):
    weights, x, k = problem
    pre = (x - weights.b_dec) @ weights.W_enc.T + weights.b_enc
    kth = pre.topk(k).values[:, -1:]
    assert torch.equal(gradients(weights, x, Objective(k=k)).fired, ((pre >= kth) & (pre > 0)).sum(0))


def test_bfloat16_products_keep_the_direction(problem):
    weights, x, k = problem
    exact, rough = (gradients(weights, x, Objective(k=k, compute=kind)) for kind in (torch.float32, torch.bfloat16))
    for right, found in zip(exact.gradients.tensors, rough.gradients.tensors, strict=True):
        assert found.dtype == torch.float32
        assert torch.cosine_similarity(right.flatten(), found.flatten(), dim=0) > 0.99


class _Jump(torch.autograd.Function):
    """Whether u is above the threshold; for the threshold's slope, a rectangle around it."""

    @staticmethod
    def forward(ctx, u, threshold):
        ctx.save_for_backward(u, threshold)
        return (u > threshold).float()

    @staticmethod
    def backward(ctx, grad):
        u, threshold = ctx.saved_tensors
        return None, (-grad * ((u - threshold).abs() < BANDWIDTH / 2) / BANDWIDTH).sum(0)


def _dense_objective(weights, x, objective, target=None):
    """Each kind's objective as its paper writes it, densely, with autograd's gradients."""
    leaf = weights.map(lambda tensor: tensor.clone().requires_grad_())
    inputs, target = (x - leaf.b_dec, x) if target is None else (x, target)
    readers = x.shape[1] // leaf.W_enc.shape[1]
    u = inputs @ torch.block_diag(*leaf.W_enc.chunk(readers)).T + leaf.b_enc
    total = (target - target.mean(0)).square().sum()
    skipped = 0 if leaf.W_skip is None else inputs @ leaf.W_skip.T

    def unexplained(values, W_dec, b_dec, prefix=None, skipped=skipped):
        return (values[:, :prefix] @ W_dec[:prefix] + b_dec + skipped - target).square().sum() / total

    penalty = torch.zeros(())
    extra = torch.zeros(())
    if objective.kind == "topk":
        kth = u.topk(objective.k).values[:, -1:]
        values = u.relu() * (u >= kth)
    elif objective.kind == "batchtopk":
        kth = u.flatten().topk(objective.k * len(x)).values[-1]
        values = u.relu() * (u >= kth)
    elif objective.kind == "standard":
        values, penalty = u.relu(), u.relu().sum()
    elif objective.kind == "jumprelu":
        threshold = leaf.extra["log_threshold"].exp()
        fires = _Jump.apply(u, threshold)
        # At its edge the step is as high as the threshold, whatever u is within the rectangle.
        values = u * fires.detach() + threshold.detach() * (fires - fires.detach())
        penalty = fires.sum()
    else:
        values = (leaf.extra["r_mag"].exp() * u + leaf.extra["b_mag"]).relu() * (u > 0)
        penalty = u.relu().sum()
        beside = 0 if leaf.W_skip is None else skipped.detach()
        extra = unexplained(u.relu(), leaf.W_dec.detach(), leaf.b_dec.detach(), skipped=beside)
    prefixes = objective.prefixes or (len(leaf.b_enc),)
    losses = [unexplained(values, leaf.W_dec, leaf.b_dec, prefix) for prefix in prefixes]
    loss = sum(losses) / len(losses) + objective.sparsity * penalty / len(x) + extra
    loss.backward()
    return loss.detach(), losses[-1].detach(), [tensor.grad for tensor in leaf.tensors], (values > 0).sum(0)


@pytest.mark.parametrize("shift", [0.0, -2.5], ids=["crowded", "sparse"])
@pytest.mark.parametrize("prefixes", [(), (4, 9, 20)])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kinds_gradients_are_those_of_its_objective(kind, prefixes, shift):
    if prefixes and kind not in ("topk", "batchtopk"):
        pytest.skip("prefixes go with ranked kinds")
    torch.manual_seed(0)
    start = Weights.initial(SaeConfig(d_sae=20, kind=kind), 8)
    weights = start.map(lambda x: x + 0.3 * torch.randn_like(x))
    weights.b_enc.add_(shift)
    x = torch.randn(1100, 8) + 0.5
    objective = Objective(kind, 3, 0.0 if kind in ("topk", "batchtopk") else 0.07, prefixes)
    step = gradients(weights, x, objective)
    loss, fvu, expected, fired = _dense_objective(weights, x, objective)
    torch.testing.assert_close(step.loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.fvu, fvu, rtol=1e-5, atol=0)
    assert torch.equal(step.fired, fired)
    for found, right in zip(step.gradients.tensors, expected, strict=True):
        torch.testing.assert_close(found, right, rtol=1e-4, atol=2e-6 * float(right.abs().max()))


@pytest.mark.parametrize("shift", [0.0, -2.5], ids=["crowded", "sparse"])
@pytest.mark.parametrize(("readers", "skip"), [(1, False), (1, True), (2, False), (3, True)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_transcoders_gradients_are_those_of_its_objective(kind, readers, skip, shift):
    torch.manual_seed(0)
    start = Weights.initial(SaeConfig(d_sae=18, kind=kind, skip=skip), 6 * readers, 4 * readers, readers)
    written = start.W_dec != 0
    weights = start.map(lambda x: x + 0.3 * torch.randn_like(x))
    weights.W_dec.mul_(written)
    weights.b_enc.add_(shift)
    x, target = torch.randn(1100, 6 * readers) + 0.5, torch.randn(1100, 4 * readers) - 0.5
    objective = Objective(kind, 3, 0.0 if kind in ("topk", "batchtopk") else 0.07)
    step = gradients(weights, x, objective, target=target)
    loss, fvu, expected, fired = _dense_objective(weights, x, objective, target)
    torch.testing.assert_close(step.loss, loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(step.fvu, fvu, rtol=1e-5, atol=0)
    assert torch.equal(step.fired, fired)
    for name, right in zip(weights.named, expected, strict=True):
        # Nothing is written to a layer before the one that was read, and so nothing is learned there.
        right = right * written if name == "W_dec" else right
        found = step.gradients.named[name]
        torch.testing.assert_close(found, right, rtol=1e-4, atol=2e-6 * float(right.abs().max()))
    layer = torch.arange(18) // (18 // readers)
    assert torch.equal(written.any(1), torch.ones(18, dtype=torch.bool))
    assert all(not written[layer > part, 4 * part : 4 * (part + 1)].any() for part in range(readers))


@pytest.mark.parametrize("compute", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guess", [None, 0.0, 0.3, 50.0])
def test_a_guess_changes_nothing(guess, compute):
    torch.manual_seed(0)
    weights = Weights.initial(SaeConfig(d_sae=30), 8)
    # In bfloat16, and of few distinct values, many share the last place.
    x, objective = torch.randn(700, 8).round(), Objective("batchtopk", 2, compute=compute)
    plain, guessed = gradients(weights, x, objective), gradients(weights, x, objective, guess=guess)
    assert guessed.lowest == plain.lowest
    for found, right in zip(guessed.gradients.tensors, plain.gradients.tensors, strict=True):
        assert torch.equal(found, right)
