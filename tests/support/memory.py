"""The most memory that an action takes, above what the process has when it begins."""

import ctypes
import gc
from pathlib import Path

import pytest

_STATUS = Path("/proc/self/status")
_THRESHOLD, _SMALL, _USUAL = -3, 64 << 10, 32 << 20  # glibc's M_MMAP_THRESHOLD, and sizes in bytes


def _bytes(key: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) << 10


def peak(action) -> int:
    """Bytes. The kernel's mark of the highest resident size is reset first; where it can't be, the test is skipped.

    Meanwhile freed memory goes back to the system at once, as that of large tensors always does.
    """
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")
        set_option = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        pytest.skip("the highest memory of this process can't be measured here")
    before = _bytes("VmRSS")
    set_option(_THRESHOLD, _SMALL)
    try:
        action()
    finally:
        set_option(_THRESHOLD, _USUAL)
    return _bytes("VmHWM") - before
