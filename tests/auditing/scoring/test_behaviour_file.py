"""Behaviours read from a file are those made in Python, and what is wrong with a file is named by line."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from interp import InterpError
from interp.auditing.scoring._behaviour_schema import SCORERS
from interp.auditing.scoring.behaviour_file import read_behaviours
from interp.auditing.scoring.choices import choice, margin, paired_text, text_loss
from interp.auditing.scoring.graders import Expected, Lexicon
from interp.auditing.scoring.refusals import refusal_behaviour, refusal_margin
from interp.auditing.scoring.replies import reply_behaviour
from interp.auditing.suites import suite

QUESTIONS = [
    {"prompt": "w5 w9", "answers": [" w7", " w9 w31"], "gold": 0, "group": "a"},
    {"prompt": "w8", "answers": [" w4", " w3 w6", " w9"], "gold": [1, 2], "group": "b"},
]
PROMPTS = [{"prompt": "w5 w9"}, {"prompt": "w8"}]
HEAD = {"name": "b", "kind": "capability", "statement": "more", "items": "rows.jsonl"}


def written(folder, behaviours, rows):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    text = "behaviours:\n" + "".join(f"  - {json.dumps(one)}\n" for one in behaviours)
    (folder / "own.yaml").write_text(text, encoding="utf-8")
    return folder / "own.yaml"


ASKED = ["w5 w9", "w8"]
SAME = [
    (
        {"type": "choice", "normalise": "byte"},
        QUESTIONS,
        lambda *head: choice(
            *head, ASKED, [q["answers"] for q in QUESTIONS], [0, (1, 2)], normalise="byte", groups=("a", "b")
        ),
    ),
    (
        {"type": "margin", "more": [" w7"], "less": [" w8", " w9"]},
        PROMPTS,
        lambda *head: margin(*head, ASKED, [" w7"], [" w8", " w9"]),
    ),
    (
        {"type": "paired_text", "unit": "margin"},
        [{"first": "w5 w6", "second": "w7"}],
        lambda *head: paired_text(*head, ["w5 w6"], ["w7"], unit="margin"),
    ),
    ({"type": "loss"}, [{"text": "w5 w6 w7"}], lambda *head: text_loss(head[0], ["w5 w6 w7"])),
    (
        {"type": "reply", "lexicon": ["w7", "w8"], "max_new_tokens": 4},
        PROMPTS,
        lambda *head: reply_behaviour(*head, ASKED, Lexicon(("w7", "w8")), 4),
    ),
    (
        {"type": "reply", "expected": True, "max_new_tokens": 4},
        [{"prompt": "w5", "expected": ["w9"]}],
        lambda *head: reply_behaviour(*head, ["w5"], Expected({"w5": ("w9",)}), 4),
    ),
    ({"type": "refusal"}, PROMPTS, lambda *head: refusal_behaviour(*head, ASKED)),
    ({"type": "refusal_margin"}, PROMPTS, lambda *head: refusal_margin(*head, ASKED)),
]


@pytest.mark.parametrize(("scorer", "rows", "made"), SAME, ids=[f"{n} {s['type']}" for n, (s, _, _) in enumerate(SAME)])
def test_a_file_says_what_python_says(tmp_path, tiny, scorer, rows, made):
    [within] = read_behaviours(written(tmp_path, [HEAD | {"scorer": scorer, "items": rows}], []))
    [read] = read_behaviours(written(tmp_path, [HEAD | {"scorer": scorer}], rows))
    assert within.digest == read.digest, "rows in the YAML file are those of a file beside it"
    expected = made("b", "capability", "more")
    assert replace(read, measure=len, statement="") == replace(expected, measure=len, statement="")
    if scorer["type"] != "loss":
        assert read.digest == expected.digest
    if scorer["type"] != "refusal_margin":  # its beginnings are words that the tiny tokeniser does not know
        assert read.scores(tiny("llama")) == expected.scores(tiny("llama"))


def test_a_suite_may_be_a_file_and_items_are_drawn_by_seed(tmp_path):
    rows = [{"prompt": f"w{number}"} for number in range(30)]
    file = written(tmp_path, [HEAD | {"scorer": {"type": "refusal"}, "language": "de", "scenario": "s"}], rows)
    [first], [again], [other] = suite(file, 10), suite(file, 10), suite(file, 10, seed=1)
    assert first.prompts == again.prompts != other.prompts
    assert len(first) == 10
    assert (first.language, first.scenario, first.secret) == ("de", "s", True)
    assert [int(prompt[1:]) for prompt in first.prompts] == sorted(int(prompt[1:]) for prompt in first.prompts)


def test_the_page_has_every_type_and_its_settings():
    page = (Path(__file__).parents[3] / "docs" / "howto" / "own_harm.md").read_text(encoding="utf-8")
    for name, scorer in SCORERS.items():
        [row] = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert all(setting in row for setting in scorer.model_fields if setting != "type")


CHOICE = {"type": "choice"}
GOOD = QUESTIONS[0]


@pytest.mark.parametrize(
    ("behaviours", "rows", "says"),
    [
        (
            [HEAD | {"scorer": CHOICE, "langauge": "en"}],
            [GOOD],
            r"line 2, behaviour 'b': unknown key 'langauge'",
        ),
        ([HEAD | {"scorer": {"type": "chioce"}}], [GOOD], r"line 2, behaviour 'b': scorer: unknown type.*choice"),
        ([HEAD | {"scorer": {"type": "choice", "normalize": "byte"}}], [GOOD], r"unknown key 'normalize'.*normalise"),
        ([HEAD | {"scorer": CHOICE, "kind": "danger"}], [GOOD], r"line 2, behaviour 'b': kind"),
        ([HEAD | {"scorer": CHOICE}] * 2, [GOOD], r"line 3: behaviour 'b' is already on line 2"),
        ([HEAD | {"scorer": CHOICE}], [], r"'b' has no items"),
        (
            [HEAD | {"scorer": CHOICE}],
            [GOOD, GOOD | {"promt": "x"}],
            r"rows.jsonl, line 2, item of 'b': unknown",
        ),
        ([HEAD | {"scorer": CHOICE}], [GOOD, GOOD | {"prompt": " "}], r"line 2, item of 'b': prompt"),
        ([HEAD | {"scorer": CHOICE}], [GOOD, GOOD], r"line 2, item of 'b': the same as line 1"),
        ([HEAD | {"scorer": CHOICE}], [{"prompt": "w5", "answers": ["a", "b"]}], r"line 1, item of 'b': gold"),
        ([HEAD | {"scorer": CHOICE}], [GOOD | {"gold": 5}], r"line 2, behaviour 'b':.*item 1: gold answers are \(5,\)"),
        (
            [HEAD | {"scorer": CHOICE}],
            [GOOD, {"prompt": "x", "answers": ["a", "b"], "gold": 0}],
            r"1 of 2 items have no",
        ),
        (
            [HEAD | {"scorer": CHOICE, "items": [GOOD, GOOD | {"promt": "x"}]}],
            [],
            r"line 2, behaviour 'b': items.1: unknown key 'promt'; did you mean prompt",
        ),
        (
            [HEAD | {"scorer": CHOICE, "items": [GOOD, GOOD]}],
            [],
            r"behaviour 'b', row 1, item of 'b': the same as row 0",
        ),
        ([HEAD | {"scorer": CHOICE, "items": ["w5"]}], [], r"items.0 is 'w5'; expected"),
        ([HEAD | {"scorer": CHOICE, "items": []}], [], r"line 2, behaviour 'b': 'b' has no items"),
        ([HEAD | {"scorer": {"type": ["choice"]}}], [GOOD], r"unknown type of scorer"),
        ([HEAD | {"scorer": CHOICE}], [GOOD | {"answers": ["a\ud800", "b"]}], r"line 1, item of 'b': it holds half"),
        ([HEAD | {"scorer": {"type": "reply", "rule": ""}}], PROMPTS, r"rule '' is found in every reply"),
        ([HEAD | {"scorer": {"type": "reply"}}], PROMPTS, r"0 graders"),
        ([HEAD | {"scorer": {"type": "loss"}, "kind": "harm"}], [{"text": "w5"}], r"only capabilities"),
        (
            [HEAD | {"scorer": CHOICE, "items": "none.jsonl"}],
            [GOOD],
            r"none.jsonl: cannot be read .* items of 'b'",
        ),
    ],
)
def test_what_is_wrong_is_named_by_line(tmp_path, behaviours, rows, says):
    with pytest.raises(InterpError, match=says):
        read_behaviours(written(tmp_path, behaviours, rows))


def test_a_doubled_key_of_an_item_is_refused(tmp_path):
    file = written(tmp_path, [HEAD | {"scorer": {"type": "refusal"}}], PROMPTS)
    assert len(read_behaviours(file)[0]) == 2, "control"
    (tmp_path / "rows.jsonl").write_text('{"prompt": "w5"}\n{"prompt": "w6", "prompt": "w7"}\n')
    with pytest.raises(InterpError, match=r"line 2, item of 'b': not valid JSON \(key 'prompt' is there twice\)"):
        read_behaviours(file)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("behaviors: []\n", r"line 1: unknown key 'behaviors'"),
        ("behaviours: []\n", r"expected a list"),
        ("- a\n", r"expected a list"),
        ("behaviours:\n  - a\n", r"line 2: a behaviour is a mapping"),
        ("behaviours:\n  - name: a\n    name: b\n", r"line 3: key 'name' is there twice"),
        ("behaviours: [\n", r"not valid YAML"),
        ("behaviours:\n  - name: !foo a\n", r"line 2: not valid YAML"),
        ("behaviours:\n  - {? [a] : b}\n", r"line 2: a key is a list"),
        ('behaviours:\n  - name: "a\\ud800"\n', r"half of a surrogate pair|not valid YAML"),
    ],
)
def test_broken_yaml_is_named_by_line(tmp_path, text, says):
    (tmp_path / "own.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InterpError, match=says):
        read_behaviours(tmp_path / "own.yaml")
    with pytest.raises(InterpError, match=r"none.yaml: cannot be read"):
        read_behaviours(tmp_path / "none.yaml")
