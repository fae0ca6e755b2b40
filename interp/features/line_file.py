"""Append-only files of lines, safe with several writers and with one that is killed.

A line is written at once, under a lock, and flushed to disk, so that two writers don't mix and a killed one leaves at
most a line without an end, which does not count and which the next writer removes. Where that line is a whole object of
JSON, as a text editor may leave it, it counts. Empty lines don't.
"""

import fcntl
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from interp.core.inputs import require_regular


def append_lines(file: Path, lines: Sequence[str], require: Callable[[], None] = lambda: None) -> None:
    """Append lines to a file, which the first one makes.

    Args:
        file: The file.
        lines: The lines.
        require: Called when no other writer can come between; nothing is written where it raises.

    >>> from interp.features.line_file import append_lines, whole_lines
    >>> _ = (tmp / "lines").write_text("one\\nhal")
    >>> append_lines(tmp / "lines", ["two"])
    >>> [line for _, line in whole_lines(tmp / "lines")]
    ['one', 'two']
    """
    require_regular(file)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        require()
        end = size = os.lseek(descriptor, 0, os.SEEK_END)
        while end and os.pread(descriptor, 1, end - 1) != b"\n":
            end -= 1
        data = "".join(f"{line}\n" for line in lines).encode()
        if _is_whole(os.pread(descriptor, size - end, end)):
            data = b"\n" + data
        else:  # what a killed writer left
            os.ftruncate(descriptor, end)
            os.lseek(descriptor, end, os.SEEK_SET)
        while data:
            data = data[os.write(descriptor, data) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def whole_lines(file: Path) -> list[tuple[str, str]]:
    """The whole lines of a file, each with its place, `FILE, line N`; none where there is no file."""
    *lines, last = file.read_bytes().split(b"\n") if file.exists() else [b""]
    lines += [last] if _is_whole(last) else []
    return [(f"{file}, line {n}", line.decode("utf-8", "replace")) for n, line in enumerate(lines, 1) if line.strip()]


def _is_whole(tail: bytes) -> bool:
    """Whether a line without an end is an object of JSON."""
    try:
        return isinstance(json.loads(tail), dict)
    except ValueError:
        return False
