"""A ledger only grows, notices what was changed in it, refuses another series, and survives kills and other writers."""

import copy
import json
import os
import time
from pathlib import Path

import processes
import pytest
import torch
from drifted import copied, moved
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from interp import InterpError
from interp.auditing import text_loss
from interp.upkeep import AuditLedger
from interp.upkeep.drift import audit_ledger

TEXTS = [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(5, 25)]
LOSS = text_loss("loss", TEXTS)
AXIS = torch.eye(32)[3]
WRITER = """
import sys
import tiny_models
from interp.auditing import text_loss
from interp.upkeep import AuditLedger
loss = text_loss("loss", [f"w{i} w{i + 1} w{i + 2} w{i + 3}" for i in range(5, 25)])
first, count = int(sys.argv[2]), int(sys.argv[3])
for seed in range(first, first + count):
    AuditLedger(sys.argv[1]).append(tiny_models.build("llama", seed=seed), [loss])
    print(seed, flush=True)
"""
PATH = {"PYTHONPATH": os.pathsep.join([str(Path(processes.__file__).parent), os.environ.get("PYTHONPATH", "")])}


@pytest.fixture
def ledger(tmp_path, tiny):
    made = AuditLedger(tmp_path / "ledger.jsonl")
    for model in (tiny("llama"), moved(tiny("llama"), 1, AXIS), moved(tiny("llama"), 1, AXIS, 8.0)):
        made.append(model, [LOSS])
    return made


def test_entries_are_what_was_appended_in_order_and_only_grow(ledger, tiny):
    before = ledger.file.read_bytes()
    entries = ledger.entries()
    assert [entry.number for entry in entries] == [0, 1, 2]
    assert [entry.audit.before.name for entry in entries] == [tiny("llama").name, "moved at 1", "moved at 1"]
    assert entries[0].audit["loss"].before.estimate == pytest.approx(tiny("llama").loss(TEXTS), abs=0.2)
    assert sorted(entry.time for entry in entries) == [entry.time for entry in entries]
    ledger.append(tiny("llama"), [LOSS])
    assert ledger.file.read_bytes().startswith(before)
    assert len(ledger.entries()) == 4
    assert ledger.trends()[0].change.estimate == 0.0


def test_the_same_model_twice_in_a_row_is_one_entry(ledger, tiny, capsys):
    before = ledger.file.read_bytes()
    assert ledger.append(moved(tiny("llama"), 1, AXIS, 8.0), [LOSS]).number == 2
    assert ledger.file.read_bytes() == before
    assert "nothing is added" in capsys.readouterr().err


def test_any_byte_that_is_changed_is_found(ledger):
    whole = ledger.file.read_bytes()

    @settings(max_examples=60)
    @given(st.integers(0, len(whole) - 2), st.sampled_from(b"0aZ{,"))
    def changed(place, byte):
        if whole[place] != byte:
            ledger.file.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1 :])
            with pytest.raises(InterpError, match="line"):
                ledger.entries()

    changed()
    lines = whole.splitlines(keepends=True)
    for left in (lines[1:], [lines[0], lines[2]], [lines[1], lines[0], lines[2]], [*lines, lines[2]]):
        ledger.file.write_bytes(b"".join(left))
        with pytest.raises(InterpError, match="changed or removed"):
            ledger.entries()


def test_a_line_without_an_end_does_not_count_and_is_removed_by_the_next_append(ledger, tiny):
    whole = ledger.file.read_bytes()
    last = whole[: whole.rstrip(b"\n").rfind(b"\n") + 1]
    for end in (1, 100, len(whole) - len(last) - 1):
        ledger.file.write_bytes(whole[: len(last) + end])
        assert len(ledger.entries()) == 2
    assert ledger.append(tiny("llama"), [LOSS]).number == 2
    assert ledger.file.read_bytes().startswith(last)
    assert len(ledger.entries()) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"behaviours": [text_loss("loss", TEXTS[:-1])]}, "its suite is"),
        ({"margin": 0.1}, "its margin is 0.05, here it is 0.1"),
        ({"seed": 1}, "its seed is 0, here it is 1"),
        ({"model": "mistral"}, "its architecture is llama, here it is mistral"),
    ],
)
def test_another_series_is_refused_and_nothing_is_written(ledger, tiny, change, words):
    before = ledger.file.read_bytes()
    given = {"model": tiny("llama"), "behaviours": [LOSS]} | change
    if isinstance(given["model"], str):
        given["model"] = tiny(given["model"])
    with pytest.raises(InterpError, match=words):
        ledger.append(**given)
    assert ledger.file.read_bytes() == before


def test_a_tokenizer_of_another_vocabulary_is_another_series(ledger, tiny):
    other = copied(tiny("llama"))
    text = json.loads(other.tokenizer.backend_tokenizer.to_str())
    vocabulary = text["model"]["vocab"]
    vocabulary["w5"], vocabulary["w6"] = vocabulary["w6"], vocabulary["w5"]
    tokenizer = copy.deepcopy(other.tokenizer)
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(text))
    changed = type(other)(other.hf, tokenizer, "other")
    with pytest.raises(InterpError, match="its tokenizer is"):
        ledger.append(changed, [LOSS])


def test_a_clock_that_moved_back_is_refused(ledger, tiny, monkeypatch):
    before = ledger.file.read_bytes()
    monkeypatch.setattr(audit_ledger, "now", lambda: "2001-01-01T00:00:00+00:00")
    with pytest.raises(InterpError, match=r"after now \(2001-01-01.*set the clock"):
        ledger.append(tiny("llama"), [LOSS])
    assert ledger.file.read_bytes() == before


def test_a_full_disk_leaves_the_ledger_as_it_was(ledger, tiny, monkeypatch):
    before, write = ledger.file.read_bytes(), os.write
    monkeypatch.setattr(audit_ledger.os, "write", lambda file, line: write(file, line[: len(line) // 2]))
    with pytest.raises(InterpError, match="No space left"):
        ledger.append(tiny("llama"), [LOSS])
    assert ledger.file.read_bytes() == before


def test_what_is_no_ledger_is_said_in_a_line(tmp_path, tiny):
    with pytest.raises(InterpError, match="cannot be used"):
        AuditLedger(tmp_path / "none").entries()
    (tmp_path / "empty").write_text("")
    with pytest.raises(InterpError, match="has no entries"):
        AuditLedger(tmp_path / "empty").trends()
    for text in ("no\n", "{}\n", '{"number": 0}\n', "[1]\n", "\n"):
        (tmp_path / "other").write_text(text)
        with pytest.raises(InterpError, match="line 1"):
            AuditLedger(tmp_path / "other").append(tiny("llama"), [LOSS])
        assert (tmp_path / "other").read_text() == text
    with pytest.raises(InterpError, match="cannot be used"):
        AuditLedger(tmp_path / "no" / "folder").append(tiny("llama"), [LOSS])


def test_two_writers_and_a_kill_leave_a_whole_ledger(tmp_path):
    """Each line of either writer is there, in one chain; what was killed is not there, or whole."""
    file = tmp_path / "ledger.jsonl"
    outputs = [tmp_path / name for name in ("one", "two", "killed")]
    writers = [
        processes.start(WRITER, file, first, count, env=PATH, output=output)
        for first, count, output in zip((0, 10, 20), (2, 2, 50), outputs, strict=True)
    ]
    while not outputs[2].exists() or not outputs[2].read_text():
        assert writers[2].is_alive(), outputs[2].read_text()
        time.sleep(0.01)
    writers[2].kill()
    for writer, output in zip(writers[:2], outputs, strict=False):
        writer.join(120)
        assert writer.exitcode == 0, output.read_text()
    entries = AuditLedger(file).entries()
    finished = sum(len(output.read_text().split()) for output in outputs)
    assert finished <= len(entries) <= finished + 1
    assert len({entry.audit.before.digest for entry in entries}) == len(entries)
