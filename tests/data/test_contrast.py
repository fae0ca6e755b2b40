"""Contrasts: layouts, errors by line, and splits that never cut a group."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import Contrast, InterpError
from interp.data.contrast import Pair, Turn


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
        ([{"positive": "a", "negative": "b"}, {"positive": "c", "negative": "c"}], "row 2: both sides are equal"),
        ([{"positive": "a", "negative": "b"}, {"positive": " ", "negative": "c"}], "row 2: an empty prompt"),
        ([{"positive": "a", "negative": "b"}, "{broken"], "line 2: not valid JSON"),
        ([{"positive": "a", "negative": "b"}, {"positive": "a"}], "line 2: 'negative' is None"),
        ([{"positive": "a", "negative": "b"}, '"text"'], "line 2: expected an object"),
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


def test_line_separators_inside_a_text_and_a_byte_order_mark_are_read(tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"positive": "a\u2028b", "negative": "c\u0085d"}, {"positive": "e", "negative": "f"}]
    file.write_text("\ufeff" + "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert Contrast.read(file).pairs[0].positive.prompt == "a\u2028b"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InterpError, match=r"absent\.jsonl"):
        Contrast.read(tmp_path / "absent.jsonl")


pairs = st.builds(
    Pair,
    st.builds(Turn, st.integers(0, 10**6).map(lambda n: f"positive {n}")),
    st.builds(Turn, st.integers(0, 10**6).map(lambda n: f"negative {n}")),
    st.sampled_from("abcdef"),
)


def test_one_row_can_not_be_split(tmp_path):
    with pytest.raises(InterpError, match="1 pairs in 1 groups can't be dealt"):
        Contrast.read(write(tmp_path, [{"positive": "a", "negative": "b"}])).split()


def test_rows_that_share_a_prompt_stay_together():
    """Connected through either side: a-b, b-c and d-a are one group, x-y another."""
    chained = Contrast.of([("a", "b"), ("b", "c"), ("d", "a"), ("x", "y")])
    for seed in range(5):
        train, test = chained.split(0.3, seed)
        assert {len(train), len(test)} == {1, 3}


@given(st.lists(pairs, min_size=2, max_size=40), st.floats(0.1, 0.9), st.integers(0, 5))
def test_a_split_keeps_every_pair_and_cuts_no_group(rows, share, seed):
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
