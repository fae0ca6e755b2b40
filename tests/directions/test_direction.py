"""A direction survives saving, whatever found it."""

import numpy as np
import pytest
import torch
from latent_samples import SITE, choices, dictionary

from interp import Add, Direction, Gate, InterpError, Project, Recipe
from interp.directions.methods.latents import by_attribution
from interp.interventions import Reads


def test_a_latents_direction_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    sae, pairs = dictionary(model), choices()
    latent = by_attribution(model, sae, pairs, count=1)[0]
    direction = latent.direction(sae, pairs.digest)
    torch.testing.assert_close(direction.rows[0], sae.W_dec[latent.latent])
    direction.save(tmp_path / "direction")
    direction.save(tmp_path / "direction", overwrite=True)
    kept = Direction.load(tmp_path / "direction")
    assert torch.equal(kept.rows, direction.rows)
    assert (str(kept.site), kept.method, kept.data) == (SITE, "sae_latent_attribution", pairs.digest)


def test_a_folder_without_a_direction_is_refused(tmp_path):
    with pytest.raises(InterpError, match="no saved direction in it"):
        Direction.load(tmp_path)


@pytest.mark.parametrize("content", [None, b"half"])
def test_a_direction_whose_tensors_are_missing_or_damaged_is_refused(tmp_path, content):
    Direction.of(torch.ones(4), site="resid_post.1").save(tmp_path / "direction")
    tensors = tmp_path / "direction" / "direction.safetensors"
    tensors.unlink() if content is None else tensors.write_bytes(content)
    with pytest.raises(InterpError, match=r"direction.safetensors: cannot be read"):
        Direction.load(tmp_path / "direction")


VECTOR = [3.0] + 30 * [0.0] + [-4.0]


@pytest.mark.parametrize(
    "vector",
    [
        VECTOR,
        [int(x) for x in VECTOR],
        np.array(VECTOR, dtype=np.float16),
        torch.tensor(VECTOR, dtype=torch.bfloat16),
        torch.nn.Parameter(torch.tensor([VECTOR, VECTOR]))[0],  # a decoder row
        torch.tensor([VECTOR]),
    ],
)
def test_numbers_in_any_form_are_the_same_unit_row(vector):
    direction = Direction.of(vector, site="blocks.1.hook_resid_post")
    torch.testing.assert_close(direction.rows, torch.tensor([VECTOR]) / 5)
    assert (str(direction.site), direction.model, direction.rows.requires_grad) == ("resid_post.1", None, False)


def test_a_given_direction_works_in_every_op_and_survives_saving(tiny, tmp_path):
    model = tiny("llama")
    direction = Direction.of(VECTOR, site="resid_post.1")
    direction.save(tmp_path / "direction")
    direction.save(tmp_path / "direction", overwrite=True)
    kept = Direction.load(tmp_path / "direction")
    assert (torch.equal(kept.rows, direction.rows), str(kept), kept.model) == (True, str(direction), None)
    assert "any of width 32" in direction._repr_html_()
    for op in (Add(direction, 9.0), Project(direction), Gate(Add(direction, 9.0), Reads(direction, -1e3))):
        recipe = Recipe([("resid_post.1", op)])
        recipe.save(tmp_path / type(op).__name__)
        again = Recipe.load(tmp_path / type(op).__name__)
        assert (again.digest, again.model) == (recipe.digest, None)
        with model.hooked(again):
            steered = model.logits("w5 w9 w77")
        assert not torch.equal(steered, model.logits("w5 w9 w77"))


def test_a_given_direction_of_a_model_is_refused_elsewhere(tiny):
    direction = Direction.of(VECTOR, site="resid_post.1", model=tiny("llama"))
    assert direction.model == tiny("llama").reference
    with pytest.raises(InterpError, match="the recipe was made for tiny llama 0 with weights"):
        Recipe([("resid_post.1", Add(direction))]).check(tiny("llama", seed=1).reference)


@pytest.mark.parametrize(
    ("vector", "site", "message"),
    [
        (np.zeros(32), "resid_post.1", "direction is zero"),
        ([float("nan")] * 32, "resid_post.1", "NaN or infinite"),
        (torch.ones(31), "resid_post.1", r"shape \(1, 31\); expected \(k, 32\), rows in the residual stream of tiny"),
        (torch.ones(1, 1, 32), "resid_post.1", r"shape \(1, 1, 32\); expected \(d_model,\) or"),
        (3.0, "resid_post.1", r"shape \(\); expected"),
        ([[1.0, 2.0], [3.0]], "resid_post.1", "direction is a list; expected a Direction"),
        ({12: [1.0], 13: [2.0]}, "resid_post.1", "a mapping of 12, 13; give one of its values"),
        (torch.ones(32), "mlp_post.1", "not in the residual stream's basis"),
        (torch.ones(32), "resid_post.9", "unknown site 'resid_post.9'"),
    ],
)
def test_numbers_that_are_no_direction_are_refused(tiny, vector, site, message):
    with pytest.raises(InterpError, match=message):
        Direction.of(vector, site, tiny("llama"))
