"""Files and folders appear whole or not at all, and digests of JSON are canonical."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from processes import start
from safetensors.torch import load_file

from interp import InterpError
from interp.core import files
from interp.core.files import (
    lock_folder,
    new_file,
    new_folder,
    read_json,
    read_tensors,
    reserved,
    sha256_json,
    write_json,
    write_tensors,
)


def test_a_folder_appears_whole_and_with_the_umasks_permissions(tmp_path):
    previous = os.umask(0o022)
    try:
        with new_folder(tmp_path / "deep" / "out") as staging:
            (staging / "sub").mkdir()
            write_json(staging / "sub" / "a.json", {"b": 1})
            assert not (tmp_path / "deep" / "out").exists()
    finally:
        os.umask(previous)
    file = tmp_path / "deep" / "out" / "sub" / "a.json"
    assert read_json(file) == {"b": 1}
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o644, 0o755)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_folder_that_failed_is_not_there(tmp_path, problem):
    with pytest.raises(problem), new_folder(tmp_path / "out") as staging:
        (staging / "half").write_text("x")
        raise problem
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("problem", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_keeps_what_the_same_call_can_continue(tmp_path, problem):
    def call(key, done, raised):
        with pytest.raises(raised), new_folder(tmp_path / "deep" / "out", key) as staging:
            seen.append((staging / "part").exists())
            if done:
                (staging / "part").write_text("x")
            raise raised

    seen = []
    for key, done, raised in [(None, True, problem), ("a", False, problem), ("a", True, ValueError)]:
        call(key, done, raised)
        assert list(tmp_path.iterdir()) == [], "control: nothing to continue is nothing to keep"
    for key in ("a", "a", "b"):
        call(key, True, problem)
    assert seen == [False, False, False, False, True, False]


def test_a_folder_that_is_continued_has_no_temporary_files_of_a_process_that_was_killed(tmp_path):
    strays = [".tmpa1B2c3", "sub/.tmpa1B2c3", "sub/.x.safetensors.4000001"]
    kept = [".state.json", ".tmp", ".tmpa1B2c3d", "part", "sub/.x.safetensors", "sub/4000001"]
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "out", "key") as staging:
        (staging / "sub").mkdir()
        for name in (*strays, *kept):
            (staging / name).write_text("x")
        raise KeyboardInterrupt
    with new_folder(tmp_path / "out", "key"):
        pass
    assert sorted(str(x.relative_to(tmp_path / "out")) for x in (tmp_path / "out").rglob("*") if x.is_file()) == kept


def test_a_folder_whose_name_is_not_on_the_disk_yet_is_said_to_be_whole(tmp_path, monkeypatch):
    def fail(path, usual=files.fsync):
        if path == tmp_path:
            raise OSError(errno.EIO, "Input/output error")
        usual(path)

    monkeypatch.setattr(files, "fsync", fail)
    with (
        pytest.raises(InterpError, match="it is whole, but may not be on the disk: mend that"),
        new_folder(tmp_path / "out"),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_temporary_files_of_killed_processes_are_removed_and_those_of_others_stay(tmp_path):
    for name in (".a.json.4000001", ".a.json.4000002", ".a.json.old", ".ab.json.4000001", "a.json.4000001"):
        (tmp_path / name).write_text("half")
    with open(tmp_path / ".a.json.4000002") as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # as a process does that writes
        write_json(tmp_path / "a.json", 1)
    kept = [".a.json.4000002", ".a.json.old", ".ab.json.4000001", "a.json", "a.json.4000001"]
    assert sorted(path.name for path in tmp_path.iterdir()) == kept
    write_json(tmp_path / "a.json", 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == kept[1:]


def test_broken_json_is_named(tmp_path):
    file = tmp_path / "a.json"
    for text, message in (("{", "a.json: not valid JSON"), ("\xff", "a.json: cannot be read .* a text file of JSON")):
        file.write_text(text, encoding="latin-1")
        with pytest.raises(InterpError, match=message):
            read_json(file)
    with pytest.raises(ValueError, match="Out of range"):
        write_json(file, float("nan"))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_a_json_digest_ignores_order_and_survives_a_round_trip(value):
    backwards = dict(reversed(value.items()))
    assert sha256_json(value) == sha256_json(backwards) == sha256_json(json.loads(json.dumps(value)))
    assert sha256_json(value) != sha256_json({**value, "one more key": 1})


def test_tensors_replace_a_file_at_once_or_not_at_all(tmp_path, monkeypatch):
    file = tmp_path / "x.safetensors"
    write_tensors(file, {"x": torch.ones(2)}, {"step": "1"})
    write_tensors(file, {"x": torch.zeros(2)})
    assert load_file(file)["x"].tolist() == [0, 0]
    monkeypatch.setattr("os.fsync", lambda descriptor: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(InterpError, match=r"x\.safetensors: writing failed \(disk full\); free some space"):
        write_tensors(file, {"x": torch.ones(2)}, hint="free some space")
    assert load_file(file)["x"].tolist() == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["x.safetensors"]


def test_a_new_file_does_not_replace_another(tmp_path):
    with new_file(tmp_path / "deep" / "a.txt") as sibling:
        sibling.write_text("a")
    assert (tmp_path / "deep" / "a.txt").read_text() == "a"
    with pytest.raises(InterpError, match="exists already"), new_file(tmp_path / "deep" / "a.txt"):
        pass


HOLD = """
import sys
from pathlib import Path
from interp.core.files import lock_folder
with lock_folder(Path(sys.argv[1]), "busy"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_exclusive_and_ends_with_its_process(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(InterpError, match="wait for it"), lock_folder(tmp_path, "wait for it"):
            pass
        holder.kill()
        holder.wait()
        with lock_folder(tmp_path, "wait for it"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_an_exception_releases_the_lock(tmp_path):
    with pytest.raises(KeyError), lock_folder(tmp_path, "busy"):
        raise KeyError
    with lock_folder(tmp_path, "busy"):
        pass


@pytest.mark.parametrize("system", ["exchange", "two renames"])
def test_a_folder_takes_the_place_of_one_of_its_kind_at_the_end(tmp_path, monkeypatch, system):
    if system == "two renames":
        monkeypatch.setattr("interp.core.files.ctypes.CDLL", lambda name: object())
    out = tmp_path / "out"

    def write(text, problem=None, **options):
        with new_folder(out, mark="mark", **options) as staging:
            (staging / "mark").write_text(text)
            if problem:
                raise problem

    write("old")
    with pytest.raises(InterpError, match="exists already; choose another name, or pass overwrite=True"):
        write("new")
    with pytest.raises(KeyboardInterrupt):
        write("new", KeyboardInterrupt, overwrite=True)
    with lock_folder(out, ""), pytest.raises(InterpError, match="in use by another process"):
        write("new", overwrite=True)
    assert (out / "mark").read_text() == "old"
    for text in ("new", "newer"):
        write(text, overwrite=True)
        assert (out / "mark").read_text() == text
        assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_nothing_of_another_kind_is_overwritten(tmp_path, kind):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "mark").write_text("")
    out = tmp_path / "out"
    {"file": out.touch, "folder": out.mkdir, "link": lambda: out.symlink_to(tmp_path / "mine")}[kind]()
    with (
        pytest.raises(InterpError, match="no folder with a mark, so it is not overwritten"),
        new_folder(out, mark="mark", overwrite=True),
    ):
        pass
    assert out.exists()


def test_a_name_is_held_while_its_output_is_made(tmp_path):
    with reserved(tmp_path / "a" / "out.json"):
        with (
            pytest.raises(InterpError, match=r"out\.json is being written by another process"),
            reserved(tmp_path / "a" / "out.json"),
        ):
            raise AssertionError("held twice")
        with reserved(tmp_path / "a" / "other.json"):
            pass
        with pytest.raises(InterpError, match="is being written"), reserved(tmp_path / "a" / "out.json"):
            raise AssertionError("a refusal let go of it")
    with pytest.raises(ZeroDivisionError), reserved(tmp_path / "a" / "out.json"):
        1 / 0  # noqa: B018
    with reserved(tmp_path / "a" / "out.json"):
        (tmp_path / "a" / "out.json").write_text("done")
    with pytest.raises(InterpError, match="exists already"), reserved(tmp_path / "a" / "out.json"):
        raise AssertionError("replaced")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["out.json"]


def test_several_processes_write_the_same_tensors_at_once(tmp_path):
    """Safetensors renames a file of its own over the one that is locked."""
    words = "import sys, torch; from pathlib import Path; from interp.core.files import write_tensors\n"
    words += "for n in range(40): write_tensors(Path(sys.argv[1]), {'x': torch.full((50_000,), n)})"
    writers = [start(words, tmp_path / "x.safetensors", output=tmp_path / f"log{n}") for n in range(2)]
    for number, writer in enumerate(writers):
        writer.join(120)
        assert writer.exitcode == 0, (tmp_path / f"log{number}").read_text()
    assert (read_tensors(tmp_path / "x.safetensors")["x"] == 39).all()
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]
