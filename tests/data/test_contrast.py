"""Contrasts: layouts, errors by line, and splits that never cut a group."""

import json

import datasets
import pandas
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import Contrast, InterpError
from interp.data._pairs import Message, Turn, TurnPair


def write(tmp_path, rows):
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def test_three_layouts_read_alike(tmp_path):
    plain = [
        {"positive": {"prompt": "Q?", "answer": "(A"}, "negative": {"prompt": "Q?", "answer": "(B"}},
        {"positive": "yes", "negative": "no"},
    ]
    caa = {"question": "Q?", "answer_matching_behavior": " (A)", "answer_not_matching_behavior": " (B)"}
    graded = {"prompt": "Q?", "correct": "(A)", "incorrect": "(B)"}
    first = Contrast.read(write(tmp_path, plain)).pairs[0]
    assert first.positive == Turn("Q?", "(A")
    for row in (caa, graded):
        assert Contrast.read(write(tmp_path, [row, plain[1]])).pairs[0] == first
    positive, negative = Contrast.read(write(tmp_path, plain)).texts(lambda prompt: f"<{prompt}>")
    assert (positive, negative) == (["<Q?>(A", "<yes>"], ["<Q?>(B", "<no>"])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"positive": "a", "negative": "b"}, {"positive": "c", "negative": "c"}], "line 2: both sides are equal"),
        ([{"positive": "a", "negative": "b"}, {"positive": " ", "negative": "c"}], "line 2: an empty prompt"),
        ([{"positive": "a", "negative": "b"}, "{broken"], "line 2: not valid JSON"),
        ([{"positive": "a", "negative": "b"}, {"positive": "a"}], "line 2: 'negative' is None"),
        ([{"positive": "a", "negative": "b"}, '"text"'], "line 2: expected a JSON object"),
        (
            [{"question": "q", "answer_matching_behavior": "", "answer_not_matching_behavior": "(B)"}],
            "line 1: 'answer_matching",
        ),
    ],
)
def test_broken_rows_are_named(tmp_path, rows, message):
    with pytest.raises(InterpError, match=message):
        Contrast.read(write(tmp_path, rows))


def test_pairs_that_are_not_two_texts_are_named():
    with pytest.raises(InterpError, match=r"row 2: got \(str, int\); expected two texts"):
        Contrast.of(iter([("a", "b"), ("c", 3)]))
    with pytest.raises(InterpError, match=r"row 1: got \(str\)"):
        Contrast.of(iter([("a",)]))


PAIRS = [("a", "b"), ("c", "d")]
ROWS = [{"id": number, "rude": rude, "polite": polite} for number, (rude, polite) in enumerate(PAIRS)]
LISTS = {name: [row[name] for row in ROWS] for name in ROWS[0]}


class Polars:
    """What is read of a polars frame: names of columns, and columns by name."""

    columns = tuple(LISTS)

    def __getitem__(self, name):
        return iter(LISTS[name])


FORMS = {
    "dicts": ROWS,
    "lists": LISTS,
    "pandas": pandas.DataFrame(LISTS),
    "polars": Polars(),
    "datasets": datasets.Dataset.from_dict(LISTS),
    "generator": iter(ROWS),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_is_the_same_contrast(form):
    assert Contrast.of(FORMS[form], columns=("rude", "polite")).digest == Contrast.of(PAIRS).digest
    if form != "generator":
        with pytest.raises(InterpError, match="row 1: the columns are id, rude, polite; expected positive and negat"):
            Contrast.of(FORMS[form])
        with pytest.raises(InterpError, match="row 1: no column 'polight'; did you mean polite"):
            Contrast.of(FORMS[form], columns=("rude", "polight"))


@pytest.mark.parametrize("names", ["positive negative", "chosen rejected", "harmful harmless", "toxic neutral"])
def test_the_usual_names_of_columns_are_known(names, tmp_path):
    rows = [dict(zip(names.split(), pair, strict=True)) for pair in PAIRS]
    assert Contrast.of(rows) == Contrast.of(PAIRS)
    assert Contrast.of(write(tmp_path, rows)).pairs == Contrast.of(PAIRS).pairs


@pytest.mark.parametrize(
    ("pairs", "columns", "message"),
    [
        (3, None, "contrast is a int; expected pairs of texts"),
        ([["a", "b", "c"]], None, r"\(str, str, str\); .* zip\(positives, negatives\) makes pairs"),
        ({"formal": ["a"], "casual": ["b"]}, None, r"or columns=\('formal', 'casual'\), the positive side first"),
        (("ab", "cd"), None, r"row 1: got \(str\); expected two texts"),
        ({"positive": ["a"], "negative": ["b", "c"]}, None, r"different lengths \(positive 1, negative 2\)"),
        ({"positive": ["a", None], "negative": ["b", "c"]}, None, "row 2: 'positive' is None; expected a text"),
        (PAIRS, ("rude",), r"columns are \('rude',\); expected two names"),
        ("pairs.csv", None, "pairs.csv: pairs are read from JSONL; give Contrast.of a data frame"),
    ],
)
def test_what_holds_no_pairs_is_refused(pairs, columns, message):
    with pytest.raises(InterpError, match=message):
        Contrast.of(pairs, columns=columns)


def test_line_separators_inside_a_text_and_a_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"positive": "a\u2028b", "negative": "c\u0085d"}, {"positive": "e", "negative": "f"}]
    file.write_text("\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert Contrast.read(file).pairs[0].positive.prompt == "a\u2028b"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InterpError, match=r"absent\.jsonl"):
        Contrast.read(tmp_path / "absent.jsonl")


pairs = st.builds(
    TurnPair,
    st.builds(Turn, st.integers(0, 10**6).map(lambda n: f"positive {n}")),
    st.builds(Turn, st.integers(0, 10**6).map(lambda n: f"negative {n}")),
    st.sampled_from("abcdef"),
)


def test_bad_rows_are_passed_over_where_that_is_asked(tmp_path, capsys):
    same, empty = {"positive": "c", "negative": "c"}, {"positive": " ", "negative": "c"}
    file = write(tmp_path, [same, {"positive": "a", "negative": "b"}, "{broken", empty, {"positive": "a"}])
    assert Contrast.read(file, skip_bad=True).pairs == (TurnPair(Turn("a"), Turn("b")),)
    assert "ignored 4 bad rows" in capsys.readouterr().err
    with pytest.raises(InterpError, match="line 1: both sides are equal"):
        Contrast.read(file)
    with pytest.raises(InterpError, match="row 1: both sides are equal"):
        Contrast.of([("c", "c")])


def say(*words):
    """Messages of the user and the assistant in turn."""
    return [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, words, strict=False)]


def test_preference_pairs_are_read_in_every_form(tmp_path):
    rows = [
        {"prompt": "Q?", "chosen": "yes", "rejected": "no"},
        {"prompt": say("Q?"), "chosen": say("Q?", "yes")[1:], "rejected": say("Q?", "no")[1:]},
        {"chosen": say("Q?", "yes"), "rejected": say("Q?", "no")},
        {"prompt": "Q?", "chosen": say("Q?", "yes"), "rejected": say("Q?", "no")},
        {"prompt": say("Q?"), "chosen": "yes", "rejected": "no"},
        {"positive": say("Q?", "yes"), "negative": say("Q?", "no")},
    ]
    for pair in Contrast.read(write(tmp_path, rows)).pairs:
        assert pair == TurnPair(Turn("Q?", "yes"), Turn("Q?", "no"))
    whole = {"chosen": "Q? yes", "rejected": "Q? no"}
    assert Contrast.read(write(tmp_path, [whole])).pairs[0] == TurnPair(Turn("Q? yes"), Turn("Q? no"))


def test_a_conversations_earlier_messages_stand_before_its_prompt(tmp_path):
    system = {"role": "system", "content": "Be kind."}
    row = {"positive": [system, *say("A", "B", "C", "D")], "negative": [system, *say("A", "B", "C")]}
    contrast = Contrast.read(write(tmp_path, [row]))
    before = (Message("system", "Be kind."), Message("user", "A"), Message("assistant", "B"))
    assert contrast.pairs[0] == TurnPair(Turn("C", "D", before), Turn("C", "", before))

    def chat(messages):
        return "|".join(f"{m['role']}:{m['content']}" for m in messages) + "|"

    rendered = "system:Be kind.|user:A|assistant:B|user:C|"
    assert contrast.texts(str.upper, chat) == ([rendered + "D"], [rendered])
    with pytest.raises(InterpError, match="'C' has earlier messages; pass a chat renderer"):
        contrast.texts(str.upper)
    plain = Contrast((TurnPair(Turn("C", "D"), Turn("C")),))
    assert plain.digest != contrast.digest, "what came before is part of the data"


def test_columns_are_read_by_the_files_own_names(tmp_path):
    file = write(tmp_path, [{"rude": "a", "polite": "b", "topic": 3}, {"rude": "c", "polite": "d", "topic": 4}])
    read = Contrast.read(file, columns={"positive": "rude", "negative": "polite", "group": "topic"})
    assert read.pairs == (TurnPair(Turn("a"), Turn("b"), "3"), TurnPair(Turn("c"), Turn("d"), "4"))
    asked = write(tmp_path, [{"instruction": "Q?", "good": "yes", "bad": "no", "positive": "not this"}])
    columns = {"prompt": "instruction", "chosen": "good", "rejected": "bad"}
    assert Contrast.read(asked, columns=columns).pairs[0] == TurnPair(Turn("Q?", "yes"), Turn("Q?", "no"))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"positive": "rude"}, "columns name positive; expected both sides: positive and negative"),
        ({}, "columns name nothing; expected both sides"),
        ({"positve": "rude", "negative": "polite"}, "unknown column 'positve'; did you mean positive"),
        ({"positive": "rude", "negative": "polite", "question": "q"}, "'question' does not go with positive"),
        ({"positive": "rude", "negative": "polight"}, "line 1: no column 'polight'; did you mean polite"),
    ],
)
def test_columns_that_can_not_be_read_are_named(tmp_path, columns, message):
    with pytest.raises(InterpError, match=message):
        Contrast.read(write(tmp_path, [{"rude": "a", "polite": "b"}]), columns=columns)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"positive": [], "negative": "a"}, "'positive' is a conversation of nothing; expected a user's message"),
        ({"positive": say("", "a")[1:], "negative": "a"}, "'positive' is a conversation of assistant; expected"),
        ({"positive": [{"role": "user"}], "negative": "a"}, "expected a message with role and content"),
        ({"positive": ["a"], "negative": "a"}, "'positive' has 'a'; expected a message"),
        ({"prompt": "q", "chosen": "a"}, "line 1: 'rejected' has None; expected a message"),
        ({"chosen": "a"}, "line 1: 'rejected' is None; expected a text"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "line 1: 'prompt' has 3; expected a message"),
    ],
)
def test_broken_conversations_and_preferences_are_named(tmp_path, row, message):
    with pytest.raises(InterpError, match=message):
        Contrast.read(write(tmp_path, [row]))


def test_groups_that_share_a_prompt_are_refused_at_the_split():
    rows = (
        TurnPair(Turn("a"), Turn("b"), "x"),
        TurnPair(Turn("c"), Turn("d"), "y"),
        TurnPair(Turn("e"), Turn("a"), "z"),
    )
    with pytest.raises(InterpError, match="rows 1 and 3: groups 'x' and 'z' share a prompt"):
        Contrast(rows).split()
    joined = (rows[0], rows[1], TurnPair(Turn("e"), Turn("a"), "x"))
    assert Contrast(joined).groups == (0, 1, 0)
    train, test = Contrast(joined).split()
    assert {len(train), len(test)} == {1, 2}, "control: one group may share it"


def test_a_row_without_a_group_joins_the_group_whose_prompt_it_shares():
    rows = (TurnPair(Turn("a"), Turn("b"), "x"), TurnPair(Turn("c"), Turn("d"), "y"), TurnPair(Turn("e"), Turn("a")))
    assert Contrast(rows).groups == (0, 1, 0)
    assert Contrast((*rows[:2], TurnPair(Turn("e"), Turn("f")))).groups == (0, 1, 2), "control"


def test_prompts_that_differ_by_case_and_spaces_are_one_group():
    rows = [("Is it  so?", "b"), ("c", "d"), ("is it so? ", "e"), ("is it so", "f")]
    assert Contrast(tuple(TurnPair(Turn(p), Turn(q)) for p, q in rows)).groups == (0, 1, 0, 2)


def test_one_row_can_not_be_split(tmp_path):
    with pytest.raises(InterpError, match="1 pair in 1 group can't be dealt"):
        Contrast.read(write(tmp_path, [{"positive": "a", "negative": "b"}])).split()


def test_rows_that_share_a_prompt_stay_together():
    """Connected through either side: a-b, b-c and d-a are one group, x-y another."""
    chained = Contrast.of([("a", "b"), ("b", "c"), ("d", "a"), ("x", "y")])
    for seed in range(5):
        train, test = chained.split(0.3, seed)
        assert {len(train), len(test)} == {1, 3}


@given(st.lists(pairs, min_size=2, max_size=40), st.floats(0.1, 0.9), st.integers(0, 5))
def test_a_split_keeps_every_pair_and_cuts_no_group(rows, share, seed):
    # Two groups that share a prompt are refused, see above: each row here has prompts of its own.
    rows = [TurnPair(Turn(f"{number} {p.positive.prompt}"), p.negative, p.group) for number, p in enumerate(rows)]
    rows = [TurnPair(p.positive, Turn(f"{number} {p.negative.prompt}"), p.group) for number, p in enumerate(rows)]
    contrast = Contrast(tuple(rows))
    if len({pair.group for pair in rows}) == 1:
        with pytest.raises(InterpError, match="can't be dealt"):
            contrast.split(share, seed)
        return
    try:
        train, test = contrast.split(share, seed)
    except InterpError as problem:
        # Groups so uneven that the held-out part would need all of them.
        assert "can't be dealt" in str(problem)
        return
    assert sorted(map(repr, train.pairs + test.pairs)) == sorted(map(repr, rows))
    assert not {pair.group for pair in train.pairs} & {pair.group for pair in test.pairs}
    assert min(len(train), len(test)) > 0
    assert contrast.split(share, seed) == (train, test)
