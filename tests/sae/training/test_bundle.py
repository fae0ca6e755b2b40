"""Transcoders, crosscoders and cross-layer transcoders find what was planted, on raw activations of any scale."""

import pytest
import torch
from planted import MADE_UP, matched, sparse_codes, unit_rows, write_store
from torch.nn.functional import normalize

from interp.activations.paired_store import PairedStore
from interp.core.errors import InterpError
from interp.sae import TrainingPlan
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.metrics import explained_variance
from interp.sae.training.trainer import train, train_all

QUICK = {"d_sae": 64, "k": 3, "batch_size": 256, "tokens": 120_000, "lr": 6e-3, "dead_after": 5_000}
SHORT = QUICK | {"tokens": 60_000, "lr": 1.2e-2}  # where that is enough
IN, OUT, LATER = "resid_mid.0", "mlp_out.0", "mlp_out.1"


@pytest.fixture(scope="module")
def layers(tmp_path_factory):
    """Features read from one site and written to others, at scales of their own; the later site has more of its own."""
    codes, more = sparse_codes(), sparse_codes(features=16, active=1, seed=3)
    read, written, later = unit_rows(64, 32, 7), unit_rows(64, 24, 8), unit_rows(64, 24, 9)
    own = unit_rows(16, 32, 10)
    sites = {
        IN: 5 * (codes @ read) + 3,
        "resid_mid.1": codes @ read + more @ own,
        OUT: 0.2 * (codes @ written) - 1,
        LATER: 40 * (codes @ later + more @ unit_rows(16, 24, 11)),
    }
    return write_store(tmp_path_factory.mktemp("layers") / "store", sites), written, later


@pytest.mark.parametrize("kind", ["topk", "batchtopk", "jumprelu"])
def test_a_transcoder_finds_what_is_read_and_what_is_written(layers, tmp_path, kind):
    store, written, _ = layers
    trained = train(store, IN, SaeConfig(**QUICK, kind=kind), writes=OUT)
    sae = trained.sae
    assert matched(sae.W_dec, written) > 0.7
    assert matched(train(store, IN, SaeConfig(**QUICK | {"tokens": 256}), writes=OUT).sae.W_dec, written) < 0.1
    assert (sae.d_in, sae.d_out, str(sae)) == (32, 24, f"transcoder from {IN} to {OUT}")
    x, y = (store.read(site)[store.position > 0] for site in (IN, OUT))
    fvu = float((sae(x) - y).square().sum() / (y - y.mean(0)).square().sum())
    assert fvu == pytest.approx(trained.history[-1].fvu, abs=0.04)
    assert explained_variance(sae, store, 8000).fvu[0] == pytest.approx(fvu, abs=0.02)
    sae.save(tmp_path / "sae")
    again = SparseAutoencoder.load(tmp_path / "sae")
    assert torch.equal(again(x), sae(x))
    assert (again.reads, again.writes) == (sae.reads, sae.writes)
    with pytest.raises(InterpError, match="is not an autoencoder of one site"):
        assert sae.site


def test_a_skip_connection_takes_what_is_linear(layers, tmp_path):
    codes, read, written = sparse_codes(), unit_rows(64, 32, 7), unit_rows(64, 24, 8)
    x = codes @ read + 2 * torch.randn(16384, 32, generator=torch.Generator().manual_seed(4))
    straight = torch.randn(24, 32, generator=torch.Generator().manual_seed(5))
    store = write_store(tmp_path / "store", {IN: 3 * x, OUT: (codes > 0).float() @ written + x @ straight.T + 7})
    plain, skip = (train(store, IN, SaeConfig(**SHORT, skip=skip), writes=OUT) for skip in (False, True))
    assert skip.history[-1].fvu < 0.2 * plain.history[-1].fvu
    torch.testing.assert_close(3 * skip.sae.W_skip, straight, atol=0.4, rtol=0.1)
    inner = store.position > 0
    raw, target = store.read(IN)[inner], store.read(OUT)[inner]
    fvu = float((skip.sae(raw) - target).square().sum() / (target - target.mean(0)).square().sum())
    assert fvu == pytest.approx(skip.history[-1].fvu, abs=0.02)
    code = skip.sae.encode_sparse(raw)
    torch.testing.assert_close(skip.sae.decode_sparse(code, raw), skip.sae(raw))
    with pytest.raises(InterpError, match="give x="):
        skip.sae.decode_sparse(code)
    skip.sae.save(tmp_path / "sae")
    assert torch.equal(SparseAutoencoder.load(tmp_path / "sae").W_skip, skip.sae.W_skip)


def test_a_crosscoder_of_layers_reads_them_side_by_side(layers):
    store, written, later = layers
    sae = train(store, [OUT, LATER], SaeConfig(**QUICK | {"k": 4, "d_sae": 80}, kind="batchtopk")).sae
    assert str(sae) == f"crosscoder of {OUT}, {LATER}"
    first, second = sae.W_dec.split([24, 24], dim=1)
    assert matched(first, written) > 0.7
    assert matched(second, later) > 0.7
    # Each place counts alike, though one is 200 times as large.
    assert max(explained_variance(sae, store, 8000).fvu) < 0.3
    norms = sae.norms()
    torch.testing.assert_close(norms.square().sum(0), torch.ones(80), atol=1e-4, rtol=0)
    # The features of the later site alone are written there alone.
    assert int((norms[0] * 200 < 0.2 * norms[1]).sum()) >= 10


def test_a_crosscoder_of_two_models_tells_shared_from_exclusive_latents(tmp_path):
    codes, more = sparse_codes(active=3), sparse_codes(features=8, active=1, seed=3)
    one, other, own = unit_rows(64, 32, 7), unit_rows(64, 32, 8), unit_rows(8, 32, 9)
    tuned = MADE_UP.model_copy(update={"name": "tuned", "digest": "1" * 64})
    base = write_store(tmp_path / "base", {OUT: codes @ one})
    edited = write_store(tmp_path / "tuned", {OUT: codes @ other + 2 * more @ own}, model=tuned)
    both = PairedStore(base, edited)
    sae = train(both, OUT, SaeConfig(**SHORT | {"k": 4, "d_sae": 80}, kind="batchtopk")).sae
    assert [place.model.name for place in sae.reads] == ["made up", "tuned"]
    ratio = sae.norms()[1] / sae.norms().sum(0)
    exclusive = ratio > 0.9
    new = normalize(sae.W_dec[exclusive, 32:], dim=1) @ own.T
    assert (new.amax(0) > 0.9).all()
    assert matched(sae.W_dec[~exclusive][:, :32], one) > 0.6
    assert matched(sae.W_dec[~exclusive][:, 32:], other) > 0.6
    assert len(explained_variance(sae, both, 4000).fvu) == 2
    with pytest.raises(InterpError, match="belongs to made up, tuned"):
        assert sae.model
    with pytest.raises(InterpError, match="does not read what"):
        explained_variance(sae, base, 4000)


def test_a_cross_layer_transcoder_writes_forward_alone(layers):
    store, _, _ = layers
    config = SaeConfig(**SHORT | {"k": 4, "d_sae": 160}, layered=True)
    trained = train(store, [IN, "resid_mid.1"], config, writes=[OUT, LATER])
    sae = trained.sae
    assert tuple(sae.W_enc.shape) == (160, 32)
    assert not sae.W_dec[80:, :24].any()
    assert sae.W_dec[:80, 24:].any()
    assert max(explained_variance(sae, store, 8000).fvu) < 0.35
    inner = store.position > 0
    first, second = (store.read(site)[inner][:50] for site in (IN, "resid_mid.1"))
    whole = sae.encode(torch.cat([first, second], 1))
    moved = sae.encode(torch.cat([first, second + 1], 1))
    assert whole.any()
    pre = first @ sae.W_enc[:80].T + sae.b_enc[:80]
    top = whole[:, :80] > 0
    torch.testing.assert_close(whole[:, :80][top], pre[top], atol=1e-4, rtol=1e-4)
    assert not torch.equal(whole[:, 80:], moved[:, 80:])


def test_one_pass_trains_several_as_if_alone(layers):
    store, _, _ = layers
    plans = [
        TrainingPlan(OUT, SaeConfig(**QUICK | {"tokens": 8000})),
        TrainingPlan(LATER, SaeConfig(**QUICK | {"tokens": 8000, "d_sae": 32, "k": 2}, kind="batchtopk")),
        TrainingPlan(IN, SaeConfig(**QUICK | {"tokens": 8000}), writes=OUT),
    ]
    together = train_all(store, plans)
    for plan, found in zip(plans, together, strict=True):
        alone = train(store, plan.reads, plan.config, writes=plan.writes)
        assert torch.equal(alone.sae.W_dec, found.sae.W_dec)
        assert torch.equal(alone.sae.b_enc, found.sae.b_enc)
        assert alone.history == found.history


@pytest.mark.parametrize(
    ("reads", "writes", "options", "message"),
    [
        (IN, None, {"skip": True}, "skip is for transcoders; give the sites that it writes"),
        (IN, None, {"layered": True}, "layered is for transcoders"),
        ([IN, "resid_mid.1"], [OUT], {"layered": True}, "reads 2 places and writes 1"),
        ([IN, OUT], [IN, OUT], {"layered": True}, r"of widths \[24, 32\] and \[24, 32\]"),
        (
            [IN, "resid_mid.1"],
            [OUT, LATER],
            {"layered": True, "d_sae": 63},
            "d_sae is 63; expected a multiple of the 2",
        ),
        ([], None, {}, "no site given"),
        (IN, "mlp_out.9", {}, r"site 'mlp_out\.9' is not in"),
    ],
)
def test_shapes_that_do_not_go_together_are_refused(layers, reads, writes, options, message):
    with pytest.raises(InterpError, match=message):
        train(layers[0], reads, SaeConfig(**QUICK | options), writes=writes)


def test_plans_of_one_pass_share_their_batches(layers):
    plans = [TrainingPlan(OUT, SaeConfig(**QUICK)), TrainingPlan(OUT, SaeConfig(**QUICK | {"batch_size": 128}))]
    with pytest.raises(InterpError, match="batch_size is 128 in one plan and 256 in another"):
        train_all(layers[0], plans)
    with pytest.raises(InterpError, match="no plans"):
        train_all(layers[0], [])
