"""Frozen configuration with strict keys and types, strict YAML, and differences between settings.

YAML itself accepts a key that is there twice, keys that are not plain text, values that hold themselves, and aliases
that, written out, are larger than any memory; here all of these raise, with the line.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import Parameter, Signature
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from interp.core.calls import LIMITS, advice, in_words, shown
from interp.core.display import Card, Displayed, clipped, fields_text
from interp.core.errors import InterpError, nearest
from interp.core.inputs import bound, bounded_text, over_bound

Parsed = TypeVar("Parsed", bound="Config")


class Config(Displayed, BaseModel):
    """Base of every configuration: a frozen pydantic model whose values are not coerced.

    An unknown key is an error that names the nearest known one. Subclasses are final: variation is data, not
    inheritance. Each field says what it means in `Field(description=…)`, which the command line's help shows.

    Example:
        >>> from interp.core import Config
        >>> class Audit(Config):
        ...     items: int = 50
        >>> Audit.of(["items=20"])
        Audit(items=20)
        >>> Audit.parse({"item": 20}, source="audit.yaml")
        Traceback (most recent call last):
        interp.core.errors.InterpError: audit.yaml: unknown key 'item'; did you mean items?
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Put the fields, as they describe themselves, into the signature and the docstring."""
        super().__pydantic_init_subclass__(**options)
        parameters, lines = [], list[str]()
        for name, field in cls.model_fields.items():
            default = Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
            parameters.append(Parameter(name, Parameter.KEYWORD_ONLY, default=default))
            given = "" if field.is_required() or default is None else f" [default: {default!r}]"
            lines.append(f"        {name}: {field.description or in_words(field.annotation)}{given}\n")
        cls.__signature__ = Signature(parameters)
        head, example, rest = (cls.__doc__ or "").partition("    Example:")
        cls.__doc__ = f"{head.rstrip()}\n\n    Args:\n{''.join(lines)}\n    {example.lstrip()}{rest}"

    def __init__(self, /, *args: Any, **values: Any) -> None:
        if args:
            fields = ", ".join(f"{name}=…" for name in type(self).model_fields)
            raise InterpError(f"{type(self).__name__} takes its fields by name, not {shown(args[0])}: {fields}")
        try:
            super().__init__(**values)
        except ValidationError as problem:
            raise _error(type(self), problem, type(self).__name__) from None

    # Parsing a nested record does not call `__init__`, so that the outer error names the whole path of a key.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    def _card(self) -> Card:
        described = type(self).model_fields.items()
        return "", [(name, getattr(self, name), field.description or "") for name, field in described]

    def __repr__(self) -> str:
        return fields_text(self)

    def __str__(self) -> str:
        return clipped(super().__str__(), 600)

    @classmethod
    def parse(cls: type[Parsed], values: object, source: str = "config") -> Parsed:
        """Validate plain values. The error lists every problem with its key, after `source`, their origin."""
        try:
            return cls.model_validate(values)
        except ValidationError as problem:
            raise _error(cls, problem, source) from None

    @classmethod
    def of(cls: type[Parsed], overrides: Sequence[str], source: str = "settings") -> Parsed:
        """The defaults with `key.sub=value` overrides, whose values are YAML."""
        return cls.parse(overridden({}, overrides), source)

    @classmethod
    def read(cls: type[Parsed], path: str | Path, overrides: Sequence[str] = ()) -> Parsed:
        """Read a YAML file and apply `key.sub=value` overrides, whose values are YAML as well.

        The error names the line of each problem.
        """
        file = Path(path)
        root = compose_yaml(bounded_text(file, "YAML", "yaml"), str(file))
        values = None if root is None else construct_yaml(root, str(file))
        if root is None or not isinstance(values, dict):
            raise InterpError(f"{file}: expected a mapping of keys at the top level, got {type(values).__name__}")
        keys = [override.partition("=")[0] for override in overrides]
        try:
            return cls.model_validate(overridden(values, overrides))
        except ValidationError as problem:
            raise _error(cls, problem, str(file), lambda path: _line(root, path, keys)) from None


def overridden(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, Any]:
    """The values with `key.sub=value` overrides, whose values are YAML."""
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise InterpError(f"override {override!r}: expected key=value, for instance audit.items=50")
        *parents, last = key.split(".")
        group = values
        for parent in parents:
            group = group.setdefault(parent, {})
            if not isinstance(group, dict):
                raise InterpError(f"override {override!r}: {parent!r} is a value, not a group of keys")
        group[last] = plain_value(text, f"override {override!r}")
    return values


class InnerProblem(InterpError):
    """What a record's own validator refuses at one of its inner keys.

    Args:
        path: The keys, from the record's.
        text: The problem.
    """

    def __init__(self, path: tuple[str | int, ...], text: str):
        super().__init__(f"{'.'.join(map(str, path))}: {text}")
        self.path = path


@contextmanager
def inner(*path: str | int) -> Iterator[None]:
    """Name the keys of what a record's own validator checks in a block, so that a file's error has their line."""
    try:
        yield
    except InterpError as problem:
        raise InnerProblem(path, str(problem)) from None


def _error(
    config: type[BaseModel], problem: ValidationError, source: str, line: Callable[[Sequence[Any]], str] = lambda _: ""
) -> InterpError:
    problems: dict[str, None] = {}  # a union has one each
    errors = problem.errors()
    for error in errors:
        depth = len(error["loc"])
        if error["type"] == "too_short" and any(error["loc"] == x["loc"][:depth] != x["loc"] for x in errors):
            continue  # pydantic doesn't count the items that have a problem of their own
        inner = getattr(error.get("ctx", {}).get("error"), "path", ())
        problems[line((*error["loc"], *inner)) + _explain(config, error)] = None
    text = "; ".join(problems)
    separator = "" if not source else ", " if text.startswith("line ") else ": "
    return InterpError(f"{source}{separator}{text}")


def _line(root: yaml.Node, path: Sequence[Any], overridden_keys: Sequence[str]) -> str:
    """`line N: `, where the last key of a path that the file has is; nothing for a key that is overridden."""
    dotted = ".".join(map(str, path))
    if any(f"{dotted}.".startswith(f"{key}.") for key in overridden_keys):
        return ""
    node, line = root, root.start_mark.line
    for part in path:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        if isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            node = node.value[part]
            line = node.start_mark.line
        elif inner := [(key.start_mark.line, value) for key, value in pairs if key.value == str(part)]:
            line, node = inner[0]
    return f"line {line + 1}: "


def _explain(config: type[BaseModel], error: Any) -> str:
    path, value = [str(part) for part in error["loc"]], error["input"]
    reason = error.get("ctx", {}).get("error")
    if reason is not None and (not path or (isinstance(reason, InterpError) and isinstance(value, dict))):
        return str(reason)  # what a record's own validator refuses; its message says it all
    if error["type"] == "extra_forbidden":
        owner, _, _, named = _declared(config, path[:-1])
        return f"unknown key {'.'.join([*named, path[-1]])!r}; {nearest(path[-1], owner.model_fields)}"
    _, hint, metadata, named = _declared(config, path)
    key = ".".join(named)
    if reason is not None:
        return f"{key}: {reason}"
    if hint is None:
        return f"{key or 'top level'} is {shown(value)}; expected {in_words(dict)} of {config.__name__}'s keys"
    pairs = ((name, getattr(constraint, name, None)) for constraint in metadata for name in _LIMITS)
    limits = {name: limit for name, limit in pairs if limit is not None}
    limits |= {name: limit for name, limit in error.get("ctx", {}).items() if name in _LIMITS}
    limits |= {"finite": ""} if error["type"] == "finite_number" else {}
    expected = " ".join([in_words(hint), *(_LIMITS[name].format(limit) for name, limit in limits.items())])
    if expected.startswith("a text"):
        expected = expected.replace(" items", " characters")
    given = "missing" if error["type"] == "missing" else shown(value)
    return f"{key} is {given}; expected {expected}{advice(value, hint)}"


_LIMITS = LIMITS | {"min_length": "with at least {} items", "max_length": "with at most {} items"}
_LIMITS |= {"finite": "that is finite", "pattern": "that matches {}"}


def _declared(config: type[BaseModel], path: list[str]) -> tuple[type[BaseModel], Any, Sequence[Any], list[str]]:
    """The config, type and bounds at a path of keys, and the path without the names of the types that a union tried."""
    hint: Any = None
    metadata, named = list[Any](), list[str]()
    for part in path:
        inner = config.model_fields.get(part)
        if inner is not None:
            hint, metadata = inner.annotation, inner.metadata
            config = _nested(hint) or config
        elif part.isdecimal() or get_origin(hint) in (dict, Mapping):
            while get_origin(hint) in (Union, UnionType, Annotated):
                hint = get_args(hint)[0]
            hint, metadata = ([*get_args(hint)] or [hint])[0 if part.isdecimal() else -1], []
        else:
            config = _nested(hint, part) or config
            continue
        named.append(part)
    return config, hint, metadata, named


def _nested(annotation: object, name: str = "") -> type[BaseModel] | None:
    """The first config in an annotation, or that of a name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation if name in ("", annotation.__name__) else None
    parts = (_nested(part, name) for part in getattr(annotation, "__args__", ()))
    return next((part for part in parts if part), None)


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under dotted names; items of a list of groups are named by their numbers.

    >>> flatten({"sae": {"k": 4}, "plans": [{"seed": 0}], "sites": ["resid_post.1"]})
    {'sae.k': 4, 'plans.0.seed': 0, 'sites': ['resid_post.1']}
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and value and all(isinstance(item, Mapping) for item in value):
            value = {str(number): item for number, item in enumerate(value)}
        nested = flatten(value) if isinstance(value, Mapping) else {}
        flat |= {f"{name}.{key}": part for key, part in nested.items()} or {name: value}
    return flat


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Each setting whose value changed, in words.

    Args:
        before: Nested settings as they were saved.
        now: The same settings as they are given.

    Returns:
        One sentence per setting, empty if all are equal.

    Example:
        >>> from interp.core.config import differences
        >>> differences({"sae": {"k": 4, "lr": 0.1}}, {"sae": {"k": 8, "lr": 0.1}})
        ['sae.k was 4 and is now 8']
    """
    old, new = flatten(before), flatten(now)
    changed = [name for name in old | new if old.get(name) != new.get(name)]
    return [f"{name} was {old.get(name)!r} and is now {new.get(name)!r}" for name in changed]


class _Loader(yaml.SafeLoader):
    """A loader for plain values, nested to a bounded depth.

    For it, 1e-3 is a number; YAML 1.1 requires a point and a signed exponent and reads it as text.
    """

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > bound("nesting"):
            raise over_bound(f"line {self.line + 1}", "nested deeper", "nesting")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


_PLAIN = {"null", "bool", "int", "float", "timestamp", "str", "seq", "map"}
_BUILDERS = yaml.SafeLoader.yaml_constructors.items()
_Loader.yaml_constructors = {tag: build for tag, build in _BUILDERS if not tag or tag.rpartition(":")[2] in _PLAIN}

# What the constructors raise for values that a number's or a date's tag does not fit
_MALFORMED = (yaml.YAMLError, ValueError, LookupError, AttributeError, OverflowError)
_LONGEST_NUMBER = 1000  # characters
_FLOAT = re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789"))


def compose_yaml(text: str, source: str) -> yaml.Node | None:
    """The syntax tree of a text, None if it is empty. Errors name `source` and the line."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except (yaml.YAMLError, InterpError) as problem:
        raise InterpError(f"{source}: not valid YAML: {problem}") from None
    if root is not None and _written_out(root, source, {}) > bound("yaml"):
        raise over_bound(source, "with its aliases written out, longer", "yaml")
    return root


def construct_yaml(node: yaml.Node, source: str) -> Any:
    """The plain values of a syntax tree or of a part of it."""
    try:
        return _Loader("").construct_document(node)
    except _MALFORMED as problem:
        raise InterpError(f"{source}: not valid YAML: {problem}") from None


def plain_value(text: str, source: str) -> Any:
    """The plain values of a text."""
    root = compose_yaml(text, source)
    return None if root is None else construct_yaml(root, source)


def _written_out(node: yaml.Node, source: str, lengths: dict[int, int]) -> int:
    """The length of a node with its aliases written out, in characters and items.

    Raises for keys that are not plain, and for what could only be read as a number or a date of absurd length.
    """
    line = node.start_mark.line + 1
    if id(node) in lengths:  # an alias
        if not lengths[id(node)]:
            raise InterpError(f"{source}, line {line}: a value that holds itself; write it out")
        return lengths[id(node)]
    lengths[id(node)] = 0
    length, inner = 1, node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        _require_plain_keys(node, source)
        length += sum(len(key.value) for key, _ in node.value)
        inner = [value for _, value in node.value]
    if isinstance(node, yaml.ScalarNode):
        length += len(node.value)
        if length > _LONGEST_NUMBER and node.tag != "tag:yaml.org,2002:str":
            raise InterpError(f"{source}, line {line}: a number of {len(node.value):,} characters; put text in quotes")
    lengths[id(node)] = length + sum(_written_out(child, source, lengths) for child in inner)
    return lengths[id(node)]


def _require_plain_keys(node: yaml.MappingNode, source: str) -> None:
    keys: set[str] = set()
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise InterpError(f"{source}, line {line}: a key is a list or a mapping; expected a plain word")
        if key.value in keys and key.value != "<<":
            raise InterpError(f"{source}, line {line}: key {key.value!r} is there twice; leave one out")
        keys.add(key.value)
