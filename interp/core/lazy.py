"""Lazy exports: a package's public names, declared once in its `__init__.pyi`, and imported when they are first used.

The stub is what type checkers and editors read, so what they complete is what the package has (lazy_loader, SPEC 1).
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from inspect import isroutine
from pkgutil import iter_modules, resolve_name
from typing import Any

import lazy_loader

from interp.core.calls import checked
from interp.core.errors import InterpError, nearest

# Names of other libraries for what a package has under another name.
_OTHERS = {"SAE": "SparseAutoencoder", "HookedTransformer": "load", "LanguageModel": "load"}


def lazy_exports(package: str, file: str) -> tuple[Callable[[str], object], Callable[[], list[str]], list[str]]:
    """`__getattr__`, `__dir__` and `__all__` of a package, from the stub next to its `__init__.py`.

    The modules of the package are attributes too, imported on first use, so that `interp.sae.train` works after
    `import interp`. `__dir__`, which completion shows, has the exported names and the subpackages, except a
    subpackage whose name is an exported name in lower case. A name that the package does not have raises AttributeError
    with the nearest one. Calls of the functions and classes are checked.
    """
    load, _, exported = lazy_loader.attach_stub(package, file)

    def names() -> list[str]:
        shown = {name.lower() for name in exported}
        modules = iter_modules(import_module(package).__path__)
        return sorted([*exported, *(module.name for module in modules if module.ispkg and module.name not in shown)])

    def attribute(name: str) -> object:
        if name == "__version__" and "." not in package:
            from importlib.metadata import version

            return version(package)
        if name in exported:
            value = load(name)
            if (isroutine(value) or isinstance(value, type)) and "." in package:
                value = vars(import_module(package))[name] = checked(value)
            return value
        if not name.startswith("__") and find_spec(f"{package}.{name}"):
            return import_module(f"{package}.{name}")
        raise AttributeError(
            f"module {package!r} has no attribute {name!r}; {nearest(_OTHERS.get(name, name), names())}"
        )

    return attribute, names, exported


def require_package(package: str, extra: str, purpose: str = "this") -> None:
    """Raise where a package of an extra of interp, which serves a purpose, is not installed."""
    if not find_spec(package):
        raise InterpError(f"{purpose} needs the package {package}; pip install 'interp[{extra}]'")


def optional_class(name: str, extra: str) -> Any:
    """A class to derive from, of a package that need not be installed; without it, one that cannot be made.

    Args:
        name: The class, such as `inspect_ai.model:ModelAPI`.
        extra: The extra of interp that installs its package.

    Example:
        >>> optional_class("no_such_package:Model", "inspect")()
        Traceback (most recent call last):
        interp.core.errors.InterpError: this needs the package no_such_package; pip install 'interp[inspect]'
    """
    package = name.partition(":")[0].partition(".")[0]
    if find_spec(package):
        return resolve_name(name)
    return type(name.rpartition(":")[2], (), {"__init__": lambda *_, **__: require_package(package, extra)})
