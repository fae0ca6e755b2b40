"""Fidelity against its definition: variance of the change, and what the edit and its stand-in do to the next token."""

import pytest
import torch

from interp import InterpError, Project, Recipe
from interp.activations.token_rows import pack_rows
from interp.editing.approximate.fidelity import measure_fidelity
from interp.interventions.gate import Gate, Reads
from interp.models.sites import Site

TEXTS = [
    " ".join(f"w{n}" for n in torch.randint(4, 128, (15,), generator=torch.Generator().manual_seed(seed)).tolist())
    for seed in range(6)
]
ROW = torch.randn(1, 32, generator=torch.Generator().manual_seed(9))


def projection(scale=1.0):
    return Recipe([("mlp_out.1", Project(ROW, scale))])


def test_half_an_edit_leaves_a_quarter_of_the_squares(tiny):
    """The difference is half the change, so a quarter of its squares is missing, relative to the variance."""
    model, site = tiny("llama"), Site.parse("mlp_out.1")
    packed = pack_rows(model, TEXTS, 32)
    x = model.forward_to([site], packed.model_inputs(model.device))[site][packed.inner].double()
    change = projection().edits[0].op(x) - x
    squares = float(change.square().sum())
    variance = squares - float(change.sum(0).square().sum()) / len(change)
    half = measure_fidelity(model, projection(), projection(0.5), TEXTS, context=32)
    assert half.explained == pytest.approx(1 - squares / 4 / variance, abs=1e-6)
    assert half.tokens == len(change)
    assert 0 < half.kl < half.effect_kl


def test_a_plain_model_in_place_of_an_edit_reproduces_nothing(tiny):
    model = tiny("llama")
    plain = measure_fidelity(model, projection(), model, TEXTS, context=32)
    assert plain.kl > 0
    assert plain.reproduced == pytest.approx(0, abs=0.01)
    assert plain.explained <= 0
    same = measure_fidelity(model, projection(), projection(), TEXTS, context=32)
    assert (same.explained, same.reproduced) == (1, pytest.approx(1, abs=1e-6)), "control"
    never = Recipe([("mlp_out.1", Gate(Project(ROW), Reads(ROW[0], 1e6), per="token"))])
    with pytest.raises(InterpError, match="changes nothing on these texts"):
        measure_fidelity(model, never, projection(), TEXTS, context=32)
