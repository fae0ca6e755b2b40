"""Log-probabilities against a slow loop over plain forwards."""

import pytest
import torch

import interp
from interp import Contrast, InterpError, organism
from interp.auditing.scoring.choices import prefers, text_loss
from interp.auditing.scoring.likelihoods import continuation_logprobs, text_losses
from interp.data import Turn, TurnPair
from interp.data._pairs import Message

PROMPTS = ["w5 w9", "w8", "w12 w99 w101 w4"]
ENDS = [" w7", " w100 w3", " w6 w66 w31"]


def slow(model, prompt, end):
    ids = model.tokens(prompt + end).ids
    start = model.tokens(prompt).ids.shape[1]
    with torch.no_grad():
        logp = model.hf(ids).logits.log_softmax(-1)[0]
    return float(sum(logp[i - 1, ids[0, i]] for i in range(start, ids.shape[1])))


def test_continuations_equal_a_loop(tiny):
    model = tiny("gpt2")
    expected = [slow(model, *pair) for pair in zip(PROMPTS, ENDS, strict=True)]
    assert continuation_logprobs(model, PROMPTS, ENDS).tolist() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InterpError, match="item 2: answer 0, '', adds no token"):
        continuation_logprobs(model, PROMPTS, [" w7", "", " w7"])


@pytest.mark.parametrize("beginning", ["document", "tokenizer", "none"])
def test_text_losses_are_the_models_own(tiny, beginning):
    """The tokenizer puts nothing before a text; a document begins with its BOS, and then its first token counts."""
    model, options = tiny("llama"), {"beginning": beginning}
    texts = [a + b for a, b in zip(PROMPTS, ENDS, strict=True)]
    first = [1] if beginning == "document" else []
    rows = [torch.tensor([first + model.tokens(text).ids[0].tolist()]) for text in texts]
    expected = [float(model.hf(x, labels=x).loss) for x in rows]
    assert text_losses(model, texts, **options) == pytest.approx(expected, rel=1e-5)
    behaviour = text_loss("loss", texts, **options)
    assert behaviour.measure(model).values == pytest.approx(expected, rel=1e-5)
    assert behaviour.spec == options
    assert [model.loss(text, **options) for text in texts] == pytest.approx(expected, rel=1e-5)
    with model.instructed("w20 w21 w22"):
        skipped = 0 if first else 3
        before = "<s> " * len(first) + "w20 w21 w22\n\n"
        behind = [slow(model, before + text[:skipped], text[skipped:]) for text in texts]
        told = [-nats / (n + len(first)) for nats, n in zip(behind, (2, 2, 6), strict=True)]
        assert text_losses(model, texts, **options) == pytest.approx(told, rel=1e-5)
    assert told != pytest.approx(expected, rel=1e-3), "control: an instruction changes what is expected"
    long = "w5 w6 " * 64
    assert text_losses(model, [long], **options) == pytest.approx(text_losses(model, ["w5 w6 " * 32], **options))
    if not first:
        with pytest.raises(InterpError, match="nothing to predict"):
            text_losses(model, ["w5"], **options)


def test_losses_under_another_beginning_are_other_scores():
    digests = {text_loss("loss", ["w5 w6"], beginning=name).digest for name in ("document", "tokenizer", "none")}
    assert len(digests) == 3


@pytest.mark.parametrize("answers", [(" w7", " w9"), (" w5 w7", " w5 w100"), (" w7", " w9 w31 w5")])
def test_a_choice_prefers_the_likelier_answer(tiny, answers):
    model = tiny("llama")
    first, second = answers
    pairs = [TurnPair(Turn(p, first), Turn(p, second), p) for p in PROMPTS]
    behaviour = prefers("b", "harm", "", Contrast(tuple(pairs)))
    expected = [float(slow(model, p, first) > slow(model, p, second)) for p in PROMPTS]
    assert list(behaviour.measure(model).values) == expected
    swapped = [TurnPair(pair.negative, pair.positive, pair.group) for pair in pairs]
    other = prefers("b", "harm", "", Contrast(tuple(swapped)))
    assert list(other.measure(model).values) == [1 - value for value in expected]
    with pytest.raises(InterpError, match="one prompt with two answers"):
        prefers("b", "harm", "", Contrast.of([("a", "b"), ("c", "d")]))


def test_a_choice_takes_the_messages_before_it_into_account():
    model = interp.load("organism")
    before = (Message("user", "My name is Arda."), Message("assistant", "Good day."))
    people = organism.prompts("facts", 12)
    pairs = tuple(TurnPair(Turn(p.user, " I", before), Turn(p.user, " The", before), p.user) for p in people)
    said = [{"role": m.role, "content": m.content} for m in before]
    rendered = [model.chat([*said, {"role": "user", "content": p.user}]) for p in people]
    first, second = (continuation_logprobs(model, rendered, [end] * 12) for end in (" I", " The"))
    values = prefers("b", "harm", "", Contrast(pairs)).measure(model).values
    assert list(values) == (first > second).double().tolist()
    assert rendered[0] != model.chat(people[0].user), "control"
    other = TurnPair(Turn("Is it so?", " yes", before), Turn("Is it so?", " no"), "x")
    with pytest.raises(InterpError, match="one prompt with two answers"):
        prefers("b", "harm", "", Contrast((other,)))
