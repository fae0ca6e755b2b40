"""Where a direction comes from: each origin gives the direction that Python gives, and one origin only."""

import pytest
import torch
from sae_samples import autoencoder

import interp
from interp import Direction, InterpError
from interp.attribution import Lens
from interp.models.sites import Site
from interp.search import DirectionSource


def test_each_origin_is_what_python_gives(tiny, tmp_path):
    model, sae = tiny("llama"), autoencoder(tiny("llama"))
    direction = Direction.of(torch.arange(32.0), "resid_post.1", model)
    direction.save(tmp_path / "saved")
    sae.save(tmp_path / "sae")
    weight = {Site("resid_post", 1): torch.randn(32, 32, generator=torch.Generator().manual_seed(0))}
    jacobian, token = Lens("jacobian", weight, {}, model.reference), model.to_single_token("w9")
    jacobian.save(tmp_path / "lens")
    expected = {
        DirectionSource(folder="saved"): direction,
        DirectionSource(token="w9", site="resid_post.1"): Lens().direction(model, token, "resid_post.1"),
        DirectionSource(token="w9", site="resid_post.1", lens="lens", gain=True): jacobian.direction(
            model, token, "resid_post.1", gain=True
        ),
        DirectionSource(sae="sae", latent=7): Direction.of(sae.W_dec[7], "resid_post.1", model),
    }
    rows = [source.fit(model, tmp_path).rows for source in expected]
    for row, other in zip(rows, expected.values(), strict=True):
        torch.testing.assert_close(row, other.rows)
    assert not torch.allclose(rows[1], rows[2]), "control: the lens matters"


def test_a_direction_is_at_one_site(tiny):
    for source in ({"token": "w9"}, {"contrast": "organism.hostility", "pairs": 4}):
        with pytest.raises(InterpError, match="expected one site"):
            DirectionSource(**source, site="resid_post.*").fit(tiny("llama"))


def test_an_erasing_method_gives_an_eraser():
    model = interp.load("organism")
    source = DirectionSource(contrast="organism.hostility", pairs=12, site="resid_post.3", method="sal")
    eraser = source.fit(model)
    assert (eraser.method, eraser.model) == ("sal", model.reference)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "a direction has no origin; expected one of contrast, folder, token, latent"),
        ({"token": "a", "folder": "b"}, "a direction has folder, token; expected one"),
        ({"folder": "b", "site": "resid_post.1"}, "a direction from a folder has no 'site'; it takes no options"),
        ({"token": "a"}, "a direction from a token has no site; give one"),
        ({"latent": 3, "sae": "a", "site": "b"}, "a direction from a latent has no 'site'; it takes book, sae"),
        ({"latent": 3}, "sae is the folder of an autoencoder, for a latent"),
        ({"contrast": "a", "site": "b", "method": "sae_latent"}, "sae is the folder of an autoencoder, for a latent"),
        ({"contrast": "a", "site": "resid_post.1", "method": "difmeans"}, "unknown method 'difmeans'"),
        ({"contrast": "a", "site": "resid_post.1", "pairs": 1}, "pairs is 1; expected a whole number"),
    ],
)
def test_one_origin_with_its_options(options, message):
    with pytest.raises(InterpError, match=message):
        DirectionSource(**options)
