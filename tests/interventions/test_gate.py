"""Gates: what opens them, how often they should be measured to, and what is refused."""

import pytest
import torch

from interp import InterpError, Recipe
from interp.interventions import Add, Fires, Gate, Reads, rates, threshold

SITE = "resid_post.1"
YES = [f"w{n} w{n + 9} w5" for n in range(20, 60)]
NO = [f"w{n} w{n + 9} w9" for n in range(20, 60)]


@pytest.fixture
def model(tiny):
    return tiny("llama")


@pytest.fixture
def row(model):
    """Towards w5 from w9, at the last token."""
    yes, no = (model.capture(side, SITE, positions=-1)[SITE][:, 0] for side in (YES[::2], NO[::2]))
    return yes.mean(0) - no.mean(0)


PUSH = Add(torch.ones(32))


def test_a_threshold_keeps_the_false_positives_it_was_given(model, row):
    gate = Gate(PUSH, Reads(row, 0.0), reduce="last")
    level = threshold(gate, model, NO[::2], 0.1, SITE)
    found = rates(Gate(PUSH, Reads(row, level), reduce="last"), model, YES[1::2], NO[::2], SITE)
    assert found.false_positive <= 0.1
    assert found.true_positive > 0.9, "the row separates what it was not fitted on, too"


def test_rates_are_of_what_the_gate_does(model, row):
    """Measured by intervention: the share of prompts whose next-token logits the gated op moves."""
    for per, reduce in (("sequence", "last"), ("sequence", "max"), ("token", "max")):
        scores = Gate(PUSH, Reads(row, 0.0), per, reduce, SITE)
        level = threshold(scores, model, NO, 0.3)
        gate = Gate(PUSH, Reads(row, level), per, reduce, SITE)
        found = rates(gate, model, YES, NO)
        for side, rate in ((YES, found.true_positive), (NO, found.false_positive)):
            with model.hooked(Recipe([("resid_post.2", gate)])):
                gated = model.logits(side)
            moved = (gated - model.logits(side)).abs().amax((1, 2)) > 1e-4
            assert float(moved.float().mean()) == pytest.approx(rate)


def test_nested_gates_open_where_both_conditions_hold(model, row):
    """Such as a language, and the threshold that is for it."""
    other = model.capture(["w20"], SITE)[SITE][0, -1]
    acts, real = model.capture(NO + YES, SITE)[SITE], torch.ones(80, 3) > 0

    def nest(outer, inner):
        gate = Gate(PUSH, Reads(row, inner), reduce="last", site=SITE)
        return Gate(gate, Reads(other, outer), reduce="mean", site=SITE)

    scores = [gate.score(acts, real) for gate in (nest(0.0, 0.0), nest(0.0, 0.0).op)]
    levels = [float(each.median()) for each in scores]
    nested, expected = nest(*levels), (scores[0] > levels[0]) & (scores[1] > levels[1])
    with model.hooked(Recipe([("resid_post.2", nested)])):
        gated = model.logits(NO + YES)
    moved = (gated - model.logits(NO + YES)).abs().amax((1, 2)) > 1e-4
    assert moved.tolist() == expected.tolist()
    assert 0 < expected.sum() < 40, "control: neither condition decides alone"


@pytest.mark.parametrize(("level", "how"), [(-1e6, "always: on 100%"), (1e6, "never: on 0%")])
def test_a_gate_that_does_not_decide_is_warned_of(model, row, level, how):
    with pytest.warns(UserWarning, match=f"the gate opened {how}"):
        rates(Gate(PUSH, Reads(row, level)), model, YES, NO, SITE)


def test_a_gate_goes_by_what_comes_before_its_op(model, row):
    gate = Gate(PUSH, Reads(row, 0.0), site="resid_post.2")
    assert Recipe([("resid_post.2", gate)]).bind(model)
    with pytest.raises(InterpError, match=r"Gate at mlp_out\.1 reads resid_post\.2, which comes later"):
        Recipe([("mlp_out.1", gate)]).bind(model)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reads(torch.zeros(32), 0.0), "one non-zero row"),
        (lambda: Reads(torch.ones(32), float("nan")), "threshold of Reads is nan"),
    ],
)
def test_bad_gates_are_refused(make, message):
    with pytest.raises(InterpError, match=message):
        make()


def test_latents_that_are_not_there_are_refused(model):
    from sae_samples import autoencoder

    with pytest.raises(InterpError, match="latent 40 does not exist; expected one from 0 to 39"):
        Fires(autoencoder(model), 40)


def test_rates_need_to_know_where(model, row):
    with pytest.raises(InterpError, match="give that site"):
        rates(Gate(PUSH, Reads(row, 0.0)), model, YES, NO)
