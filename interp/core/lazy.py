"""Lazy exports: a package's public names, declared once in its `__init__.pyi`, and imported when they are first used.

The stub is what type checkers and editors read, so what they complete is what the package has (lazy_loader, SPEC 1).
"""

from collections.abc import Callable

import lazy_loader

from interp.core.errors import nearest


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the stub next to its `__init__.py`.

    A name that the package does not have raises AttributeError with the nearest one.
    """
    load, names, exported = lazy_loader.attach_stub(package, file)

    def attribute(name: str) -> object:
        try:
            return load(name)
        except AttributeError as problem:
            if name in exported or name.startswith("__"):
                raise
            raise AttributeError(
                f"module {package!r} has no attribute {name!r}; {nearest(name, exported)}"
            ) from problem

    return attribute, names, exported
