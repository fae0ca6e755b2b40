"""Records of the folders that upkeep writes, read back, and the hidden folders of work that was begun."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from interp.core.config import differences
from interp.core.errors import InterpError, first_line
from interp.core.files import read_json, require_unlinked

SETTINGS = "settings.json"
Record = TypeVar("Record")


def read_record(cls: type[Record], file: Path, kind: str) -> Record:
    """Read a record from the file of its folder. Raises where there is none, or a damaged one."""
    if not file.is_file():
        raise InterpError(f"{file.parent} is no folder of {kind}; expected one with a {file.name}")
    try:
        return TypeAdapter(cls).validate_python(read_json(file))
    except ValidationError as problem:
        raise InterpError(f"{file} is damaged ({first_line(problem)}); make it again") from None


@contextmanager
def kept_once_begun(work: Path, settings: dict[str, Any], what: str) -> Iterator[None]:
    """Make a folder for work that can be resumed, or check that what is there was begun with the same settings.

    Whoever works there writes `SETTINGS` with the first result; without it in the end, the folder is removed.

    Args:
        work: The folder.
        settings: All that the results depend on.
        what: What is made there, with its article, for errors.

    Raises:
        InterpError: The folder holds work with other settings.
    """
    require_unlinked(work)
    if not (begun := work / SETTINGS).is_file():
        shutil.rmtree(work, ignore_errors=True)  # a process ended before its first result
        work.mkdir()
    elif changed := differences(read_json(begun), settings):
        raise InterpError(
            f"{work} holds {what} with other settings ({'; '.join(changed)}); continue with those, or remove it"
        )
    try:
        yield
    finally:
        if not begun.is_file():
            shutil.rmtree(work)
