"""Damage: a direction whose removal destroys the model is refused with the figure, and the next one is offered."""

import pytest
import tiny_models
import torch

from interp import InterpError
from interp.auditing.damage import LIMIT, Damage, harmless, measure_damage
from interp.directions.direction import Direction
from interp.directions.findings import Finding
from interp.models.architectures.writers import writers
from interp.models.sites import Site

TEXTS = [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(5, 25)]


def model_of(name, size):
    """A model one of whose stream coordinates is `size` times the others: the table's and the gains' after writers."""
    model = tiny_models.build(name)
    with torch.no_grad():
        model.hf.get_input_embeddings().weight[:, 7] = size * model.hf.get_input_embeddings().weight[:, 7]
        for writer in writers(model.config, model.hf.state_dict()):
            if writer.gain:
                model.hf.get_parameter(writer.gain)[7] = size
    return model


def finding(model, *axes):
    """A direction that leans on the first axis."""
    row = torch.zeros(1, model.d_model)
    row[0, list(axes)] = torch.tensor([0.95, 0.3][: len(axes)])
    return Finding(Direction(row, Site("resid_post", 1), -1, f"axis{axes[0]}", model.reference, "", {}), 0.9, 2.0)


@pytest.mark.parametrize("size", [1000.0, 1.0])
def test_a_direction_that_leans_on_a_massive_coordinate_is_refused_and_the_next_is_offered(size):
    model = model_of("gemma2", size)
    massive, other = finding(model, 7, 3), finding(model, 4)
    if size == 1.0:
        chosen, damage = harmless(model, [massive, other], TEXTS)
        assert chosen is massive
        assert damage.harmless
        return
    with pytest.raises(InterpError, match=r"axis7 .* costs too much: text loss .*; axis4 .* costs less .*--force"):
        harmless(model, [massive, other], TEXTS)
    with pytest.raises(InterpError, match="no other candidate costs less"):
        harmless(model, [massive], TEXTS)
    forced, damage = harmless(model, [massive, other], TEXTS, force=True)
    assert forced is massive
    assert damage.loss_after - damage.loss_before > 10 * LIMIT
    assert damage.written_after > damage.written_before + 1, "what it writes is as unlikely"
    assert harmless(model, [other, massive], TEXTS)[0] is other


def test_the_losses_are_the_models_own_on_the_first_texts():
    model = tiny_models.build("llama")
    damage = measure_damage(model, finding(model, 4).direction, TEXTS)
    assert damage.loss_before == pytest.approx(model.loss(TEXTS[:16]))
    assert damage.loss_after != damage.loss_before
    with pytest.raises(InterpError, match="two tokens"):
        measure_damage(model, finding(model, 4).direction, ["w5"])


def test_a_loss_that_is_not_a_number_is_no_small_one():
    assert not Damage(2.0, float("nan")).harmless
    assert not Damage(2.0, 2.0 + LIMIT + 0.01).harmless
    assert Damage(2.0, 2.0 + LIMIT - 0.01).harmless
