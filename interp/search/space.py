"""A space of recipes: a recipe as plain data in which some values are left to choose, and the choice of a trial.

A mapping with these keys alone stands for a value to choose, wherever it is in the recipe:

| in the recipe | a trial has there |
|---|---|
| `{choice: [a, b]}`, `{choice: {name: a, other: b}}` | one of the values, which may have choices of their own |
| `{low: 0.1, high: 2}` with `log: true` or `step: 0.1` | a number, whole where low, high and step are |
| `{low: 4, high: 20, text: "resid_post.{}"}` | a text with the number in it |
| `{maybe: value}` | the value, or nothing: the key or the entry of the list is left out |
| `{subset: [a, b, c]}` | a list of those that are in; where none is, the mapping that it is a value of is left out |
| `{band: [0, 29], least: 4}` | a band of layers such as 8-20, at least so many wide |

`name: NAME` beside these names the parameter; a second place with the same name has the same value. Other parameters
are called by their place, such as `edits.0.strength.height`. What is inside a choice that is not made is not chosen.
"""

from collections.abc import Callable, Mapping
from typing import Any

from interp.core.errors import InterpError

_OPTIONS = {
    "choice": {"name"}, "low": {"high", "log", "step", "text", "name"}, "subset": {"name"}, "maybe": {"name"},
    "band": {"least", "name"}, 
}  # fmt: skip
_NOTHING, _EMPTY = object(), object()  # what is left out; and a subset without members, which leaves out its entry


def choose(template: Any, trial: Any) -> Any:
    """The recipe of a trial.

    Args:
        template: The space, as plain data.
        trial: A trial of Optuna, or what suggests values by the names of parameters as one does.

    Returns:
        The same data without anything to choose.

    Raises:
        InterpError: A value to choose is described in a way that has no meaning.

    Example:
        >>> from interp.search.space import choose
        >>> class First:
        ...     def suggest_categorical(self, name, choices): return choices[0]
        ...     def suggest_int(self, name, low, high, **options): return low
        ...     suggest_float = suggest_int
        >>> choose({"op": {"choice": ["Project", "Add"]}, "strength": {"low": 0.5, "high": 1.0}}, First())
        {'op': 'Project', 'strength': 0.5}
    """
    chosen = _value(template, "", _Consistent(trial))
    return {} if chosen in (_NOTHING, _EMPTY) else chosen


class _Consistent:
    """A trial that is asked for one parameter in one way only."""

    def __init__(self, trial: Any):
        self._trial, self._asked = trial, dict[str, Any]()

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        def suggest(name: str, *values: Any, **options: Any) -> Any:
            if self._asked.setdefault(name, (kind, values, options)) != (kind, values, options):
                raise InterpError(
                    f"{name} names two parameters that differ; give each another name, or the same values"
                )
            return getattr(self._trial, kind)(name, *values, **options)

        return suggest


def _value(part: Any, place: str, trial: Any) -> Any:
    if isinstance(part, list | tuple):
        entries = [_value(entry, f"{place}.{number}", trial) for number, entry in enumerate(part)]
        return [entry for entry in entries if entry is not _NOTHING and entry is not _EMPTY]
    if not isinstance(part, Mapping):
        return part
    mark = next((key for key in _OPTIONS if key in part and set(part) <= {key, *_OPTIONS[key]}), None)
    if mark is None:
        values = {key: _value(part[key], f"{place}.{key}", trial) for key in sorted(part)}  # however a file orders them
        if any(value is _EMPTY for value in values.values()):
            return _NOTHING
        return {key: value for key, value in values.items() if value is not _NOTHING}
    name = str(part.get("name", place.removeprefix(".")))
    return _CHOSEN[mark](part, name, place, trial)


def _choice(part: Mapping[str, Any], name: str, place: str, trial: Any) -> Any:
    options = part["choice"]
    if not isinstance(options, list | Mapping) or not options:
        raise InterpError(f"{name}: choice is {options!r}; expected a list, or values by name, at least one")
    if not isinstance(options, Mapping):
        options = {str(n) if isinstance(x, list | Mapping) else x: x for n, x in enumerate(options)}
    labels = tuple(sorted(options, key=str)) if isinstance(part["choice"], Mapping) else tuple(options)
    label = trial.suggest_categorical(name, labels)
    inner = f"{place}[{label}]" if isinstance(options[label], list | Mapping) else place
    return _value(options[label], inner, trial)


def _range(part: Mapping[str, Any], name: str, place: str, trial: Any) -> Any:
    low, high, step, log = part["low"], part.get("high", ""), part.get("step"), part.get("log", False)
    if not isinstance(log, bool):
        raise InterpError(f"{name}: log is {log!r}; expected true or false")
    if "text" in part and str(part["text"]).replace("{}", "", 1).count("{") + ("{}" not in str(part["text"])):
        raise InterpError(f"{name}: text is {part['text']!r}; expected one with {{}} where the number goes")
    options: dict[str, Any] = {"log": log} if step is None else {"step": step}
    numbers = all(isinstance(x, int | float) and not isinstance(x, bool) for x in (low, high, step or 0))
    if not numbers or not low <= high or (step is not None and (step <= 0 or log)) or (log and low <= 0):
        expected = "numbers with low at most high, a positive step without log, and with log a low above 0"
        raise InterpError(f"{name}: low {low!r}, high {high!r}, step {step!r}; expected {expected}")
    if all(isinstance(x, int) for x in (low, high, step or 0)):
        number: float = trial.suggest_int(name, low, high, **options)
    else:
        number = trial.suggest_float(name, float(low), float(high), **options)
    return str(part["text"]).replace("{}", str(number)) if "text" in part else number


def _subset(part: Mapping[str, Any], name: str, place: str, trial: Any) -> Any:
    members = part["subset"]
    if not isinstance(members, list) or len({str(member) for member in members}) < max(1, len(members)):
        raise InterpError(f"{name}: subset is {members!r}; expected a list of different members, at least one")
    return [x for x in members if trial.suggest_categorical(f"{name}[{x}]", (True, False))] or _EMPTY


def _maybe(part: Mapping[str, Any], name: str, place: str, trial: Any) -> Any:
    name = name if "name" in part else f"{name}?"  # the value may have a parameter at this place itself
    return _value(part["maybe"], place, trial) if trial.suggest_categorical(name, (True, False)) else _NOTHING


def _band(part: Mapping[str, Any], name: str, place: str, trial: Any) -> Any:
    """The width is a share of what is left above the first layer, so that its range is the same for all."""
    ends, least = part["band"], part.get("least", 1)
    whole = isinstance(ends, list) and len(ends) == 2 and all(isinstance(x, int) for x in (*ends, least))
    if not whole or not 1 <= least <= ends[1] - ends[0] + 1:
        raise InterpError(f"{name}: band {ends!r} of at least {least!r}; expected two layers that are so far apart")
    first = trial.suggest_int(f"{name}.first", ends[0], ends[1] - least + 1)
    share = trial.suggest_float(f"{name}.share", 0.0, 1.0)
    return f"{first}-{first + least - 1 + round(share * (ends[1] - first - least + 1))}"


_CHOSEN: dict[str, Callable[[Mapping[str, Any], str, str, Any], Any]] = {
    "choice": _choice, "low": _range, "subset": _subset, "maybe": _maybe, "band": _band,
}  # fmt: skip
