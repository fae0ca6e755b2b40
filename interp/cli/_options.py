"""Options of a verb from the fields of a frozen Config: name, default, help and checks are written once.

    @with_options
    def find_command(model: Model, options: FindOptions, as_json: Json = False) -> None: ...

A parameter whose type is a Config becomes one option per field, and a field that is a Config is expanded in turn: where
it is `Annotated[ExportOptions, Without(("prompts",))]`, these fields are left out and keep their defaults. The field
`skip_bad` is the option `--skip-bad`, a trailing underscore is dropped (`try_` is `--try`), and the field's description
is the help text. A value that a validator parses beforehand is given as text. Other parameters are what Typer makes of
them. The values on the line are parsed as the Config, so its validators apply.
"""

import inspect
import re
import types
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from pkgutil import resolve_name
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import typer
from annotated_types import Ge
from pydantic import BeforeValidator, Field, model_validator
from pydantic.fields import FieldInfo

from interp.core.config import Config, overridden
from interp.core.errors import InterpError, on_interrupt
from interp.core.lazy import require_package

Command = Callable[..., None]
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
Model = Annotated[str, typer.Argument(help="organism, organism-bilingual, a local Hugging Face folder, or a hub id")]
Json = Annotated[bool, typer.Option("--json", help="print one JSON value on standard output")]
Device = Annotated[str | None, typer.Option(help="device to run on: cpu, cuda, cuda:1 or mps")]


def repeated(description: str, default: Any = ()) -> Any:
    """A field of several values, whose option may be repeated; it is required where the default is `...`."""
    return Field(default, strict=False, description=f"{description}; may be repeated")


def _each_number(value: Any) -> Any:
    words = ",".join(map(str, value)).split(",") if value else []
    return [int(word) if word.strip().isdecimal() else word for word in words]


Numbers = Annotated[tuple[int, ...], BeforeValidator(_each_number)]  # an option such as 3,5, which may be repeated too


def describing_machine(
    endpoint: str | None, model: str, key: str, device: str | None, timeout: float = 60.0, retries: int = 3
) -> Any:
    """What describes latents: a model at an endpoint, or a local one. Raises where something to find it is missing."""
    from interp.data import ChatEndpoint
    from interp.models.loading import load

    if not model:
        raise InterpError("--endpoint and --key-variable need --describer, the model's name there")
    if endpoint is None and key:
        raise InterpError("--key-variable goes with --endpoint; a local model needs no key")
    return load(model, device=device) if endpoint is None else ChatEndpoint(endpoint, model, key, timeout, retries)


def named_values(words: Iterable[str], option: str, expected: str) -> dict[str, str]:
    """The values of NAME=VALUE words, by name. Raises, with what was expected, for another word."""
    named: dict[str, str] = {}
    for word in words:
        name, _, value = (part.strip() for part in word.partition("="))
        if not (name and value):
            raise InterpError(f"{option} {word!r} can't be read; expected {expected}")
        named[name] = value
    return named


class ChatOptions(Config):
    """What is merged into the model, and how conversations are rendered."""

    adapter: Path | None = Field(None, description="folder of a PEFT LoRA adapter to merge into MODEL")
    date: str | None = Field(None, description="YYYY-MM-DD that a chat template prints as today [default: 2025-01-01]")
    template: tuple[str, ...] = repeated("variable of the chat template, such as enable_thinking=false")

    @property
    def loading(self) -> dict[str, Any]:
        """These as options of `interp.load`."""
        template = overridden({}, self.template) or None
        return {"adapter": self.adapter, "date": self.date, "template": template}


class WorkOptions(Config):
    """Where else work is done than in this process."""

    ray: str | None = Field(
        None,
        description="Ray cluster that does the work: HOST:PORT, auto (the one that runs here; so without a value) or "
        "local (one is started); each of its actors loads the model",
    )
    workers: int = Field(1, ge=1, description="processes that work side by side; each loads the model")

    @model_validator(mode="after")
    def _one_place(self) -> "WorkOptions":
        if self.ray is not None and not self.ray.strip():
            raise InterpError("--ray is empty; give HOST:PORT, auto or local, or leave it out")
        if self.ray:
            require_package("ray", "ray", "work on a cluster")
        if self.ray and self.workers > 1:
            raise InterpError(f"--workers {self.workers} with --ray; a cluster has as many actors as it has room for")
        return self

    @property
    def place(self) -> int | str:
        """Processes of this machine, or the address of a cluster: the `workers` of functions."""
        return self.ray or self.workers


@dataclass(frozen=True)
class Without:
    """Keys of a nested Config that are not options of the verb."""

    keys: tuple[str, ...]


def with_options(command: Command) -> Command:
    """A command for Typer whose Config parameters are replaced by an option per field."""
    signature = inspect.signature(command)
    configs = {name: given.annotation for name, given in signature.parameters.items() if _is_config(given.annotation)}
    parameters: list[inspect.Parameter] = []
    for name, given in signature.parameters.items():
        options = [_option(key, field) for key, field in _fields(configs[name])] if name in configs else []
        parameters += options or [given.replace(kind=_KEYWORD)]

    @wraps(command)
    def parsed(**values: Any) -> None:
        for name, config in configs.items():
            try:
                values[name] = config.parse(_take(config, values), source="options")
            except InterpError as problem:  # settings.parts.0 is --parts on the line
                text = re.sub(r"^options: (?:\w+\.)*?([a-z_]+)(?:\.\d+)? is ", _as_typed, str(problem))
                raise InterpError(text) from None
        with on_interrupt("run the same command again"):
            command(**values)

    # Typer reads the parameters from here; mypy does not know that functions may have it.
    parsed.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    return parsed


class VerbCommand(typer.core.TyperCommand):
    """A command whose option `--ray` may stand without a value, for the cluster that runs on this machine."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a line."""
        following = [*args, "--"][1:]
        pairs = zip(args, following, strict=True)
        return super().parse_args(ctx, [f"{x}=auto" if x == "--ray" and y.startswith("-") else x for x, y in pairs])


def _as_typed(field: re.Match[str]) -> str:
    return f"{_flag(field[1])} is "


def _flag(name: str) -> str:
    return "--" + name.rstrip("_").replace("_", "-")


def keys_command(config: str) -> type[typer.core.TyperCommand]:
    """A command class whose `--help` ends with the keys of a Config, given as module:Class and imported only then.

    A key that is given as an option, `--key`, gets a line that says how it is written.
    """

    class KeysCommand(VerbCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            try:
                return super().parse_args(ctx, args)
            except Exception as problem:  # Click's, whose class Typer doesn't export; others have no option
                option = str(getattr(problem, "option_name", ""))
                key = option.lstrip("-").replace("-", "_")
                field = dict(_fields(resolve_name(config))).get(key) if option else None
                if field is None:
                    raise
                raise InterpError(f"{option} is a key: write {key}=VALUE ({field.description})") from None

        def format_help(self, ctx: Any, formatter: Any) -> None:
            super().format_help(ctx, formatter)
            print("Keys (key=value):")
            for key, field in _fields(resolve_name(config)):
                value = field.get_default(call_default_factory=True)
                default = " [required]" if field.is_required() else "" if value is None else f" [default: {value}]"
                print(f"  {key}: {field.description or ''}{default}")

    return KeysCommand


def verb_group(usual: str) -> type[typer.core.TyperGroup]:
    """A class of groups of verbs in which a line that names none of them is of the usual one."""

    class VerbGroup(typer.core.TyperGroup):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = not args or args[0] in self.commands or args[0] in ctx.help_option_names
            return super().parse_args(ctx, args if named else [usual, *args])

    return VerbGroup


def _fields(config: type[Config]) -> Iterator[tuple[str, FieldInfo]]:
    """Every field with its key; those of a nested Config are under `key.`, without what is left out of it."""
    for name, field in config.model_fields.items():
        if not _is_config(field.annotation):
            yield name, field
            continue
        left_out = [key for mark in field.metadata if isinstance(mark, Without) for key in mark.keys]
        yield from ((f"{name}.{key}", inner) for key, inner in _fields(field.annotation) if key not in left_out)


def _take(config: type[Config], values: dict[str, Any]) -> dict[str, Any]:
    """The values of a Config's fields, taken out of all values of the line; those not given keep their defaults."""
    fields = {}
    for name, field in config.model_fields.items():
        kind = field.annotation
        value = _take(kind, values) if _is_config(kind) else values.pop(name, None)
        if value is not None:
            fields[name] = value
    return fields


def _option(key: str, field: FieldInfo) -> inspect.Parameter:
    name = key.rpartition(".")[2]
    default = inspect.Parameter.empty if field.is_required() else field.get_default(call_default_factory=True)
    flag = _flag(name)
    # A switch that is on by default can be turned off; Typer adds `--no-…` where no name is given.
    names = [] if default is True else [flag]
    least: Any = next((bound.ge for bound in field.metadata if isinstance(bound, Ge)), None)
    # Rich would take a default that is named in the text for markup, and drop it.
    text = (field.description or "").replace("[default", r"\[default")
    option = typer.Option(*names, help=text, min=least)
    as_text = any(isinstance(mark, BeforeValidator) for mark in field.metadata)
    text_type = list[str] if get_origin(field.annotation) is tuple else str | None
    annotation: Any = Annotated[text_type if as_text else _plain_type(field.annotation), option]
    return inspect.Parameter(name, _KEYWORD, default=default, annotation=annotation)


def _plain_type(annotation: Any) -> Any:
    """The type that Typer reads a word as: a text for a literal or a union, a list for a tuple."""
    origin, arguments = get_origin(annotation), [part for part in get_args(annotation) if part is not type(None)]
    if origin is tuple:
        return list[_plain_type(arguments[0])]  # type: ignore[misc]  # made at run time
    if origin in (Union, types.UnionType):
        return (_plain_type(arguments[0]) if len(arguments) == 1 else str) | None
    return str if origin is Literal else annotation


def _is_config(annotation: Any) -> TypeGuard[type[Config]]:
    return isinstance(annotation, type) and issubclass(annotation, Config)
