"""Lines are whole, in order of writing, and safe with several writers and after a kill."""

import multiprocessing
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp import InterpError
from interp.features.line_file import append_lines, whole_lines

TEXTS = st.text(st.characters(exclude_characters="\n\r{", exclude_categories=["Cs"]))  # no object of JSON
LINES = st.lists(TEXTS.filter(lambda line: line.encode().strip()), max_size=4)


@given(st.lists(LINES, max_size=4), TEXTS)
def test_lines_come_back_without_what_a_kill_left(tmp_path_factory, parts, cut):
    file = tmp_path_factory.mktemp("f") / "lines"
    assert whole_lines(file) == []
    for part in parts:
        append_lines(file, part)
        with file.open("a", encoding="utf-8") as opened:
            opened.write(cut)
        assert [line for _, line in whole_lines(file)][-len(part) :] == part or not part
    assert [line for _, line in whole_lines(file)] == [line for part in parts for line in part]
    assert all(place == f"{file}, line {n}" for n, (place, _) in enumerate(whole_lines(file), 1))


def test_a_whole_object_without_an_end_counts_and_an_empty_line_does_not(tmp_path):
    file = tmp_path / "lines"
    file.write_text('{"a": 1}\n\n{"b": 2}')
    assert [line for _, line in whole_lines(file)] == ['{"a": 1}', '{"b": 2}']
    append_lines(file, ['{"c": 3}'])
    assert [line for _, line in whole_lines(file)] == ['{"a": 1}', '{"b": 2}', '{"c": 3}']
    assert [place for place, _ in whole_lines(file)][1] == f"{file}, line 3", "as an editor numbers them"
    file.write_text('{"a": 1}\n{"b": 2')
    append_lines(file, ['{"c": 3}'])
    assert file.read_text() == '{"a": 1}\n{"c": 3}\n', "control: what a kill left"


def _write(file, name):
    for number in range(50):
        append_lines(file, [f"{name} {number} " + "x" * 500])


def test_two_writers_do_not_mix(tmp_path):
    file = tmp_path / "lines"
    with multiprocessing.get_context("fork").Pool(2) as pool:
        pool.starmap(_write, [(file, "a"), (file, "b")])
    words = [line.split() for _, line in whole_lines(file)]
    assert sorted((name, int(number)) for name, number, _ in words) == [(n, i) for n in "ab" for i in range(50)]
    assert {len(rest) for *_, rest in words} == {500}


def test_links_and_pipes_are_not_written_to(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="symbolic links"):
        append_lines(tmp_path / "link", ["a"])
    assert not (tmp_path / "elsewhere").exists()
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InterpError, match="is a pipe"):
        append_lines(tmp_path / "pipe", ["a"])
