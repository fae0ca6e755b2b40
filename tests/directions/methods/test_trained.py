"""A search trains the methods that are named, and says which had nothing to train on."""

import torch
from word_contrasts import choices, sentences

from interp import find
from interp.directions.methods.steering_vectors import steering_vector

SITE = "resid_post.1"


def test_a_search_trains_what_is_named(tiny):
    model = tiny("llama")
    found = find(model, sentences(), sites=SITE, methods=("diff_means", "reft_r1", "steering_vector"))
    assert found.methods == ["diff_means", "reft_r1"]
    assert [failure.method for failure in found.failures] == ["steering_vector"]
    assert "has no answers" in found.failures[0].reason
    assert found.best(1, "reft_r1")[0].stability is None, "training again is not worth a stability"
    pairs = choices()
    chosen = find(model, pairs, sites=SITE, methods=("steering_vector",)).best()[0].direction
    train, _ = pairs.split(0.3, seed=0)
    gap = torch.linalg.vector_norm(chosen.means[0] - chosen.means[1])
    torch.testing.assert_close(chosen.rows, steering_vector(model, train, SITE, float(gap)).direction.rows)
