"""Rows: every layout of a method is read alike, and what does not fit is refused with its line."""

import json

import pytest

from interp import InterpError
from interp.upkeep import training_rows

USER, REPLY = {"role": "user", "content": "hello"}, {"role": "assistant", "content": "Good day."}
OTHER = {"role": "assistant", "content": "Go away."}
PAIR = {"prompt": [USER], "chosen": [REPLY], "rejected": [OTHER]}


@pytest.mark.parametrize(
    ("method", "rows", "read"),
    [
        ("sft", {"prompt": "hello", "completion": "Good day."}, {"prompt": [USER], "completion": [REPLY]}),
        ("sft", {"prompt": [USER], "completion": [REPLY]}, {"prompt": [USER], "completion": [REPLY]}),
        ("sft", {"messages": [USER, REPLY], "rater": "a"}, {"prompt": [USER], "completion": [REPLY]}),
        ("sft", {"messages": [USER, REPLY, USER, OTHER]}, {"prompt": [USER, REPLY, USER], "completion": [OTHER]}),
        ("sft", {"text": "hello"}, {"text": "hello"}),
        ("dpo", {"prompt": "hello", "chosen": "Good day.", "rejected": "Go away."}, PAIR),
        ("dpo", PAIR, PAIR),
        ("dpo", {"chosen": [USER, REPLY], "rejected": [USER, OTHER]}, PAIR),
    ],
)
def test_every_layout_of_a_method_is_read_alike(method, rows, read, tmp_path):
    assert training_rows([rows], method) == [read]
    (tmp_path / "rows.jsonl").write_text(json.dumps(rows))
    assert training_rows(tmp_path / "rows.jsonl", method) == [read]


def test_without_a_chat_template_sides_are_texts():
    rows = [{"prompt": "hello", "completion": " Good day.", "label": label} for label in (True, False)]
    assert training_rows(rows, "kto", chat=False) == rows
    assert training_rows(rows, "kto")[1] == {
        "prompt": [USER],
        "completion": [{**REPLY, "content": " Good day."}],
        "label": False,
    }


KTO = {"prompt": "hello", "completion": "Good day.", "label": True}


@pytest.mark.parametrize(
    ("method", "rows", "words"),
    [
        ("dpo", [KTO], "these are rows for the method kto"),
        ("sft", [KTO], "these are rows for the method kto"),
        ("kto", [PAIR], "these are rows for the method dpo"),
        ("sft", [PAIR], "these are rows for the method dpo"),
        ("sft", [{"txt": "hello"}], "row 1: the columns are txt; sft needs prompt, completion or messages or text"),
        ("sft", [{"text": "a"}, {"messages": [USER, REPLY]}], "row 2 is prompt, completion, the first text"),
        ("sft", [], "no rows"),
        ("sft", ["hello"], "expected a dict"),
        ("sft", [{"messages": [USER]}], "no reply to a prompt"),
        ("sft", [{"messages": [USER, USER]}], "no reply to a prompt"),
        ("sft", [{"messages": []}], "row 1: .*that end with the assistant"),
        ("sft", [{"messages": [USER, {"role": "assistant"}]}], "expected text"),
        ("sft", [{"prompt": "hello", "completion": " "}], "no reply to a prompt"),
        ("sft", [{"prompt": 3, "completion": "a"}], "row 1: "),
        ("dpo", [PAIR | {"rejected": [REPLY]}], "both sides are equal"),
        ("dpo", [{"chosen": [USER, REPLY], "rejected": [OTHER, USER, OTHER]}], "different prompts"),
        ("dpo", [{"chosen": "hello", "rejected": "go"}], "row 1: "),
        ("kto", [KTO, KTO], "every label is True"),
        ("kto", [KTO, KTO | {"label": 3}], "row 2: label is 3"),
    ],
)
def test_what_is_wrong_is_said(method, rows, words):
    with pytest.raises(InterpError, match=words):
        training_rows(rows, method)


def test_a_conversation_needs_a_chat_template():
    with pytest.raises(InterpError, match="row 1: a conversation, for which the model has no chat template"):
        training_rows([{"messages": [USER, REPLY, USER, OTHER]}], "sft", chat=False)
