"""Scripts of the repository as modules: they import each other by bare names, from their own folder."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """The modules of a folder can be imported by bare names in the block."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))


@contextmanager
def imported(folder: Path, names: Sequence[str]) -> Iterator[dict[str, ModuleType]]:
    """The modules of a folder by their bare names, which are free again after the block."""
    with importable(folder):
        try:
            yield {name: importlib.import_module(name) for name in names}
        finally:
            for name in names:
                sys.modules.pop(name, None)
