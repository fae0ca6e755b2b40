"""Records of the folders that upkeep writes, read back."""

from pathlib import Path
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from interp.core.errors import InterpError, first_line
from interp.core.files import read_json

Record = TypeVar("Record")


def read_record(cls: type[Record], file: Path, kind: str) -> Record:
    """Read a record from the file of its folder. Raises where there is none, or a damaged one."""
    if not file.is_file():
        raise InterpError(f"{file.parent} is no folder of {kind}; expected one with a {file.name}")
    try:
        return TypeAdapter(cls).validate_python(read_json(file))
    except ValidationError as problem:
        raise InterpError(f"{file} is damaged ({first_line(problem)}); make it again") from None
