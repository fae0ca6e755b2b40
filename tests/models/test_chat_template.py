"""Chat templates: the date that they print, their variables, and the marks of turns, documents and thoughts."""

import sys
from copy import deepcopy

import pytest
import tiny_models
from tokenizers.processors import TemplateProcessing

import interp
from interp import InterpError
from interp.models import ChatTemplate, answer_of
from interp.models.chat_template import DATE, document_beginning, reply_texts

ASKED = [{"role": "user", "content": "w5"}]
DATED = "{{ strftime_now('%H:%M:%S %d %b %Y') }} {{ messages[0].content }}"
MARKED = "{% for m in messages %}<|im_start|> {{ m.role }} {{ m.content }} <|im_end|> {% endfor %}"


def tokenizer(template=None, special=(), **names):
    made = deepcopy(tiny_models.tokenizer())
    made.add_special_tokens({"additional_special_tokens": list(special)} | names)
    made.chat_template = template
    return made


def test_a_template_that_reads_the_clock_prints_a_fixed_date(monkeypatch):
    template = ChatTemplate(tokenizer(DATED))
    assert [template.prints_date, ChatTemplate(tokenizer(MARKED)).prints_date] == [True, False]
    assert template.render(ASKED) == "00:00:00 01 Jan 2025 w5"
    assert ChatTemplate(template.tokenizer, date="2026-03-04").render(ASKED) == "00:00:00 04 Mar 2026 w5"
    now = template.tokenizer.apply_chat_template(ASKED, tokenize=False)
    assert not now.startswith("00:00:00 01 Jan 2025"), "control: the clock goes on for others"
    for date in ("2026-3-4", "2026-02-30", "today"):
        with pytest.raises(InterpError, match="expected a day as YYYY-MM-DD"):
            ChatTemplate(template.tokenizer, date=date)


@pytest.mark.skipif(sys.platform != "linux", reason="templates render in a process of their own on Linux only")
def test_a_template_that_draws_at_random_draws_the_same_each_time():
    for drawn in ("{{ range(1000)|random }}", "{{ lipsum(n=1) }}"):
        made = tokenizer(drawn + "{{ messages[0].content }}")
        own = {made.apply_chat_template(ASKED, tokenize=False) for _ in range(8)}
        assert len(own) > 1, "control"
        assert len({str(ChatTemplate(made).render(ASKED)) for _ in range(8)}) == 1


def test_a_model_records_the_date_and_the_variables_where_they_count(tmp_path):
    made = tiny_models.build("llama")
    made.hf.save_pretrained(tmp_path)
    made.tokenizer.chat_template = DATED + "{{ ' w9' if thinking }}"
    made.tokenizer.save_pretrained(tmp_path)
    usual, later, thinking = (
        interp.load(tmp_path, **options) for options in ({}, {"date": "2026-03-04"}, {"template": {"thinking": True}})
    )
    assert (usual.identity.date, later.identity.date) == (DATE, "2026-03-04")
    assert later.chat("w5") == "00:00:00 04 Mar 2026 w5"
    assert thinking.chat("w5").endswith("w5 w9")
    assert thinking.chat("w5", thinking=False).endswith("w5")
    assert thinking.render("w5", {"thinking": 0}) == usual.chat("w5") == usual.render("w5")
    chats = usual.tokens("w5", chat={"thinking": True}), thinking.tokens("w5", chat=True)
    assert chats[0].ids.tolist() == chats[1].ids.tolist()
    assert len({model.identity.settings for model in (usual, later, thinking)}) == 3
    made.tokenizer.chat_template = MARKED
    plain = made.identity
    made.date = "2026-03-04"
    assert made.identity == plain, "control: a template without a date"
    assert "date" not in plain.model_dump()
    with pytest.raises(InterpError, match="this chat template has no variable 'enable_thinking'"):
        made.chat("w5", enable_thinking=False)


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (MARKED, ["<|im_end|>"]),
        ("{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}", ["</s>"]),
        ("{% for m in messages %}{{ m.content }} w9 {% endfor %}", []),
        ("{{ raise_exception('no') if messages | length > 1 else messages[0].content }}", []),
        ("{{ messages[0].content }}", []),
        ("{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}", ["<|user|>", "<|tool|>"]),
        (
            "{% for m in messages %}{% if not loop.first %} w9 <|im_end|>{% endif %}{{ m.content }}{% endfor %}",
            ["<|im_end|>"],
        ),
        (
            "{% for m in messages %}<|user|>{{ m.content }}{% if loop.last %}</s>{% endif %}{% endfor %}",
            ["</s>", "<|user|>"],
        ),
        (
            "{% for m in messages %}{{ raise_exception('') if m.role == 'tool' }}{{ m.content }}</s>{% endfor %}",
            ["</s>"],
        ),
        ("{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>", ["<|im_end|>"]),
        ("{% for m in messages[:1] %}{{ m.content }}<|im_end|>{% endfor %}", []),
    ],
)
def test_a_turn_ends_with_the_special_token_behind_its_words(template, ends):
    """One that opens the next turn ends this one; what stands behind the next turn's words does not."""
    marks = ["<|im_start|>", "<|im_end|>", "<|user|>", "<|tool|>", "<|assistant|>"]
    made = ChatTemplate(tokenizer(template, marks))
    assert made.tokenizer.convert_ids_to_tokens(made.ends) == ends


def test_added_tokens_that_are_spaces_end_nothing():
    made = ChatTemplate(tokenizer("{% for m in messages %}{{ m.content }}\n\n<|im_end|>{% endfor %}", ["<|im_end|>"]))
    made.tokenizer.add_tokens(["\n\n"])
    assert made.tokenizer("\n\n", add_special_tokens=False)["input_ids"] == [len(made.tokenizer) - 1], "control"
    assert made.tokenizer.convert_ids_to_tokens(made.ends) == ["<|im_end|>"]


@pytest.mark.parametrize(
    ("names", "template", "post", "begins"),
    [
        ({"bos_token": "<|im_start|>"}, MARKED, None, ["<|endoftext|>"]),
        ({}, None, None, ["<|endoftext|>"]),
        ({}, MARKED, "<s> $A </s>", ["<s>"]),
        ({}, MARKED, "</s> <s> $A", ["</s>", "<s>"]),
    ],
)
def test_a_document_begins_as_those_of_pretraining(names, template, post, begins):
    made = tokenizer(template, ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], **names)
    if post:
        single = {"single": post, "special_tokens": [("<s>", 1), ("</s>", 2)]}
        made.backend_tokenizer.post_processor = TemplateProcessing(**single)
    assert made.convert_ids_to_tokens(document_beginning(ChatTemplate(made))) == begins


def test_a_document_without_a_separator_begins_with_bos_unless_that_opens_turns():
    made = tokenizer(MARKED, ["<|im_end|>"])
    assert document_beginning(ChatTemplate(made)) == [1]
    made.add_special_tokens({"bos_token": "<|im_start|>"})
    assert document_beginning(ChatTemplate(made)) == []


@pytest.mark.parametrize(
    ("prompt", "reply", "answer"),
    [
        ("", " Yes.\n", " Yes.\n"),
        ("", "<think>\nI can't?\n</think>\n\nSure.", "Sure."),
        ("", "I can't? </think> Sure.", "Sure."),
        ("", "<think>a</think> b <think>c</think> d", "b  d"),
        ("", "<think> a", None),
        ("", "Hm. <think> a", None),
        ("x<think>\n", "a", None),
        ("x<think>\n", "a <think> b </think> c", "c"),
        ("x<think>\n\n</think>\n\n", "a", "a"),
        ("what is <think>? w9", "a", "a"),
        ("", "[THINK]a[/THINK]b", "b"),
        ("", "<seed:think>a</seed:think>b", "b"),
        ("", "<|START_THINKING|>a<|END_THINKING|>b", "b"),
        ("", "<|channel|>analysis<|message|>a assistant<|channel|>final<|message|>b", "b"),
    ],
)
def test_an_answer_is_what_is_said_outside_the_thought(prompt, reply, answer):
    assert answer_of(reply, prompt) == answer


def test_replies_keep_the_marks_of_thoughts_and_end_once():
    made = tokenizer(None, ["<think>", "</think>", "<|im_end|>"])
    think, closed, end = made.convert_tokens_to_ids(["<think>", "</think>", "<|im_end|>"])
    rows = [[think, 5, closed, 6, 2, end, 7, 8], [5, 1, 6]]
    assert [text.split() for text in reply_texts(rows, made, [end])] == [
        ["<think>", "w5", "</think>", "w6"],
        ["w5", "w6"],
    ]
    assert made.decode(rows[0], skip_special_tokens=True).split() == ["w5", "w6", "w7", "w8"], "control"
