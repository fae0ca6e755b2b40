"""Type checks of calls at a cost that a test suite can bear; the root conftest.py puts them in jaxtyping's place."""

import dataclasses
import functools
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping

_jaxtyped = jaxtyping.jaxtyped


def _has_array(annotation: Any) -> bool:
    """Whether a jaxtyping shape is part of an annotation."""
    kinds = str | type(jaxtyping.AbstractArray)  # a string is an annotation that is not read yet
    return isinstance(annotation, kinds) or any(map(_has_array, typing.get_args(annotation)))


def _checked(function: Any, typechecker: Callable[[Any], Any]) -> Any:
    """A function, or a dataclass, whose arguments and result are checked at each call.

    Shapes are compared only where an annotation has some: that takes most of the time. Functions within functions are
    decorated at each call of the outer one, which takes a thousand times longer than the call: they go unchecked.
    """
    if isinstance(function, type):
        constructor = vars(function).get("__init__")
        # Not around a constructor that checks its calls by itself: its errors are for users.
        if dataclasses.is_dataclass(function) and constructor and not hasattr(constructor, "checked"):
            function.__init__ = _checked(function.__init__, typechecker)
        return function
    if "<locals>" in getattr(function, "__qualname__", ""):
        return function
    annotations = getattr(function, "__annotations__", {}).values()
    checked = typechecker(function)
    return _with_shapes(checked) if any(map(_has_array, annotations)) else checked


def _with_shapes(function: Callable[..., Any]) -> Callable[..., Any]:
    """Dimensions of one name are compared within a call. The library's own decorator checks arguments twice."""

    @functools.wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with _jaxtyped("context"):
            return function(*arguments, **options)

    return call


def install() -> None:
    """Before anything of interp is imported."""
    jaxtyping.jaxtyped = lambda context=None, *, typechecker=None: (
        _jaxtyped(context) if context else functools.partial(_checked, typechecker=typechecker)
    )
