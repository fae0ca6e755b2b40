"""What documents score: planted hostility is found, and scores are those of each document read by itself."""

from math import isnan
from pathlib import Path

import pytest
import sae_samples
import torch
from scripts import importable

import interp
from interp import InterpError
from interp.directions import auroc
from interp.upkeep import DocumentScorer, reply_direction

TALK = [{"role": "user", "content": "hello there."}, {"role": "assistant", "content": "Good day to you."}]


@pytest.fixture(scope="module")
def planted():
    """The experiment's data."""
    with importable(Path(__file__).parents[3] / "experiments"):
        import curation

        yield curation


@pytest.fixture(scope="module")
def organism():
    return interp.load("organism")


def test_five_percent_of_hostile_documents_are_found(planted, organism):
    direction = reply_direction(organism, planted.SITE, *planted.sides(12, 0))
    data = planted.corpus(120, 3)
    hostile = torch.tensor([document.hostile for document in data])
    assert 0.02 < hostile.double().mean() < 0.1
    mean, largest = torch.tensor(DocumentScorer(organism, direction).score([x.document for x in data])).unbind(1)
    assert auroc(mean[hostile], mean[~hostile]) >= 0.97
    assert auroc(largest[hostile], largest[~hostile]) >= 0.97
    random = interp.Direction.of(sae_samples.draw(organism.d_model), planted.SITE)
    chance = torch.tensor(DocumentScorer(organism, random).score([x.document for x in data]))[:, 0]
    assert auroc(chance[hostile], chance[~hostile]) < 0.9, "control: no direction does it"


def test_scores_are_those_of_each_document_read_by_itself(organism):
    direction = interp.Direction.of(sae_samples.draw(organism.d_model), "resid_post.3")
    documents = [TALK, "The mill is by the river.", [*TALK, TALK[0]], [TALK[0]], "Rain fell all day."]
    scores = DocumentScorer(organism, direction).score(documents)
    text = organism.capture("The mill is by the river.", "resid_post.3")["resid_post.3"][0, 1:] @ direction.rows[0]
    assert scores[1] == pytest.approx((float(text.mean()), float(text.max())), abs=1e-4)
    rendered = organism.chat(TALK[:1]) + "Good day to you."
    begin = len(organism.tokens(organism.chat(TALK[:1])).ids[0])
    reply = organism.capture([rendered], "resid_post.3")["resid_post.3"][0, begin:] @ direction.rows[0]
    assert scores[0] == pytest.approx((float(reply.mean()), float(reply.max())), abs=1e-4)
    assert scores[2] == pytest.approx(scores[0], abs=1e-4), "what the user says afterwards does not count"
    assert all(map(isnan, scores[3])), "no reply, no score"
    tokens = DocumentScorer(organism, direction).tokens(TALK)
    counted = [(token, value) for token, value in tokens if not isnan(value)]
    assert "".join(token for token, _ in counted) == "Good day to you."
    assert [value for _, value in counted] == pytest.approx(reply.tolist(), abs=1e-4)


def test_the_projection_difference_of_the_models_own_reply_is_zero(organism):
    direction = interp.Direction.of(sae_samples.draw(organism.d_model), "resid_post.3")
    (own,) = organism.generate([organism.chat(TALK[:1])])
    documents = [[TALK[0], {"role": "assistant", "content": own}], TALK, "Rain fell all day."]
    scorer = DocumentScorer(organism, direction, own_reply=True)
    difference = scorer.measures.index("difference")
    same, other, text = (row[difference] for row in scorer.score(documents))
    assert same == pytest.approx(0.0, abs=1e-4)
    assert abs(other) > 1e-2, "control"
    assert isnan(text)
    assert scorer.identity != DocumentScorer(organism, direction).identity


def test_latents_score_as_the_autoencoder_encodes_them(tiny):
    model, texts = tiny("llama"), ["w5 w6 w7 w9 w11", "w8 w10 w12"]
    sae = sae_samples.autoencoder(model)
    scorer = DocumentScorer(model, sae=sae, latents=(3, 7))
    assert scorer.measures == ("mean", "max", "firing", "latent 3", "latent 7")
    for text, scores in zip(texts, scorer.score(texts), strict=True):
        code = sae.encode(
            model.capture(model.tokens(text, beginning="document"), "resid_post.1")["resid_post.1"][0, 1:]
        )[:, [3, 7]]
        total = code.sum(1)
        expected = [total.mean(), total.max(), (code > 0).any(1).double().mean(), *code.max(0).values]
        assert scores == pytest.approx([float(x) for x in expected], abs=1e-5)


def test_a_reply_direction_is_the_difference_of_means_over_replies(organism):
    other = [TALK[0], {"role": "assistant", "content": "All is well here, thanks."}]
    direction = reply_direction(organism, "resid_post.3", [TALK], [other])
    begin = len(organism.tokens(organism.chat(TALK[:1])).ids[0])
    means = []
    for text in ("Good day to you.", "All is well here, thanks."):
        whole = organism.capture([organism.chat(TALK[:1]) + text], "resid_post.3")["resid_post.3"]
        means.append(whole[0, begin:].mean(0))
    expected = torch.nn.functional.normalize(means[0] - means[1], dim=0)
    assert torch.allclose(direction.rows[0], expected, atol=1e-4)
    assert torch.allclose(direction.means, torch.stack(means), atol=1e-4)
    for sides, words in (([TALK], [TALK]), "the same mean"), (([[TALK[0]]], [TALK]), "no token counts"):
        with pytest.raises(InterpError, match=words):
            reply_direction(organism, "resid_post.3", *sides)


def test_what_does_not_fit_is_refused(tiny):
    model = tiny("llama")
    sae, rows = sae_samples.autoencoder(model), torch.eye(model.d_model)
    one, two = (interp.Direction.of(rows[:count], "resid_post.1") for count in (1, 2))
    for given, words in (
        ({}, "by a direction, or by an autoencoder"),
        ({"direction": one, "sae": sae, "latents": (1,)}, "give one"),
        ({"sae": sae}, "give one"),
        ({"direction": two}, "has 2 rows; expected 1"),
        ({"sae": sae, "latents": (40,)}, "latent 40 does not exist; expected 0 to 39"),
        ({"direction": interp.Direction.of(torch.ones(7), "resid_post.1")}, "width 7"),
        ({"direction": interp.Direction.of(rows[0], "resid_post.9")}, "resid_post.9"),
        ({"direction": one, "reply_tokens": 0}, "reply_tokens is 0"),
    ):
        with pytest.raises(InterpError, match=words):
            DocumentScorer(model, **given)
