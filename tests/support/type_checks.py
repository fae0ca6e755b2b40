"""Type checks of calls at a cost that a test suite can bear; the root conftest.py puts them in jaxtyping's place."""

import dataclasses
import functools
import re
import typing
from collections.abc import Callable
from typing import Any

import jaxtyping
from jaxtyping._storage import get_shape_memo

_jaxtyped = jaxtyping.jaxtyped
_Annotation = type(jaxtyping.AbstractArray)
judged = _Annotation.__instancecheck__
_NAME = re.compile(r"\*?[A-Za-z]\w*")
_passed: dict[tuple[Any, type, Any], tuple[list[str], int | None, str]] = {}


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


def _axes(annotation: Any) -> tuple[list[str], int | None, str] | None:
    """An annotation's axes, and place and name of the one with a star; None where some are more than names."""
    names = annotation.dim_str.split()
    starred = [name for name in names if name[0] == "*"]
    if not all(map(_NAME.fullmatch, names)):
        return None
    place = names.index(starred[0]) if starred else None
    return [name for name in names if name not in starred], place, "".join(starred)[1:]


def fits(annotation: Any, array: Any) -> bool:
    """What jaxtyping says of an array, in less than half the time.

    Type and dtype are right where it let an array of the same ones through. Then only names of axes are compared, with
    what they stand for in this call. All else is left to it, and so is whatever does not fit.
    """
    key = annotation, type(array), getattr(array, "dtype", None)
    if key not in _passed:
        fitted = judged(annotation, array)
        if fitted and (axes := _axes(annotation)):
            _passed[key] = axes
        return fitted
    (names, star, starred), shape = _passed[key], tuple(array.shape)
    rest = len(shape) - len(names)
    if rest < 0 or (rest > 0 and star is None):
        return judged(annotation, array)
    sizes, several, *_ = get_shape_memo()
    if star is not None:
        stands_for = False, shape[star : star + rest]  # False: it is not broadcast
        if several.get(starred, stands_for) != stands_for:
            return judged(annotation, array)
        shape = shape[:star] + shape[star + rest :]
    here: dict[str, int] = {}
    for name, size in zip(names, shape, strict=True):
        if sizes.get(name, size) != size or here.setdefault(name, size) != size:
            return judged(annotation, array)
    sizes.update(here)
    if star is not None:
        several[starred] = stands_for
    return True


def install() -> None:
    """Before anything of interp is imported."""
    _Annotation.__instancecheck__ = fits
    jaxtyping.jaxtyped = lambda context=None, *, typechecker=None: (
        _jaxtyped(context) if context else functools.partial(_checked, typechecker=typechecker)
    )
