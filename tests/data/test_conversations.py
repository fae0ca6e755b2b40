"""An assistant's words are found in the rendered conversation, or the conversation is refused."""

from copy import deepcopy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import InterpError
from interp.data import render_conversation
from interp.data.packing import encode


@given(st.lists(st.text("abc \n", min_size=1, max_size=30), min_size=1, max_size=6))
def test_the_assistants_words_are_found_under_the_template(byte_level, contents):
    roles = ["user", "assistant"]
    chat = [{"role": roles[turn % 2], "content": content} for turn, content in enumerate(contents)]
    [document] = encode([chat], byte_level)
    said = byte_level.decode(document.ids[document.assistant])
    expected = [turn["content"].strip() for turn in chat if turn["role"] == "assistant"]
    assert "".join(said.split()) == "".join("".join(expected).split())
    assert document.ids.tolist().count(byte_level.bos_token_id) == 1


def test_conversations_that_cannot_be_placed_are_refused(tiny, byte_level):
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "good day"}]
    with pytest.raises(InterpError, match="no chat template"):
        list(encode([chat], tiny("llama").tokenizer))
    for template, message in (
        ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "does not keep an assistant's words in place"),
        ("{{ raise_exception('no such role') }}", "refuses a conversation.*no such role"),
    ):
        other = deepcopy(byte_level)
        other.chat_template = template
        with pytest.raises(InterpError, match=message):
            list(encode([chat], other))


def test_words_of_others_are_never_the_assistants(byte_level):
    """A template that leaves earlier replies out: the reply's words stand elsewhere, in the user's mouth."""
    forgetful = deepcopy(byte_level)
    forgetful.chat_template = (
        "{% for m in messages %}[{{ m.role }}] "
        "{{ '(omitted)' if m.role == 'assistant' and not loop.last else m.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    words = [("user", "hi"), ("assistant", "yes"), ("user", "say yes"), ("assistant", "ok")]
    with pytest.raises(InterpError, match="does not keep an assistant's words in place"):
        list(encode([[{"role": role, "content": content} for role, content in words]], forgetful))


def test_an_empty_thought_before_the_words_is_passed_over(byte_level):
    thinking = deepcopy(byte_level)
    thinking.chat_template = (
        "{% for m in messages %}[{{ m.role }}]\n{{ '<think>\n\n</think>\n\n' if m.role == 'assistant' }}"
        "{{ m.content }}{% endfor %}{% if add_generation_prompt %}[assistant]\n{% endif %}"
    )
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "good day"}]
    [document] = encode([chat], thinking)
    assert thinking.decode(document.ids[document.assistant]).strip() == "good day"


THOUGHT, ANSWER = "<think>\nHm, a good day.\n</think>\n\n", "a good day"
_AFTER = "m.content.split('</think>')[-1] | trim"
REASONING = {
    "dropped": f"{{{{ {_AFTER} if m.role == 'assistant' else m.content }}}}",
    "of the last turn only": f"{{{{ m.content if loop.last or m.role == 'user' else {_AFTER} }}}}",
    "written anew": "{% if '</think>' in m.content %}<thought>"
    f"{{{{ m.content.split('</think>')[0].split('<think>')[-1] | trim }}}}</thought>{{{{ {_AFTER} }}}}"
    "{% else %}{{ m.content }}{% endif %}",
    "kept": "{{ m.content }}",
}


@pytest.mark.parametrize("opened", ["", "<think>\n"])
@pytest.mark.parametrize("name", REASONING)
def test_answers_are_located_under_templates_of_reasoning_models(byte_level, name, opened):
    thinking = deepcopy(byte_level)
    body = "{% for m in messages %}[{{ m.role }}] " + REASONING[name] + "\n{% endfor %}"
    thinking.chat_template = body + "{% if add_generation_prompt %}[assistant] " + opened + "{% endif %}"
    words = [("user", "a good day"), ("assistant", THOUGHT + ANSWER), ("user", "b"), ("assistant", THOUGHT + "the day")]
    chat = [{"role": role, "content": content} for role, content in words]
    text, spans = render_conversation(chat, thinking)
    shown = [text[begin:end] for begin, end in spans]
    kept = {"kept": [True, True], "of the last turn only": [False, True]}
    expected = zip(kept.get(name, [False, False]), (ANSWER, "the day"), strict=True)
    assert shown == [THOUGHT * whole + answer for whole, answer in expected]
    assert [text[:begin].count("[assistant] ") for begin, _ in spans] == [1, 2], "each in its own turn"
