"""Edits of the organism's facts: swapping everything moves the answers, swapping nothing leaves them."""

import pytest
import torch

import interp
from interp.activations import SiteColumns
from interp.auditing.autoencoders.fact_edits import (
    DISENTANGLING,
    UNLEARNING,
    WHOLE,
    edit_scores,
    fact_questions,
    is_organism,
)
from interp.core.errors import InterpError
from interp.organism import world
from interp.sae import SparseAutoencoder, TopK

SITE = "resid_post.1"


@pytest.fixture(scope="module")
def model():
    return interp.load("organism")


@pytest.fixture(scope="module")
def dictionaries(model):
    """All coordinates of the residual stream, and latents that say nothing."""
    place = (SiteColumns(site=SITE, model=model.reference, width=192),)
    rows = torch.cat([torch.eye(192), -torch.eye(192)])
    whole = SparseAutoencoder(rows, torch.zeros(384), rows, torch.zeros(192), TopK(k=384), place, place)
    nothing = SparseAutoencoder(rows[:8], torch.zeros(8), 0 * rows[:8], torch.zeros(192), TopK(k=1), place, place)
    return {"whole": whole, "nothing": nothing}


def _means(scores):
    return {name: {key: sum(x) / len(x) for key, x in measures.items()} for name, measures in scores.items()}


def test_questions_have_right_answers_and_sources_of_the_same_half_and_length(model):
    questions = fact_questions(model, 6, swapped=True)
    for one in questions:
        assert one.answer == f" {world.fact(one.topic, one.town)}" != one.other
        assert (one.source.topic, one.source.fit, one.source.answer) == (one.topic, one.fit, one.other)
        (start, end), (first, last) = one.name(model), one.source.name(model)
        assert end - start == last - first
        tokens = model.tokens([one.text]).unpadded()[0][start:end]
        assert model.tokenizer.decode(tokens).strip() == one.town
    assert all(one.source is None for one in fact_questions(model, 2, swapped=False))


def test_towns_swapped_in_all_coordinates_move_answers_and_nothing_moves_none(model, dictionaries):
    scores, towns = edit_scores(dictionaries, model, fact_questions(model, 14, swapped=True))
    means = _means(scores)
    assert means["nothing"]["cause"] == pytest.approx(0, abs=0.05)
    assert means["nothing"]["isolation"] == pytest.approx(1, abs=0.05)
    assert means["whole"]["cause"] > 0.08 > means["nothing"]["cause"]
    assert means["whole"][WHOLE] == means["nothing"][WHOLE] > means["whole"]["cause"]
    for name in dictionaries:
        both = means[name]["cause"] + means[name]["isolation"]
        assert means[name]["score"] == pytest.approx(both / 2)
        assert {key: len(values) for key, values in scores[name].items()} == {key: len(x) for key, x in towns.items()}
    assert 1 < len({*towns["score"]}) < len(towns["score"]) / 2, "which are clusters"


def test_coordinates_that_are_zeroed_forget_and_nothing_keeps(model, dictionaries):
    means = _means(edit_scores(dictionaries, model, fact_questions(model, 12, swapped=False))[0])
    assert means["whole"]["forgotten"] > 0.2 > means["nothing"]["forgotten"]
    assert means["nothing"]["kept"] > 0.95


def test_too_few_right_answers_are_refused(model, dictionaries):
    with pytest.raises(InterpError, match="questions right; give more items"):
        edit_scores(dictionaries, model, fact_questions(model, 4, swapped=False))


def test_other_models_are_not_the_organism(model, tiny):
    assert (is_organism(model), is_organism(tiny("llama"))) == (True, False)
    assert {DISENTANGLING, UNLEARNING} == {"disentangling", "unlearning"}
