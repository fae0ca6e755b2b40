"""Progress passes every item on, once and in order, and shows the outermost call as the place where it runs needs."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from interp.core.progress import track


@pytest.fixture
def clock(monkeypatch):
    """Seconds that pass only when a test says so."""
    now = [1000.0]
    monkeypatch.setattr("tqdm.std.time", lambda: now[0])
    return lambda seconds: now.__setitem__(0, now[0] + seconds)


@pytest.mark.parametrize("size", [1, 3, len])
def test_items_pass_through_in_silence(capsys, size):
    items = ["a", "bb", "ccc"]
    assert list(track(items, "letters", size=size, unit="letters")) == items
    assert list(track(iter(items), "letters", total=3, size=size)) == items
    assert list(track([], "letters")) == []
    assert capsys.readouterr() == ("", "")


def test_items_are_taken_one_at_a_time():
    taken = []
    source = (taken.append(number) or number for number in range(5))
    assert next(track(source, "numbers")) == 0
    assert taken == [0]


def test_a_log_has_a_line_every_20_seconds_and_no_carriage_return(capsys, clock):
    for _ in track(range(10), "harvest", size=100, unit="tokens"):
        clock(5)
    lines = capsys.readouterr().err.split("\n")
    assert lines[0] == "harvest 40 % of 1,000 tokens, 20.00 tokens/s, 00:30 left"
    assert [line.split(" of")[0] for line in lines] == ["harvest 40 %", "harvest 80 %", "harvest 100 %", ""]
    for _ in track(iter(range(5)), "harvest", size=100, unit="tokens"):
        clock(5)
    assert capsys.readouterr().err.startswith("harvest 400 tokens, 20.00 tokens/s, 00:20\n")


def test_nested_calls_share_the_bar_of_the_outermost(capsys, clock):
    for _ in track(range(2), "audit", size=50):
        for _ in track(range(4), "generate"):
            clock(20)
    lines = [line.split(", ") for line in capsys.readouterr().err.splitlines()]
    assert [line[0] for line in lines[:4]] == [f"audit {percent} % of 100 items" for percent in (12, 25, 38, 50)]
    assert [line[-1] for line in lines[:4]] == ["generate"] * 4
    assert lines[0][2] == "02:20 left"


def test_calls_in_threads_leave_the_bar_to_the_main_one(capsys, clock):
    def inner(number):
        return list(track(range(number), "inner"))

    with ThreadPoolExecutor(4) as pool:
        for number, items in enumerate(track(pool.map(inner, range(300)), "outer", 300)):
            assert items == list(range(number))
            clock(20)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 300
    assert all(line.startswith("outer ") and "inner" not in line for line in lines)


def test_a_loop_that_is_left_does_not_hide_the_next(capsys, clock):
    with pytest.raises(ValueError, match="third"):
        for number in track(range(4), "first"):
            for _ in track(range(4), "second"):
                if number == 2:
                    raise ValueError("third")
    for _ in track(range(2), "next"):
        clock(30)
    assert capsys.readouterr().err.startswith("next 50 %")


def test_one_setting_switches_all_off(capsys, clock, monkeypatch):
    monkeypatch.setenv("INTERP_PROGRESS", "0")
    for _ in track(range(3), "harvest"):
        clock(60)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_is_left_as_it_was(monkeypatch, capsys, clock):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    for _ in track(range(3), "harvest"):
        clock(1)
    written = capsys.readouterr().err
    assert "harvest" in written
    assert "\n" not in written
    assert not written.split("\r")[-2].strip(), "the last line is wiped"


def test_importing_it_is_cheap():
    code = "import sys, interp.core.progress; assert 'tqdm' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
