"""Items come back in order with their results, from several processes, of which some end."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import count

import processes  # noqa: F401  # new processes have imported what takes seconds
import pytest
import worked

from interp import InterpError
from interp.core.shards.workers import map_in_order


def test_one_process_and_several_give_the_same_in_order_and_read_only_a_little_ahead(capfd):
    read = []
    items = (read.append(item) or item for item in count())
    pairs = map_in_order(worked.opened, worked.product, items, workers=2)
    several = []
    for pair in pairs:
        several.append(pair)
        assert len(read) <= len(several) + 4, "an endless iterator"
        if len(several) == 30:
            break
    pairs.close()
    one = list(map_in_order(worked.opened, worked.product, range(30), workers=1))
    assert [(item, result[0]) for item, result in several] == [(item, result[0]) for item, result in one]
    assert {process for _, (_, process) in one} == {os.getpid()}
    assert os.getpid() not in {process for _, (_, process) in several}
    assert capfd.readouterr().err == ""


def test_the_work_of_a_process_that_ends_is_done_again_once(tmp_path, capfd):
    dies_once = partial(worked.dies_once, tmp_path / "died")
    results = [result for _, (result, _) in map_in_order(worked.opened, dies_once, range(12), workers=2)]
    assert results == [3 * item for item in range(12)]
    assert capfd.readouterr().err.count("a process ended") == 1
    with pytest.raises(InterpError, match="a process ended twice, perhaps for lack of memory; use fewer workers"):
        list(map_in_order(worked.opened, worked.dies, range(12), workers=2))


def test_errors_of_processes_are_raised_here():
    with pytest.raises(InterpError, match="no file is there"):
        list(map_in_order(worked.cannot_open, worked.product, range(3), workers=2))
    with pytest.raises(ValueError, match="-1 is negative"):
        list(map_in_order(worked.opened, worked.product, [2, -1], workers=2))
    with pytest.raises(InterpError, match="workers is 0; expected at least 1"):
        list(map_in_order(worked.opened, worked.product, range(3), workers=0))
    with pytest.raises(InterpError, match="Peculiar: this and that") as caught:
        list(map_in_order(worked.opened, worked.raises_what_cannot_be_sent, range(3), workers=2))
    assert "worked.py" in caught.value.__notes__[0], "where it was raised"


def test_processes_end_at_once_when_nobody_reads_on():
    began, pairs = time.monotonic(), map_in_order(worked.opened, worked.sleeps, [0, 90, 90, 90], workers=2)
    assert next(pairs) == (0, 0)
    pairs.close()
    assert time.monotonic() - began < 60


def test_a_script_needs_no_guard_and_may_give_its_own_functions(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "from interp.core.shards.workers import map_in_order\n"
        "class Product:\n    def __init__(self, of): self.of = of\n"
        "pairs = map_in_order(lambda: 3, lambda opened, item: Product(opened * item), range(4), workers=2)\n"
        "print([isinstance(result, Product) and result.of for _, result in pairs])\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("[0, 3, 6, 9]\n", "")


def test_ctrl_c_twice_ends_all_processes(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import signal, time\n"
        "from interp.core.shards.workers import map_in_order\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "for _ in map_in_order(lambda: 0, lambda _, item: time.sleep(item), [0, 90, 90, 90], workers=2):\n"
        "    print('begun', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == b"begun\n"
    for _ in range(2):
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)
    process.communicate(timeout=60)  # to the end of the output, which every process holds open
    assert process.returncode in (-signal.SIGINT, 1)
