"""Controls cost what the autoencoder costs, and are what they say: random rows kept, structure destroyed."""

from dataclasses import replace

import pytest
import torch
from planted_dictionary import PlantedSource, dictionary, draw
from torch.nn.functional import normalize

from interp.auditing.autoencoders.controls import BASIS, PCA, ShuffledSource, make_controls, sparsified
from interp.core.errors import InterpError
from interp.sae import SaeConfig, SparseAutoencoder

CONFIG = SaeConfig(kind="batchtopk", d_sae=160, k=2, batch_size=256, tokens=2560)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    sae = replace(dictionary(), config=CONFIG)
    return make_controls(sae, PlantedSource(), 1.6, tmp_path_factory.mktemp("controls"), seeds=2)


def test_each_control_has_the_autoencoders_width_and_seeds_differ(made):
    names = ["random decoder", "frozen decoder", "shuffled activations"]
    assert list(made) == [f"{name}, seed {n}" for name in names for n in (0, 1)] + [BASIS, PCA]
    for name in names:
        first, second = made[f"{name}, seed 0"], made[f"{name}, seed 1"]
        assert first.d_sae == second.d_sae == 160
        assert not torch.allclose(first.W_dec, second.W_dec)


def test_a_frozen_decoder_keeps_its_random_rows_and_its_encoder_learns(made):
    frozen = made["frozen decoder, seed 1"]
    start = torch.randn(160, 128, generator=torch.Generator().manual_seed(2))
    torch.testing.assert_close(frozen.W_dec, normalize(start, dim=1), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(normalize(frozen.W_enc, dim=1), frozen.W_dec, atol=1e-2)
    trained = made["shuffled activations, seed 1"]
    assert not torch.allclose(trained.W_dec, normalize(start, dim=1), atol=1e-2), "control: without it rows learn"


def test_shuffling_keeps_each_coordinate_and_loses_what_they_share():
    (plain,), (shuffled,) = (
        [next(source.batches("resid_post.0", 4096, 0, 1))]
        for source in (PlantedSource(), ShuffledSource(PlantedSource()))
    )
    assert torch.equal(plain.sort(0).values, shuffled.sort(0).values)
    apart = [x.T.corrcoef().fill_diagonal_(0).abs().mean() for x in (plain, shuffled)]
    assert apart[1] < 0.4 * apart[0]


def test_bases_reconstruct_exactly_and_sparsified_with_as_many_latents(made):
    x = draw(50)[0]
    for name in (BASIS, PCA):
        torch.testing.assert_close(made[name](x), x, rtol=1e-4, atol=1e-4)
        assert ((sparsified(made, 1.6)[name].encode(x) > 0).sum(1) <= 2).all()


def test_trained_controls_are_read_again(made, tmp_path):
    sae = replace(dictionary(), config=CONFIG)
    first = make_controls(sae, PlantedSource(), 1.6, tmp_path, seeds=1)

    class Other(PlantedSource):
        def batches(self, *args, **options):
            yield from (2 * x for x in super().batches(*args, **options))

    again = make_controls(sae, Other(), 1.6, tmp_path, seeds=1)
    assert torch.equal(first["frozen decoder, seed 0"].W_enc, again["frozen decoder, seed 0"].W_enc)


def test_a_transcoder_has_no_controls(tmp_path):
    sae = dictionary()
    other = replace(sae.reads[0], site="mlp_out.0") if False else sae.reads[0].model_copy(update={"site": "mlp_out.0"})
    with pytest.raises(InterpError, match="not an autoencoder of one site"):
        make_controls(replace(sae, writes=(other,)), PlantedSource(), 3.0, tmp_path)
    assert isinstance(sae, SparseAutoencoder)
