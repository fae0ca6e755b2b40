"""One process at a time holds a folder, and a process that is killed lets go of it."""

import subprocess
import sys

import pytest

from interp.core.errors import InterpError
from interp.core.locks import lock_folder

HOLD = """
import sys
from pathlib import Path
from interp.core.locks import lock_folder
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
