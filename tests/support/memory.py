"""The most memory that an action takes, above what the process has when it begins."""

import gc
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")


def _bytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) << 10


def peak(action) -> int:
    """Bytes. The kernel's mark of the highest resident size is reset first; where it can't be, the test is skipped."""
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the mark of this process's highest memory can't be reset here")
    before = _bytes("VmRSS")
    action()
    return _bytes("VmHWM") - before
