"""Records with their SHA-256 in the file, so that a change is noticed when they are read."""

import json
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from interp.core.config import Config
from interp.core.errors import InterpError, first_line
from interp.core.files import read_json, sha256_json, write_json

Sealed = TypeVar("Sealed", bound=Config)


def write_sealed(record: Config, file: Path, version: int) -> None:
    """Write a record as JSON with the digest of its content and the version of its format."""
    values = record.model_dump(mode="json")
    write_json(file, values | {"format": version, "sha256": sha256_json(values)})


def read_sealed(cls: type[Sealed], file: Path, kind: str, version: int, command: str) -> Sealed:
    """Read a record that `write_sealed` wrote.

    Args:
        cls: Its class.
        file: The file.
        kind: What the record is, with its article, for errors.
        version: The version of its format.
        command: The command that writes it.

    Raises:
        InterpError: The file is missing, is no such record, or was changed since it was written.
    """
    if not file.is_file():
        raise InterpError(f"{file.parent}: no {file.name} in it; expected a folder written by {command}")
    values: Any = read_json(file)
    try:
        stated = values.pop("sha256"), values.pop("format")
        record = cls.model_validate_json(json.dumps(values))
    except (LookupError, TypeError, AttributeError, ValidationError) as problem:
        raise InterpError(f"{file}: not {kind} ({first_line(problem)}); write it again") from None
    if stated != (sha256_json(record.model_dump(mode="json")), version):
        raise InterpError(f"{file}: was changed since it was written (its SHA-256 differs); write it again")
    return record
