"""Lines of JSONL keep their numbers, and what is wrong with one is named by its line."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import InterpError
from interp.core.jsonl import numbered_lines, parse_object


def test_blank_lines_count_and_are_left_out(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text('\ufeff{"a": 1}\n\n  \n{"b": "\u2028"}', encoding="utf-8")
    places = [(place, parse_object(line, place)) for place, line in numbered_lines(file)]
    assert places == [(f"{file}, line 1", {"a": 1}), (f"{file}, line 4", {"b": "\u2028"})]


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_an_object_is_what_json_says(values):
    assert parse_object(json.dumps(values), "here", unique=True) == values


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", r"here: not valid JSON .* expected one object per line \(or skip it\)"),
        ("[" * 100_000, "here: not valid JSON"),
        ('{"a": ' + "9" * 5000 + "}", "here: not valid JSON"),
        ("3", "here: expected a JSON object, got int"),
        ('{"a": {"b": 1, "b": 1}}', r"key 'b' is there twice"),
    ],
)
def test_what_is_wrong_is_named(line, message):
    with pytest.raises(InterpError, match=message):
        parse_object(line, "here", hint=" (or skip it)", unique=True)
    assert parse_object('{"b": 1, "b": 2}', "here") == {"b": 2}, "as JSON reads it, unless keys have to be unique"


@pytest.mark.parametrize("content", [None, b"\xff"])
def test_a_file_that_is_no_text_is_named(tmp_path, content):
    file = tmp_path / "a.jsonl"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InterpError, match=r"a.jsonl: cannot be read as text .* expected a file of rows"):
        numbered_lines(file, "rows")
