"""Options of a verb from the fields of a frozen Config: name, default, help and checks are written once.

    @with_options
    def find_command(model: Model, options: FindOptions, as_json: Json = False) -> None: ...

A parameter whose type is a Config becomes one option per field. The field `skip_bad` is the option `--skip-bad`, a
trailing underscore is dropped (`try_` is `--try`), and the field's description is the help text. Other parameters are
what Typer makes of them. The values that were given on the line are parsed as the Config, whose validators see them.
"""

import inspect
import types
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import typer
from annotated_types import Ge
from pydantic.fields import FieldInfo

from interp.core.config import Config

Command = Callable[..., None]
Model = Annotated[str, typer.Argument(help="organism, a local Hugging Face folder, or a hub id")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON value on standard output")]
Device = Annotated[str | None, typer.Option(help="device to run on: cpu, cuda, cuda:1 or mps")]


def with_options(command: Command) -> Command:
    """A command for Typer whose Config parameters are replaced by an option per field."""
    signature = inspect.signature(command)
    configs = {name: p.annotation for name, p in signature.parameters.items() if _is_config(p.annotation)}

    @wraps(command)
    def parsed(**values: Any) -> None:
        for name, config in configs.items():
            fields = {field: values.pop(field) for field in config.model_fields}
            set_fields = {field: value for field, value in fields.items() if value is not None}
            values[name] = config.parse(set_fields, source="options")
        command(**values)

    parsed.__signature__ = signature.replace(parameters=list(_parameters(signature)))  # type: ignore[attr-defined]
    return parsed


def describe_fields(config: type[Config], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Key and help text of every field, those of nested Configs under `key.`."""
    for name, field in config.model_fields.items():
        if _is_config(field.annotation):
            yield from describe_fields(field.annotation, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            default = "required" if field.is_required() else f"default {field.get_default(call_default_factory=True)}"
            yield prefix + name, f"{field.description or ''} [{default}]".lstrip()


def keys_command(load_config: Callable[[], type[Config]]) -> type[typer.core.TyperCommand]:
    """A command class whose `--help` ends with the keys of a Config, which is imported only for that."""

    class KeysCommand(typer.core.TyperCommand):
        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            print("Keys (key=value):")
            for key, text in describe_fields(load_config()):
                print(f"  {key}: {text}")

    return KeysCommand


def _parameters(signature: inspect.Signature) -> Iterator[inspect.Parameter]:
    for parameter in signature.parameters.values():
        if _is_config(parameter.annotation):
            for name, field in parameter.annotation.model_fields.items():
                yield _option(name, field)
        else:
            yield parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)


def _option(name: str, field: FieldInfo) -> inspect.Parameter:
    default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
    flag = "--" + name.rstrip("_").replace("_", "-")
    # A switch that is on by default can be turned off; Typer adds `--no-…` where no name is given.
    names = [] if default is True else [flag]
    least: Any = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    option = typer.Option(*names, help=field.description, min=least)
    annotation = Annotated[_plain_type(field.annotation), option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _plain_type(annotation: Any) -> Any:
    """What Typer reads from a word: texts for literals, lists for tuples."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return str
    if origin is tuple:
        return list[_plain_type(arguments[0])]  # type: ignore[misc]
    if origin in (Union, types.UnionType):
        return Union[tuple(_plain_type(argument) for argument in arguments)]  # noqa: UP007
    return annotation


def _is_config(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Config)
