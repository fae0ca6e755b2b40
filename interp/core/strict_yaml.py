"""Strict YAML: duplicate keys and keys that are not plain text raise; YAML itself accepts them."""

import re
from typing import Any

import yaml

from interp.core.errors import InterpError


class _Loader(yaml.SafeLoader):
    """A loader for which 1e-3 is a number; YAML 1.1 requires a point and a signed exponent and reads it as text."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def compose_yaml(text: str, source: str) -> yaml.Node | None:
    """The syntax tree of a text, None if it is empty. Errors name `source` and the line."""
    try:
        root = yaml.compose(text, Loader=_Loader)
    except yaml.YAMLError as problem:
        raise InterpError(f"{source}: not valid YAML: {problem}") from None
    if root is not None:
        _require_plain_keys(root, source, set())
    return root


def construct_yaml(node: yaml.Node, source: str) -> Any:
    """The plain values of a syntax tree or of a part of it."""
    try:
        return _Loader("").construct_document(node)
    except (yaml.YAMLError, ValueError) as problem:  # ValueError: an invalid date
        raise InterpError(f"{source}: not valid YAML: {problem}") from None


def plain_value(text: str, source: str) -> Any:
    """The plain values of a text."""
    root = compose_yaml(text, source)
    return None if root is None else construct_yaml(root, source)


def _require_plain_keys(node: yaml.Node, source: str, seen: set[int]) -> None:
    if id(node) in seen:  # an alias
        return
    seen.add(id(node))
    inner = node.value if isinstance(node, yaml.SequenceNode) else []
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise InterpError(f"{source}, line {line}: a key is a list or a mapping; expected a plain word")
            if key.value in keys and key.value != "<<":
                raise InterpError(f"{source}, line {line}: key {key.value!r} is there twice; leave one out")
            keys.add(key.value)
        inner = [value for _, value in node.value]
    for child in inner:
        _require_plain_keys(child, source, seen)
