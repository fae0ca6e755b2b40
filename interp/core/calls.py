"""Checked calls: a wrong call gives one `InterpError` that says what was given, what was expected and how to get it.

A checked function compares its arguments with its signature and annotations before it runs:

- functions: a package checks those that its stub lists (`lazy_exports`), so calls within interp cost nothing;
- classes: the constructor and the public methods, from the first use of the public name, or by the decorator
  `checked_class` for objects that users get without naming the class.

Some values are accepted in place of others: a finding for its direction, one item for a list of them, an array for a
tensor, a whole number for a number, text for a path.

Limitations: only the first 1000 items of a list are checked, and no item of an iterator.
"""

import inspect
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache, wraps
from itertools import islice, repeat
from pathlib import Path
from reprlib import Repr
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from interp.core.errors import InterpError, nearest, own_frames

Checked = TypeVar("Checked", bound=Callable[..., Any])
CheckedClass = TypeVar("CheckedClass", bound=type)
Arguments = dict[str, Any]
# Arguments that once had another name, which saved files keep.
FORMER_NAMES = {"strength": "scale", "strengths": "scales", "factor": "scale"}
# What one gives where a protocol is asked for.
_PROTOCOLS = {"Edits": "Recipe", "ActivationSource": "Store or Stream", "SearchedDirection": "Direction"}
# Records that stand for what is in one of their fields.
_FIELDS = {"Finding": "direction", "TrainedSae": "sae", "AblationTrial": "finding"}
_NOUNS = {str: "text", int: "whole number", float: "number", Callable: "function", Mapping: "dict", Any: "value"}
_LISTS = (Iterable, Collection, Sequence, list, tuple, set, frozenset)
_HOLDERS = (*_LISTS, dict, Mapping)
LIMITS = {"ge": "of at least {}", "gt": "above {}", "le": "of at most {}", "lt": "below {}"}
_SOURCES: dict[str, str] = {}  # how one gets an object of a class, by the name of the class
_short = Repr()
_short.maxstring = _short.maxother = 60
_short.maxlist = _short.maxtuple = _short.maxdict = _short.maxset = _short.maxlevel = 3


def checked_class(source: str) -> Callable[[CheckedClass], CheckedClass]:
    """Check the calls of a class from its definition on; `source` says how one gets an object of it."""

    def check(cls: CheckedClass) -> CheckedClass:
        _SOURCES[cls.__name__] = source
        return checked(cls)

    return check


@cache
def checked(target: Checked) -> Checked:
    """The function with its calls checked, or the class with those of its constructor and public methods.

    Example:
        >>> interp.find("organism", contrast)
        Traceback (most recent call last):
        interp.core.errors.InterpError: find: model is 'organism'; expected a HookedModel...
        >>> interp.Project([1.0, 0.0], strength=0.5)
        Traceback (most recent call last):
        interp.core.errors.InterpError: Project has no argument 'strength'; it is called scale
    """
    if not isinstance(target, type):
        return _checked(target, target.__name__)
    constructor = "__new__" if issubclass(target, tuple) else "__init__"
    package = target.__module__.partition(".")[0]
    bases = [base for base in reversed(target.__mro__) if base.__module__.partition(".")[0] == package]
    for name, member in {name: member for base in bases for name, member in vars(base).items()}.items():
        title = target.__name__ if name == constructor else f"{target.__name__}.{name}"
        function = getattr(member, "__func__", member)
        if (name.startswith("_") and name not in (constructor, "__getitem__")) or hasattr(function, "checked"):
            continue
        if isinstance(member, classmethod) or name == "__new__":
            setattr(target, name, type(member)(_checked(function, title, skipped=1)))
        elif inspect.isfunction(member) and not hasattr(member, "__pydantic_base_init__"):
            setattr(target, name, _checked(member, title, skipped=1))
    return target


def _checked(function: Checked, title: str, skipped: int = 0) -> Checked:
    @wraps(function)
    def checked_call(*args: Any, **kwargs: Any) -> Any:
        given, signature = args[skipped:], _signature(function, title, skipped)
        arguments = dict(zip(signature.by_place, given, strict=False)) | kwargs
        with _shapes() if signature.shaped else nullcontext():
            problem = signature.problem(given, kwargs, arguments)
        if problem:
            raise InterpError(problem)
        by_place = [arguments.pop(name) for name in signature.by_place[: len(given)]]
        try:
            return function(*args[:skipped], *by_place, *given[len(by_place) :], **arguments)
        except InterpError as error:
            raise own_frames(error)  # noqa: B904 (it is the same error)

    checked_call.__dict__["checked"] = True
    return cast(Checked, checked_call)


def _shapes() -> AbstractContextManager[object]:
    """A block in which the axes of shapes have sizes of their own, not those of the function that calls."""
    from jaxtyping import jaxtyped

    return jaxtyped("context")


@cache
def _signature(function: Callable[..., Any], title: str, skipped: int) -> "_Signature":
    parameters = list(inspect.signature(function).parameters.values())[skipped:]
    kinds, hints = {p.name: p.kind for p in parameters}, get_type_hints(function, include_extras=True)
    named = {p.name: p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return _Signature(
        title,
        {name: hints.get(name, Any) for name in named},
        {name: _test(hints.get(name, Any)) for name in named},
        [name for name, p in named.items() if p.kind != p.KEYWORD_ONLY],
        [name for name, p in named.items() if p.default is p.empty],
        {kind for kind in kinds.values() if kind.name.startswith("VAR")},
        "'jaxtyping." in str(hints),
    )


class _Signature(NamedTuple):
    title: str
    hints: dict[str, Any]
    tests: dict[str, Callable[[Any], bool]]
    by_place: list[str]
    required: list[str]
    more: set[Any]  # whether further arguments are taken, by place or by name
    shaped: bool  # whether annotations name shapes

    def problem(self, given: Sequence[Any], kwargs: Arguments, arguments: Arguments) -> str:
        """What is wrong with a call, if anything. Arguments that stand for others are replaced by them."""
        if problem := self._misfit(given, kwargs, arguments):
            return problem
        for name, test in self.tests.items():
            if name in arguments and not test(value := arguments[name]):
                arguments[name] = _adapted(value, hint := self.hints[name])
                if not test(arguments[name]):
                    path, item, hint = _culprit(name, value, hint)
                    swapped = path == name and any(fits(other, hint) for other in arguments.values())
                    form = f"; the call is {self._form()}" if swapped else ""
                    return f"{self.title}: {path} is {shown(item)}; expected {in_words(hint)}{advice(item, hint)}{form}"
        return ""

    def _misfit(self, given: Sequence[Any], kwargs: Arguments, arguments: Arguments) -> str:
        """Which name is unknown or given twice, which argument is one too many, or which is missing."""
        most, unknown = len(self.by_place), [name for name in kwargs if name not in self.hints]
        if unknown and inspect.Parameter.VAR_KEYWORD not in self.more:
            former = FORMER_NAMES.get(unknown[0])
            hint = f"it is called {former}" if former in self.hints else nearest(unknown[0], self.hints)
            return f"{self.title} has no argument {unknown[0]!r}; {hint}"
        if len(given) > most and inspect.Parameter.VAR_POSITIONAL not in self.more:
            extra = given[most]
            suited = [name for name, hint in self.hints.items() if name not in arguments and fits(extra, hint)]
            hint = f"write {suited[0]}=…" if suited else f"the call is {self._form()}"
            return f"{self.title} takes at most {most} arguments without a name, and {shown(extra)} is one more; {hint}"
        if len(arguments) < min(len(given), most) + len(kwargs):
            twice = next(name for name in kwargs if name in self.by_place[: len(given)])
            return f"{self.title} gets {twice} twice, by place and by name; the call is {self._form()}"
        if missing := [name for name in self.required if name not in arguments]:
            wrong = [name for name in self.required if name in arguments and not self.tests[name](arguments[name])]
            name = (wrong or missing)[0]
            wanted = f"{in_words(self.hints[name])}{advice(None, self.hints[name])}"
            return f"{self.title} needs {name}: {wanted}; the call is {self._form()}"
        return ""

    def _form(self) -> str:
        more = ["…"] * (len(self.required) < len(self.hints))
        return f"{self.title}({', '.join(self.required + more)})"


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of an annotated type. A text is no list of texts, and True no number.

    >>> fits(["a", 3], Sequence[str]), fits(3, int | None), fits("abc", Sequence[str])
    (False, True, False)
    """
    return _test(hint)(value)


@cache
def _test(hint: Any) -> Callable[[Any], bool]:
    kind, parts = _split(hint)
    if limits := limits_of(hint):
        test = _test(get_args(hint)[0])
        return lambda value: test(value) and all(getattr(operator, name)(value, x) for name, x in limits.items())
    tests = [_test(part) for part in parts if part is not ... and kind not in (Callable, Literal)]
    if kind in _HOLDERS:  # items have shapes of their own
        tests = [_apart(test) if "jaxtyping." in str(part) else test for test, part in zip(tests, parts, strict=False)]
    if kind is Literal:
        return lambda value: value in parts
    if kind is Union:
        return lambda value: any(test(value) for test in tests)
    if kind is tuple and parts and parts[-1] is not ...:
        return lambda x: (
            isinstance(x, tuple) and len(x) == len(tests) and all(t(v) for t, v in zip(tests, x, strict=True))
        )
    if kind in (dict, Mapping) and tests:
        return lambda value: isinstance(value, kind) and all(map(tests[1], value.values()))
    if kind in _LISTS:
        held = (list, tuple, set, frozenset, dict) if tests else ()
        return lambda value: (
            isinstance(value, kind)
            and not isinstance(value, str)
            and (not isinstance(value, held) or all(map(tests[0], islice(value, 1000))))
        )
    protocol = getattr(kind, "_is_protocol", False) and not getattr(kind, "_is_runtime_protocol", False)
    if kind is Any or not isinstance(kind, type) or protocol:
        return lambda value: callable(value) or kind is not Callable
    return lambda value: isinstance(value, kind) and not (isinstance(value, bool) and kind in (int, float))


def _apart(test: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def test_apart(value: Any) -> bool:
        with _shapes():
            return test(value)

    return test_apart


def _split(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The class or form of an annotation, and what it is applied to."""
    if get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    kind = get_origin(hint) or hint
    return Union if kind is UnionType else kind, get_args(hint)


def limits_of(hint: Any) -> dict[str, Any]:
    """The bounds of an annotated number, such as pydantic's PositiveInt, by the names of `LIMITS`."""
    bounds = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return {name: getattr(bound, name) for bound in bounds for name in LIMITS if hasattr(bound, name)}


def _adapted(value: Any, hint: Any) -> Any:
    """The value of the expected type that a value is accepted for; the value itself if there is none."""
    kind, parts = _split(hint)
    if kind is Union:
        return next((other for part in parts if fits(other := _adapted(value, part), part)), value)
    if type(value).__name__ in _FIELDS:
        return _adapted(getattr(value, _FIELDS[type(value).__name__]), hint)
    if kind in (int, float, bool) and getattr(value, "shape", None) == ():
        value = value.item()
    if (kind is float and type(value) is int) or (kind in (str, Path) and isinstance(value, str | Path)):
        return value if isinstance(value, kind) else kind(value)
    if hasattr(kind, "dim_str") or getattr(kind, "__name__", "") == "Tensor":
        return _tensor(value, hint) if isinstance(value, list | tuple) or hasattr(value, "__array__") else value
    if kind in _LISTS and parts and not fits(value, hint):
        make = tuple if kind is tuple else list
        if parts[0] is not Any and fits(single := _adapted(value, parts[0]), parts[0]):
            return make([single])
        if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
            return make(_adapted(item, parts[0]) for item in getattr(value, "tolist", lambda: value)())
    return value


def _tensor(value: Any, hint: Any) -> Any:
    """The numbers of an array or list as a tensor; the value itself if it has none."""
    import torch

    try:
        tensor = torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError):
        return value
    return tensor if fits(tensor, hint) or tensor is value else tensor.float()


def _culprit(path: str, value: Any, hint: Any) -> tuple[str, Any, Any]:
    """The part of a value that does not fit: the first wrong item of a list or dict, or the value itself."""
    for option in get_args(hint) if _split(hint)[0] is Union else [hint]:
        kind, parts = _split(option)
        if parts and isinstance(value, dict if kind in (dict, Mapping) else list | tuple) and kind in _HOLDERS:
            fixed = kind is tuple and parts[-1] is not ... and len(value) == len(parts)
            items = value.items() if isinstance(value, dict) else enumerate(value)
            hints = parts if fixed else repeat(parts[0 if kind in _LISTS else 1], len(value))
            for (key, item), inner in zip(items, hints, strict=False):
                if not fits(_adapted(item, inner), inner):
                    return _culprit(f"{path}[{key!r}]", item, inner)
    return path, value, hint


def shown(value: Any) -> str:
    """A value in a few words, with its type where the words do not show it.

    >>> shown("abc"), shown(3), shown(["a", "b"]), shown(len)
    ("'abc'", '3', "['a', 'b'] (a list)", 'the function len')
    """
    kind = _article(next(base.__name__ for base in type(value).__mro__ if not base.__name__.startswith("_")))
    if value is None or isinstance(value, str | int | float):
        return _short.repr(value)
    if hasattr(value, "dtype") and hasattr(value, "shape"):
        return f"{kind} of shape {tuple(value.shape)} and type {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, list | tuple | set | dict | Path):
        return f"{_short.repr(value)} ({kind})"
    if isinstance(value, type) or inspect.isroutine(value):
        return f"the {'class' if isinstance(value, type) else 'function'} {value.__name__}"
    return kind


def in_words(hint: Any, many: bool = False) -> str:
    """An annotated type in words, as one value or as many.

    >>> in_words(str | Sequence[int] | None)
    'a text, a list of whole numbers or None'
    >>> in_words(Literal["token", "byte"])
    "'token' or 'byte'"
    """
    kind, parts = _split(hint)
    if kind in (Union, Literal):
        *first, last = dict.fromkeys(repr(part) if kind is Literal else in_words(part, many) for part in parts)
        return " or ".join(filter(None, (", ".join(first), last)))
    if kind in (bool, NoneType):
        return "True or False" if kind is bool else "None"
    name = getattr(kind, "__name__", str(kind))
    noun, rest = "mapping" if hasattr(kind, "model_fields") else _NOUNS.get(kind, _PROTOCOLS.get(name, name)), ""
    if hasattr(hint, "dim_str"):
        numbers = kind.__name__.partition("[")[0].lower().replace("shaped", "")
        noun, rest = f"{numbers} tensor".strip(), f" of shape ({hint.dim_str})"
    elif kind is tuple and parts and parts[-1] is not ...:
        rest = f" ({', '.join(map(in_words, parts))})"
    elif kind in _LISTS:
        noun, rest = "list", f" of {in_words(parts[0], many=True)}" if parts else ""
    bounds = [""] + [LIMITS[name].format(bound) for name, bound in limits_of(hint).items()]
    return (f"{noun}s{rest}" if many else f"{_article(noun)}{rest}") + " ".join(bounds)


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOaeio' else 'a'} {noun}"


def advice(value: object, hint: Any) -> str:
    """How one gets what is expected, as the end of a sentence; for a choice of words, the nearest to the value."""
    kind, parts = _split(hint)
    if kind is Literal and isinstance(value, str):
        close = nearest(value, map(str, parts))
        return f"; {close}" if close.startswith("did") else ""
    if kind is Union or kind in _LISTS:
        return next(filter(None, (advice(value, part) for part in parts)), "")
    name = getattr(kind, "__name__", "")
    text = _SOURCES.get(_PROTOCOLS.get(name, name), "")
    return f"; {text}" if text else ""
