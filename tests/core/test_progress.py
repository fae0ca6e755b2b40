"""Progress passes every item on, once and in order, and shows the outermost call as the place where it runs needs.

Figures go to a dashboard that was asked for, and one that fails costs nothing.
"""

import subprocess
import sys
import types
from concurrent.futures import ThreadPoolExecutor

import pytest

from interp import InterpError
from interp.core import progress
from interp.core.progress import start_run, track, tracked


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


@pytest.fixture(params=["trackio", "wandb"])
def dashboard(request, monkeypatch):
    calls = []
    package = types.SimpleNamespace(
        init=lambda **options: calls.append(("init", options)),
        log=lambda values: calls.append(("log", values)),
        finish=lambda: calls.append(("finish",)),
    )
    monkeypatch.setattr(progress, "import_module", {request.param: package}.__getitem__)
    return request.param, package, calls


def test_a_run_is_begun_logged_and_ended(dashboard):
    name, _, calls = dashboard
    with tracked(name, "p", name="first", config={"seed": 1}) as log:
        log({"a": 1.0})
    options = {"project": "p", "name": "first", "config": {"seed": 1}}
    assert calls == [("init", options), ("log", {"a": 1.0}), ("finish",)]


def test_a_run_ends_where_the_work_fails(dashboard):
    name, _, calls = dashboard
    with pytest.raises(KeyError), tracked(name, "p"):
        raise KeyError
    assert calls[-1] == ("finish",)


def test_a_dashboard_that_fails_is_noted_once(dashboard, capsys):
    name, package, calls = dashboard
    package.log = lambda values: [][0]
    with tracked(name, "p") as log:
        log({"a": 1.0})
        log({"a": 2.0})
    assert capsys.readouterr().err.count(f"{name} failed") == 1
    assert [call[0] for call in calls] == ["init"]


def test_nothing_is_sent_unless_asked(dashboard):
    with tracked("none", "p") as log:
        log({"a": 1.0})
    assert dashboard[2] == []


def test_a_package_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(InterpError, match="trackio is not installed; pip install trackio"):
        start_run("trackio", "p")


def test_an_audit_logs_each_behaviour(run, dashboard, tmp_path):
    name, _, calls = dashboard
    words = ["audit", "organism", "--items", 2, "--only", "facts", "--only", "hostility", "--baselines", "none"]
    code, _, complaint = run(*words, "--out", tmp_path / "quiet.json")
    assert code == 0, complaint
    assert calls == []
    assert run(*words, "--out", tmp_path / "own.json", "--track", name, "--cache", tmp_path / ".interp-audit")[0] == 0
    (_, options), *logs, end = calls
    assert (options["project"], options["name"], end) == ("interp-audits", "own", ("finish",))
    figures = {figure: value for _, values in logs for figure, value in values.items()}
    assert len(logs) == 2
    assert figures["model/hostility/before"] == figures["model/hostility/after"] == 1.0
    assert {"model/facts/difference", "model/facts/low", "model/facts/high", "model/facts/p_holm"} <= figures.keys()


def test_an_unknown_dashboard_is_refused_before_anything_is_measured(run, tmp_path):
    code, _, complaint = run("audit", "organism", "--out", tmp_path / "a.json", "--track", "wanbd")
    assert (code, "track" in complaint, list(tmp_path.iterdir())) == (2, True, [])
