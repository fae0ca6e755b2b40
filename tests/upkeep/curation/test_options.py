"""Options of a curation: latents are numbers, and a folder that is not there is named before the model is loaded."""

import pytest

from interp import InterpError
from interp.upkeep import ScorerSettings


def test_latents_are_numbers_from_a_text_too():
    assert ScorerSettings(model="m", sae="s", latents="5, 7").latents == (5, 7)
    assert ScorerSettings(model="m", sae="s", latents=(5,)).latents == (5,)
    assert ScorerSettings(model="m", sae="s", latents="5, book:sad, old, book:x, 7").latents == (
        5, "book:sad, old", "book:x", 7,
    )  # fmt: skip
    with pytest.raises(InterpError, match="latents"):
        ScorerSettings(model="m", sae="s", latents="5,x")


@pytest.mark.parametrize("given", [{"direction": "no/such"}, {"sae": "no/such", "latents": "5"}])
def test_a_folder_that_is_not_there_is_named_before_the_model_is_loaded(given):
    with pytest.raises(InterpError, match="no/such: no s"):
        ScorerSettings(model="also/not/there", **given).open()
