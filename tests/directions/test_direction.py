"""A direction survives saving, whatever found it."""

import pytest
import torch
from latent_samples import SITE, choices, dictionary

from interp import Direction, InterpError
from interp.directions.methods.latents import by_attribution


def test_a_latents_direction_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    sae, pairs = dictionary(model), choices()
    latent = by_attribution(model, sae, pairs, count=1)[0]
    direction = latent.direction(sae, pairs.digest)
    torch.testing.assert_close(direction.rows[0], sae.W_dec[latent.latent])
    direction.save(tmp_path / "direction")
    kept = Direction.load(tmp_path / "direction")
    assert torch.equal(kept.rows, direction.rows)
    assert (str(kept.site), kept.method, kept.data) == (SITE, "sae_latent_attribution", pairs.digest)


def test_a_folder_without_a_direction_is_refused(tmp_path):
    with pytest.raises(InterpError, match="no saved direction in it"):
        Direction.load(tmp_path)
