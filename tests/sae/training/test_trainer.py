"""Training finds planted directions whatever their units, revives the dead, refuses what teaches nothing."""

import sys
import types

import pytest
import torch
from planted import MADE_UP, SITE, write_store
from torch.nn.functional import normalize

from interp.core.errors import InterpError
from interp.sae import TrainingPlan
from interp.sae.config import SaeConfig
from interp.sae.nonlinearities import JumpReLU
from interp.sae.training import state
from interp.sae.training.gradients import Auxiliary, Objective, Weights, gradients
from interp.sae.training.trainer import tracker, train, train_all

QUICK = {"d_sae": 64, "k": 3, "batch_size": 256}


def _found(sae, dictionary):
    """Share of the planted directions that a decoder row points along."""
    return float(((dictionary @ sae.W_dec.T).amax(1) > 0.9).float().mean())


@pytest.fixture(scope="module")
def trained(planted):
    return train(planted, SITE, SaeConfig(**QUICK, tokens=60_000, lr=1.5e-2))


def test_it_finds_the_planted_directions(trained, planted, dictionary):
    start = train(planted, SITE, SaeConfig(**QUICK, tokens=1)).sae
    assert _found(start, dictionary) < 0.05
    assert _found(trained.sae, dictionary) > 0.7
    assert trained.history[-1].fvu < 0.15 < 0.3 < trained.history[0].fvu


def test_the_result_is_what_it_says(trained, planted):
    sae, history = trained.sae, trained.history
    assert torch.allclose(sae.W_dec.norm(dim=1), torch.ones(64), atol=1e-5)
    assert (str(sae.site), sae.model) == (SITE, MADE_UP)
    assert [point.tokens for point in history] == sorted(point.tokens for point in history)
    inner = planted.position > 0
    fires = (sae.encode(planted.read(SITE)[inner]) > 0).float().mean(0)
    assert torch.allclose(trained.density, fires, atol=0.01)
    assert "64 latents" in trained._repr_html_()


def test_the_same_seed_gives_the_same_weights(planted):
    config = SaeConfig(**QUICK, tokens=20_000)
    first, again = train(planted, SITE, config).sae, train(planted, SITE, config).sae
    other = train(planted, SITE, SaeConfig(**QUICK, tokens=20_000, seed=1)).sae
    assert torch.equal(first.W_dec, again.W_dec)
    assert torch.equal(first.b_enc, again.b_enc)
    assert not torch.equal(first.W_dec, other.W_dec)


def test_units_and_origin_do_not_matter(planted, activations, tmp_path):
    shift = 30 * torch.linspace(-1, 1, 32)
    moved = write_store(tmp_path / "moved", 8 * activations + shift)
    config = SaeConfig(**QUICK, tokens=40_000)
    plain, scaled = train(planted, SITE, config).sae, train(moved, SITE, config).sae
    assert torch.allclose(plain.W_dec, scaled.W_dec, atol=1e-2)
    x = activations[:500]
    assert (8 * plain(x) + shift - scaled(8 * x + shift)).norm() < 0.02 * (8 * x).norm()
    # Without the standardisation folded in, the other's input is far from what either can read.
    assert (plain(8 * x + shift) - scaled(8 * x + shift)).norm() > 0.5 * (8 * x).norm()


def test_dead_latents_come_back_to_life(tmp_path):
    # Rare directions and a rough learning rate: many latents fall silent while much is left to explain. Not so rough
    # that training is near divergence (0.04 and above), where rounding alone decides how many fall silent; and long
    # enough that with every seed the bounds hold with room to spare.
    generator = torch.Generator().manual_seed(7)
    directions = normalize(torch.randn(128, 32, generator=generator), dim=1)
    chosen = torch.multinomial((torch.arange(128) + 1.0) ** -1, 16384, replacement=True, generator=generator)
    lengths = 1 + torch.rand(8192, 2, generator=generator)
    x = torch.zeros(8192, 128).scatter(1, chosen.view(8192, 2), lengths) @ directions
    store = write_store(tmp_path / "store", x)
    rough = {"d_sae": 128, "k": 2, "batch_size": 512, "tokens": 160_000, "dead_after": 3_000, "lr": 0.03}
    left, aided = (train(store, SITE, SaeConfig(**rough, aux_weight=w)).history[-1] for w in (0.0, 1 / 32))
    revived = train(store, SITE, SaeConfig(**rough, aux_weight=0.0, resample_every=30)).history[-1]
    assert left.dead > 30
    assert revived.dead < 0.7 * left.dead
    assert revived.fvu < left.fvu
    assert aided.dead < left.dead / 2
    assert aided.fvu < left.fvu


@pytest.mark.parametrize("kind", ["jumprelu", "standard", "gated"])
def test_resampled_latents_do_not_all_fire(planted, kind):
    """A penalty holds the number that fire at k; latents that start anew must not be beyond it."""
    settings = QUICK | {"dead_after": 500, "d_sae": 256, "dead_limit": 1.0}
    steps = {"tokens": 30_000, "lr": 0.02, "kind": kind, "aux_weight": 0.0}
    plain, revived = (
        train(planted, SITE, SaeConfig(**settings, **steps, resample_every=every)).history[-1] for every in (None, 20)
    )
    assert plain.dead > 20, "control: there are some to resample"
    assert revived.l0 < 2 * plain.l0
    assert revived.fvu < 1.3 * plain.fvu


def test_latents_of_every_layer_are_resampled(tmp_path):
    x = torch.randn(4096, 8, generator=torch.Generator().manual_seed(0))
    store = write_store(
        tmp_path / "store", {site: x.clone() for site in ("resid_mid.0", "resid_mid.1", "mlp_out.0", "mlp_out.1")}
    )
    config = SaeConfig(
        layered=True, d_sae=32, k=2, batch_size=256, tokens=10_000, dead_after=300, resample_every=5, lr=0.1
    )
    sae = train(store, ["resid_mid.0", "resid_mid.1"], config, writes=["mlp_out.0", "mlp_out.1"]).sae
    assert sae.W_enc.shape == (32, 8)
    assert not sae.W_dec[16:, :8].any()
    assert sae.W_dec[:, 8:].norm(dim=1).min() > 0


def test_a_perfect_reconstruction_needs_no_help():
    rows = torch.eye(8)
    weights = Weights(rows, torch.zeros(8), rows, torch.zeros(8))
    x = torch.eye(8).repeat(4, 1)
    step = gradients(weights, x, Objective(k=1), Auxiliary(torch.tensor([0, 1]), 1, 0.1))
    assert float(step.loss) == 0
    assert all(not gradient.any() for gradient in step.gradients.tensors)


def test_bfloat16_products_learn_as_well(trained, planted, dictionary, monkeypatch):
    monkeypatch.setattr(state, "product_dtype", lambda *_: torch.bfloat16)
    rough = train(planted, SITE, SaeConfig(**QUICK, tokens=60_000, lr=1.5e-2, compute="bfloat16"))
    assert _found(rough.sae, dictionary) > 0.7
    assert rough.history[-1].fvu < 1.2 * trained.history[-1].fvu


@pytest.mark.parametrize(
    ("kind", "options", "share"),
    [
        ("batchtopk", {"tokens": 150_000, "lr": 6e-3}, 0.7),
        ("batchtopk", {"tokens": 150_000, "lr": 6e-3, "prefixes": [16, 32, 64]}, 0.6),
        ("standard", {"tokens": 80_000, "lr": 9e-3}, 0.5),
        ("jumprelu", {"tokens": 80_000, "lr": 9e-3}, 0.7),
        ("gated", {"tokens": 80_000, "lr": 9e-3}, 0.7),
    ],
    ids=["batchtopk", "matryoshka", "standard", "jumprelu", "gated"],
)
def test_every_kind_finds_the_planted_directions(planted, dictionary, kind, options, share):
    trained = train(planted, SITE, SaeConfig(**QUICK, kind=kind, dead_after=5_000, **options))
    assert _found(trained.sae, dictionary) > share
    assert trained.sae.nonlinearity == JumpReLU()
    # What is saved does on raw activations what training did on standardised ones, its number of latents included.
    x = planted.read(SITE)[planted.position > 0]
    fires = (trained.sae.encode(x) > 0).sum(1).float().mean()
    assert float(fires) == pytest.approx(trained.history[-1].l0, rel=0.15)
    fvu = (trained.sae(x) - x).square().sum() / (x - x.mean(0)).square().sum()
    assert float(fvu) == pytest.approx(trained.history[-1].fvu, abs=0.04)


def test_a_penalty_is_steered_to_its_number_of_latents(planted):
    counts = {}
    for k in (2, 5):
        config = SaeConfig(d_sae=64, k=k, batch_size=256, kind="gated", tokens=150_000, lr=1e-2)
        counts[k] = train(planted, SITE, config).history[-1].l0
    assert counts[2] == pytest.approx(2, rel=0.15)
    assert counts[5] == pytest.approx(5, rel=0.15)
    fixed = [train(planted, SITE, SaeConfig(**QUICK, kind="standard", tokens=40_000, sparsity=x)) for x in (0.001, 0.1)]
    assert fixed[0].history[-1].l0 > 2 * fixed[1].history[-1].l0


@pytest.mark.parametrize(("kind", "tokens", "without"), [("jumprelu", 25_000, "_DIRECT"), ("batchtopk", 6_400, "_LAG")])
def test_a_short_training_lands_on_its_number_of_latents(planted, monkeypatch, kind, tokens, without):
    """Within a tenth, on the activations it was trained on; by the penalty, or a long mean, it does not."""
    config = SaeConfig(d_sae=64, k=3, batch_size=256, kind=kind, tokens=tokens, lr=3e-3)
    x = planted.read(SITE)[planted.position > 0]

    def fires():
        return float((train(planted, SITE, config).sae.encode(x) > 0).sum(1).float().mean())

    assert fires() == pytest.approx(3, rel=0.1)
    monkeypatch.setattr(state, without, 0)
    assert fires() != pytest.approx(3, rel=0.3)


@pytest.mark.parametrize("k", [0, 65])
def test_a_k_that_does_not_fit_is_refused(planted, k):
    with pytest.raises(InterpError, match=f"k is {k}; expected from 1 to the number of latents, 64"):
        train(planted, SITE, SaeConfig(d_sae=64, k=k))


def test_a_site_that_is_not_stored_is_refused(planted):
    with pytest.raises(InterpError, match=r"site 'resid_post\.1' is not in"):
        train(planted, "resid_post.1", SaeConfig(**QUICK))


def test_a_store_smaller_than_a_batch_is_refused(planted, activations, tmp_path):
    small = write_store(tmp_path / "small", activations[:512])
    with pytest.raises(InterpError, match="has 504 tokens to train on; expected a batch of 512"):
        train(small, SITE, SaeConfig(**QUICK | {"batch_size": 512}))


def test_constant_activations_are_refused(tmp_path):
    store = write_store(tmp_path / "store", torch.ones(1024, 32))
    with pytest.raises(InterpError, match="are constant"):
        train(store, SITE, SaeConfig(**QUICK))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_nan_is_traced_to_its_shard(activations, tmp_path, value):
    broken = activations.clone()
    broken[9000, 3] = value
    store = write_store(tmp_path / "store", broken)
    with pytest.raises(InterpError, match=r"shard-00002\.safetensors, row 808 .*holds NaN or infinite"):
        train(store, SITE, SaeConfig(**QUICK, tokens=40_000))


def test_first_tokens_are_left_out(planted, activations, tmp_path):
    outliers = activations.clone()
    outliers[::64] *= 1000
    store = write_store(tmp_path / "store", outliers)
    config = SaeConfig(**QUICK, tokens=20_000)
    assert torch.equal(train(store, SITE, config).sae.W_dec, train(planted, SITE, config).sae.W_dec)


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_points_are_logged_and_the_run_is_ended(planted, monkeypatch, name):
    calls = []
    package = types.SimpleNamespace(
        init=lambda **options: calls.append(("init", options)),
        log=lambda values, step: calls.append(("log", values, step)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setitem(sys.modules, name, package)
    config = SaeConfig(d_sae=32, k=2, batch_size=256, tokens=5_000)
    trained = train_all(planted, [TrainingPlan(SITE, config)] * 2, callbacks=[tracker(name, "p", name="first")])
    assert calls[0] == ("init", {"project": "p", "name": "first"})
    assert [call[0] for call in calls].count("finish") == 1
    assert calls[-1] == ("finish",)
    logged = [call for call in calls if call[0] == "log"]
    assert len(logged) == sum(len(result.history) for result in trained)
    assert logged[-1][1]["sae-1/fvu"] == trained[1].history[-1].fvu
    assert logged[-1][2] == 5_000 // 256


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(InterpError, match="wandb is not installed; pip install wandb"):
        tracker("wandb", "p")
