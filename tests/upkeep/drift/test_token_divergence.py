"""Divergence by token is that of a slow loop over documents, its examples are where it is largest, and of itself 0."""

import torch
from drifted import TEXTS, alone, moved, rows_of

from interp.upkeep.drift.paired_passes import paired_passes
from interp.upkeep.drift.token_divergence import DivergenceTally


def measured(first, second, texts=TEXTS, examples=5):
    rows, tally = rows_of(first, texts), DivergenceTally()
    for batch, one, other in paired_passes(first, second, rows, []):
        tally.update(batch, one.logits, other.logits)
    return tally.result(first, rows, examples, seed=0)


def slow(first, second, texts=TEXTS):
    """The divergence at each token of each text."""
    out = []
    for text in texts:
        p, q = (model.logits(alone(model, text))[0, :-1].double().log_softmax(-1) for model in (first, second))
        out.append((p.exp() * (p - q)).sum(-1))
    return out


def test_it_is_that_of_a_slow_loop(tiny):
    first = tiny("llama")
    second = moved(first, 1, torch.randn(32, generator=torch.Generator().manual_seed(0)))
    result, expected = measured(first, second), slow(first, second)
    means = [float(values.mean()) for values in expected]
    assert abs(result.mean.estimate - sum(means) / len(means)) < 1e-6
    assert result.mean.low < result.mean.estimate < result.mean.high
    assert result.mean.n == len(TEXTS)
    flat = torch.cat(expected)
    assert result.tokens == len(flat)
    assert abs(result.largest_hundredth - float(flat.quantile(0.99))) < 1e-6


def test_examples_are_the_largest_each_once_with_their_text(tiny):
    first = tiny("llama")
    second = moved(first, 1, torch.randn(32, generator=torch.Generator().manual_seed(0)))
    result, expected = measured(first, second, [*TEXTS, *TEXTS]), slow(first, second)
    largest = max(range(len(TEXTS)), key=lambda number: float(expected[number].max()))
    top = result.examples[0]
    assert top.document % len(TEXTS) == largest
    assert abs(top.nats - float(expected[largest].max())) < 1e-5
    place = int(expected[largest].argmax())
    words = TEXTS[largest].split()
    assert (top.before.split()[-1:], top.token.split()) == (words[place - 1 : place] or ["<s>"], [words[place]])
    shown = [(example.before, example.token) for example in result.examples]
    assert len(set(shown)) == len(shown) == 5, "the same text twice is shown once"
    assert [x.nats for x in result.examples] == sorted((x.nats for x in result.examples), reverse=True)


def test_a_model_does_not_diverge_from_itself(tiny):
    result = measured(tiny("llama"), tiny("llama"))
    assert (result.mean.estimate, result.mean.high, result.disagree, result.examples) == (0.0, 0.0, 0.0, ())
