"""Hints for unknown names."""

import errno
import traceback

import pytest
from safetensors import SafetensorError

from interp import InterpError
from interp.core.config import plain_value
from interp.core.errors import first_line, is_of_disk, nearest


def test_nearest_names_close_ones_or_what_there_is():
    assert nearest("lama", ["llama", "gpt2"]) == "did you mean llama?"
    assert nearest("zzz", ["llama", "_z", "gpt2"]) == "known: gpt2, llama"
    assert nearest("pos", ["prompts", "positions"]) == "did you mean positions?"


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ("Error for 'size':\n    TypeError: 'x' is no int", "Error for 'size': TypeError: 'x' is no int"),
        ("one of: \n(1) a file,  \n(2) a name\nAsk us.", "one of: (1) a file, (2) a name"),
        ("disk full\nask:\nus", "disk full"),
        ("", ""),
    ],
)
def test_the_first_line_has_what_its_colon_announces(message, line):
    assert first_line(ValueError(message)) == line


def test_an_error_is_one_line_whatever_it_quotes():
    assert str(InterpError("a\n   b\r\n\n c\u2028d  e")) == "a b c d  e"
    with pytest.raises(InterpError, match=r"here: not valid YAML: [^\n]+, line 1, [^\n]+$"):
        plain_value('a: "x\n b: [', "here")


@pytest.mark.parametrize("full", [False, True])
def test_a_traceback_has_the_frames_of_the_users_code_alone(tiny, monkeypatch, full):
    model = tiny("llama")
    if full:
        monkeypatch.setenv("INTERP_TRACEBACK", "full")

    def wrong_site(x):
        model.resolve("resid_pots.1")

    hooks = [("resid_post.1", wrong_site)]
    with pytest.raises(InterpError, match="did you mean") as raised:
        model.run_with_hooks("w5 w9", hooks)
    names = [frame.name for frame in traceback.extract_tb(raised.value.__traceback__)]
    # The type checks of the tests may add a frame of their own.
    ends = ["test_a_traceback_has_the_frames_of_the_users_code_alone", "checked_call", "wrong_site"]
    assert ([*names[:2], names[-1]] == ends and len(names) < 5) == (not full)
    assert len(names) > 12 or not full


def test_an_exception_that_is_no_interp_error_keeps_its_traceback(tiny):
    with pytest.raises(ZeroDivisionError) as raised:
        tiny("llama").run_with_hooks("w5 w9", [("resid_post.1", lambda x: 1 // 0)])
    assert len(raised.traceback) > 12


def _caused(cause):
    problem = InterpError("writing failed")
    problem.__cause__ = cause
    return problem


@pytest.mark.parametrize(
    ("problem", "of_disk"),
    [
        (OSError(errno.EIO, "Input/output error"), True),
        (_caused(OSError(errno.ENOSPC, "No space left on device")), True),
        (_caused(SafetensorError("I/O error: No space left on device (os error 28)")), True),
        (SafetensorError("I/O error: No such file or directory (os error 2)"), False),
        (_caused(FileNotFoundError(errno.ENOENT, "No such file or directory")), False),
        (InterpError("no cause"), False),
        (MemoryError(), False),
    ],
)
def test_an_error_of_the_disk_is_told_from_others_by_its_cause(problem, of_disk):
    assert is_of_disk(problem) is of_disk
