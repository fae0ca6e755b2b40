"""File locks: one process at a time in a folder."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from interp.core.errors import InterpError


@contextmanager
def lock_folder(folder: Path, busy: str) -> Iterator[None]:
    """Hold a folder's lock for the duration of a block; the system releases it however the process ends.

    Args:
        folder: An existing folder. No file is written to it.
        busy: The error message if another process holds the lock.

    Raises:
        InterpError: Another process, or another block of this one, holds the lock.

    Example:
        >>> from interp.core.locks import lock_folder
        >>> with lock_folder(tmp, "being written"):
        ...     with lock_folder(tmp, f"{tmp.name} is being written"):
        ...         pass
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... is being written
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InterpError(busy) from None
        yield
    finally:
        os.close(descriptor)
