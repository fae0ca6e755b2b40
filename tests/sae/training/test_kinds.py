"""Slopes are those of the value, and a kind folds into an autoencoder with thresholds that computes the same."""

import pytest
import torch

from interp.sae.training.kinds import KINDS, RANKED

G = torch.Generator().manual_seed(0)


def _extra(kind, count):
    values = {name: torch.full((count,), start) for name, start in KINDS[kind].extra.items()}
    return {name: value + 0.3 * torch.rand(count, generator=G) for name, value in values.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_folded_kind_is_a_threshold(kind):
    rows, bias, extra = torch.randn(20, 8, generator=G), torch.randn(20, generator=G) / 2, _extra(kind, 20)
    x = torch.randn(200, 8, generator=G)
    value = KINDS[kind].value(x @ rows.T + bias, extra)
    new_rows, new_bias, threshold = KINDS[kind].folded(rows, bias, extra)
    pre = x @ new_rows.T + new_bias
    away = (pre - threshold).abs() > 1e-4  # of the jump, where rounding decides
    torch.testing.assert_close(torch.where(pre > threshold, pre, 0)[away], value[away], atol=1e-4, rtol=1e-4)
    assert (threshold >= 0).all()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "jumprelu"])  # a jump has no slope of its own
def test_slopes_by_pre_activation_are_autograds(kind):
    u = torch.randn(500, generator=G, requires_grad=True)
    extra = _extra(kind, 500)
    pull, weight = torch.randn(500, generator=G), torch.tensor(0.3)
    (pull * KINDS[kind].value(u, extra) + weight * KINDS[kind].penalty(u, extra)).sum().backward()
    slopes, _ = KINDS[kind].slopes(u.detach(), extra, pull, weight)
    torch.testing.assert_close(slopes, u.grad)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RANKED])
def test_below_the_floor_there_is_nothing(kind):
    extra = _extra(kind, 500)
    u = KINDS[kind].floor(extra) - torch.rand(500, generator=G)
    slopes, by_extra = KINDS[kind].slopes(u, extra, torch.ones(500), torch.tensor(1.0))
    for zero in (KINDS[kind].value(u, extra), KINDS[kind].penalty(u, extra), slopes, *by_extra.values()):
        assert not zero.any()


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in RANKED])
def test_at_the_start_latents_fire_above_the_level(kind):
    bias, extra = KINDS[kind].start(0.5)
    drive = torch.tensor([0.4, 0.6])
    fires = KINDS[kind].value(drive + bias, {name: torch.full((2,), value) for name, value in extra.items()}) > 0
    assert fires.tolist() == [False, True]
