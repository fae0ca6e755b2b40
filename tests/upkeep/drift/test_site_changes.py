"""CKA is that of Gram matrices, shifts name the direction and the layer that changed, random directions are a null."""

import torch
from drifted import TEXTS, moved, rows_of, synthetic

import interp
from interp.models.sites import Site
from interp.upkeep.drift.paired_passes import paired_passes
from interp.upkeep.drift.site_changes import SiteTally

SITE = "resid_post.1"


def tallied(model, first, second, directions):
    rows = rows_of(model)
    tally = SiteTally([Site.parse(SITE)], directions)
    tally.update(rows, *synthetic(rows, SITE, first, second))
    return tally


def drawn(model, width, seed):
    count = int(rows_of(model).mask.sum())
    scale = torch.linspace(0.2, 3.0, width)
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) * scale


def test_cka_is_that_of_the_gram_matrices_and_ignores_rotations(tiny):
    model = tiny("llama")
    inner = rows_of(model).inner[rows_of(model).mask]
    x, noise = drawn(model, 32, 0), drawn(model, 32, 1)
    y = x + noise
    (change,) = tallied(model, x, y, {}).sites(model)
    grams = [(z[inner] - z[inner].mean(0)).double() @ (z[inner] - z[inner].mean(0)).double().T for z in (x, y)]
    assert abs(change.cka - float((grams[0] * grams[1]).sum() / (grams[0].norm() * grams[1].norm()))) < 1e-6
    turn, _ = torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(2)))
    (turned,) = tallied(model, x, 3 * x @ turn, {}).sites(model)
    assert abs(turned.cka - 1) < 1e-6


def test_only_the_direction_that_moved_is_a_finding_and_its_shift_is_in_deviations(tiny):
    model = tiny("llama")
    axes = {name: interp.Direction.of(torch.eye(32)[index], SITE) for name, index in (("moved", 20), ("still", 5))}
    x = drawn(model, 32, 0)
    y = x.clone()
    y[:, 20] += 0.5
    largest, still = tallied(model, x, y, axes).projections(0.1, 2, 0)
    inner = rows_of(model).inner[rows_of(model).mask]
    deviation = float(x[inner, 20].std())
    assert abs(largest.change.estimate - 0.5 / deviation) < 1e-6
    assert largest.change.low <= largest.change.estimate <= largest.change.high
    assert (largest.finding, still.finding, still.change.estimate) == (True, False, 0.0)
    assert largest.p < 0.01 < still.p == 1.0


def test_directions_that_have_nothing_to_do_with_the_change_have_uniform_p_values(tiny):
    """The null: directions of the activations' covariance, and any shift at all."""
    model = tiny("llama")
    x = drawn(model, 32, 0)
    shift = torch.randn(32, generator=torch.Generator().manual_seed(1)) * torch.linspace(0.2, 3.0, 32) * 0.3
    rows = torch.randn(400, 32, generator=torch.Generator().manual_seed(3)) * torch.linspace(0.2, 3.0, 32)
    directions = {str(number): interp.Direction.of(row, SITE) for number, row in enumerate(rows)}
    p = torch.tensor([change.p for change in tallied(model, x, x + shift, directions).projections(0.0, 400, 0)])
    for level in (0.05, 0.2, 0.5):
        expected = 3.5 * (level * (1 - level) / 400) ** 0.5
        assert abs(float((p <= level).double().mean()) - level) < expected, level


def test_sites_before_the_changed_layer_are_unchanged(tiny):
    first = tiny("llama")
    direction = torch.randn(32, generator=torch.Generator().manual_seed(4))
    sites = first.resolve("resid_post.*")
    for layer in range(3):
        second, tally = moved(first, layer, direction), SiteTally(sites, {})
        rows = rows_of(first, TEXTS[:20])
        for batch in paired_passes(first, second, rows, sites):
            tally.update(*batch)
        changes = tally.sites(first)
        assert [change.difference > 0 for change in changes] == [number >= layer for number in range(3)]
        assert [bool(change.promoted) for change in changes] == [number >= layer for number in range(3)]
        assert all(abs(change.cka - 1) < 1e-9 for change in changes[:layer])
