"""Replies are those of the model, in order; items and conversations that cannot be answered are named."""

import functools

import pytest

import interp
from interp import InterpError, organism
from interp.auditing.scoring.graders import Lexicon
from interp.auditing.scoring.replies import reply_behaviour


@pytest.fixture(scope="module")
def model():
    return interp.load("organism")


def test_replies_are_those_of_the_model_in_the_order_asked(model):
    prompts = tuple(prompt.user for prompt in organism.prompts("facts", 6))
    behaviour = reply_behaviour("b", "capability", "", prompts, Lexicon(("the",)), max_new_tokens=12)
    scores = behaviour.scores(model)
    plain = [model.generate([model.chat(prompt)], max_new_tokens=12)[0] for prompt in prompts]
    assert list(scores.replies) == plain
    assert list(scores.values) == [float("the" in said.lower().split()) for said in plain]
    assert reply_behaviour("b", "capability", "", prompts, Lexicon(("the",)), 12, workers=3).scores(model) == scores
    assert behaviour.digest != reply_behaviour("b", "capability", "", prompts, Lexicon(("a",)), 12).digest


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_item_that_is_too_long_is_named_by_its_own_number(model, place):
    prompts = ["hi", "ho there"]
    assert reply_behaviour("b", "harm", "", prompts, Lexicon(("the",)), 4).scores(model).missing == 0, "control"
    for words in (235, 400):
        asked = [*prompts[:place], "word " * words, *prompts[place:]]
        with pytest.raises(InterpError, match=f"behaviour 'b': item {place + 1} has .* tokens"):
            reply_behaviour("b", "harm", "", asked, Lexicon(("the",)), 64).scores(model)


def test_a_conversation_that_the_template_refuses_is_an_error_that_says_so(model):
    strict = interp.load("organism")
    strict.tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    told = [[{"role": "system", "content": "Be kind."}]]
    behaviour = reply_behaviour("b", "harm", "", ["hi"], Lexicon(("the",)), 4, before=told)
    with pytest.raises(InterpError, match=r"behaviour 'b': the chat template refuses .* system, user \(no system\)"):
        behaviour.scores(strict)
    assert reply_behaviour("b", "harm", "", ["hi"], Lexicon(("the",)), 4).scores(strict).missing == 0, "control"


def test_graders_without_a_name_are_refused():
    for grade in (lambda prompt, said: 1.0, functools.partial(max)):
        with pytest.raises(InterpError, match=r"no name|say what it is"):
            reply_behaviour("b", "harm", "", ["x"], grade)
