"""Op: a pure function x -> x on the activations at a site, with declared fields.

An op is a frozen dataclass. How it is saved and restored, how it prints, and which model it belongs to derive from its
fields. A field is a plain setting, unless its metadata declares another form: `NUMBER`, `TENSOR`, `MODEL`, `OP`, or one
that its module makes with `setting` or `part`.

`op.affine()` is the hinge between run time and weights: the op's exact affine form, or None. An op with such a form can
be folded into the tensors that write the site; an op without it runs as a hook only.

To add an op: subclass `Op`, declare the fields, define `__call__` or `within`, and enter the class in `_MODULES`.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, TypeVar, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.core.calls import checked_class
from interp.core.display import Card, Displayed, clipped
from interp.core.errors import InterpError
from interp.models.architectures.table import Tap
from interp.models.forward_pass import ForwardPass
from interp.models.identity import ModelReference
from interp.models.sites import Site

# The ops that a saved recipe may hold, by the module of this folder that defines them.
_MODULES = {
    "affine_ops": ("Project", "Add", "Cap", "Erase", "LowRank"),
    "ablation": ("Replace", "Resample", "Scale"),
    "latents": ("Clamp", "Suppress"),
    "knockout": ("Knockout",),
    "positions": ("At", "Schedule"),
    "gate": ("Gate",),
}
OPS: Mapping[str, str] = {name: module for module, names in _MODULES.items() for name in names}
Observer = Callable[[Tensor, ForwardPass], None]
Restored = TypeVar("Restored", bound="Record")
Settings = Mapping[str, Any]
Tensors = Mapping[str, Tensor]


def op_class(name: str) -> type["Op"]:
    """The class of an op of `OPS`."""
    return cast(type[Op], getattr(import_module(f"interp.interventions.{OPS[name]}"), name))


class Form(NamedTuple):
    """How a declared field is kept, saved and restored; its name is the last argument of each."""

    keep: Callable[[Any, str], Any]  # checks the value and converts it
    settings: Callable[[Any, str], dict[str, Any]]
    tensors: Callable[[Any, str], dict[str, Tensor]]
    load: Callable[[Settings, Tensors, str], Any]


def _same(value: Any, *_: Any) -> Any:
    return value


def _nothing(*_: Any) -> dict[str, Any]:
    return {}


def setting(
    keep: Callable[[Any, str], Any] = _same,
    dump: Callable[[Any], Any] = _same,
    load: Callable[[Any], Any] = _same,
    key: str = "",
    **older: Any,
) -> dict[str, Form]:
    """Metadata of a field that is saved as a plain value, under its name or another key.

    `dump` makes the value plain and `load` is the inverse. `older` is the plain value in files that were saved before
    the field existed; without it the key is required.
    """

    def restore(settings: Settings, tensors: Tensors, name: str) -> Any:
        return load(settings[key or name] if (key or name) in settings or not older else older["older"])

    return {"form": Form(keep, lambda value, name: {key or name: dump(value)}, _nothing, restore)}


def part(
    settings: Callable[[Any], dict[str, Any]],
    tensors: Callable[[Any], dict[str, Tensor]],
    load: Callable[[Settings, Tensors], Any],
    prefix: str = "",
    keep: Callable[[Any, str], Any] = _same,
) -> dict[str, Form]:
    """Metadata of a field that has settings and tensors of its own; its tensors are saved with a prefix."""

    def restore(saved: Settings, named: Tensors, name: str) -> Any:
        return load(saved, {key.removeprefix(prefix): x for key, x in named.items() if key.startswith(prefix)})

    def prefixed(value: Any, name: str) -> dict[str, Tensor]:
        return {prefix + key: x for key, x in tensors(value).items()}

    return {"form": Form(keep, lambda value, name: settings(value), prefixed, restore)}


def nested(record: type["Record"], keep: Callable[[Any, str], Any] = _same) -> dict[str, Form]:
    """Metadata of a field that is a record without tensors, or None."""
    return setting(keep, lambda value: value and value.settings(), lambda plain: plain and record.restore(plain, {}))


class Record(Displayed):
    """Declared fields, from which saving, restoring and display derive. Subclasses are frozen dataclasses."""

    def __post_init__(self) -> None:
        self._declare(**vars(self))

    def _declare(self, **values: Any) -> None:
        """Set every field, checked and converted by its form, then check that they go together."""
        for name, form in _forms(type(self)):
            object.__setattr__(self, name, form.keep(values[name], f"{name} of {type(self).__name__}"))
        self._check()

    def _check(self) -> None:
        """Raise where the fields do not go together."""

    def settings(self) -> dict[str, Any]:
        """Plain values from which, with `tensors`, the record is restored."""
        return {key: x for name, form in _forms(self) for key, x in form.settings(getattr(self, name), name).items()}

    def tensors(self) -> dict[str, Tensor]:
        """Named tensors from which, with `settings`, the record is restored."""
        return {key: x for name, form in _forms(self) for key, x in form.tensors(getattr(self, name), name).items()}

    @classmethod
    def restore(cls: type[Restored], settings: Settings, tensors: Tensors) -> Restored:
        """The inverse of `settings` and `tensors`. Raises KeyError for a value that is missing."""
        record = cls.__new__(cls)
        record._declare(**{name: form.load(settings, tensors, name) for name, form in _forms(cls)})
        return record

    def summary(self) -> dict[str, str]:
        """The fields in words: tensors by their shape, models by their name."""
        return {name: _words(getattr(self, name)) for name, _ in _forms(type(self))}

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={clipped(words, 80)}" for name, words in self.summary().items())
        return f"{type(self).__name__}({words})"

    def _card(self) -> Card:
        return "", list(self.summary().items())


@dataclass(frozen=True, eq=False)
class Affine(Displayed):
    """A low-rank affine map: x -> x - (x readᵀ) write + bias.

    Args:
        read: What is read of x, (k, d_model).
        write: What is taken away for each reading, (k, d_model).
        bias: The constant, (d_model,).

    Example:
        >>> interp.Add(torch.tensor([1.0, 2.0]), scale=3.0).affine().bias
        tensor([3., 6.])
    """

    read: Float[Tensor, "k d_model"]
    write: Float[Tensor, "k d_model"]
    bias: Float[Tensor, "d_model"]


@checked_class("interp.Project(direction) is one")
class Op(Record):
    """A function on activations at a site, saved as plain settings and named tensors.

    Call it on activations (batch, pos, d_model), or put it at sites in a `Recipe`.

    Example:
        >>> remove = interp.Project(torch.tensor([1.0, 0.0]))
        >>> remove(torch.tensor([[3.0, 4.0]]))
        tensor([[0., 4.]])
        >>> remove.affine().bias
        tensor([0., 0.])
    """

    holdable: ClassVar[bool] = True  # whether another op (At, Schedule, Gate) can hold it

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The new activations; x stays as it is. Raises where only a forward pass knows which tokens these are."""
        raise InterpError(f"{type(self).__name__} has to know which tokens these are; run it in a recipe, by hooked")

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The new activations in a forward pass, for ops that act on some of its tokens only."""
        return self(x)

    def observers(self) -> list[tuple[Site, Observer]]:
        """The earlier sites that the op reads, each with the function that receives the activations there."""
        return []

    def affine(self) -> Affine | None:
        """The exact affine form, or None if there is none."""
        return None

    def before_norm(self, gain: Float[Tensor, "d_model"]) -> "Op":
        """The op at a raw output y, of which a norm makes gain · y / rms(y), given the gain.

        An op without vectors of the stream acts on y as on any activations. Raises for one that has no form there.
        """
        if self.width is None:
            return self
        problem = f"{type(self).__name__} at a raw output: a norm follows there, before which it has no form"
        raise InterpError(f"{problem}; run it with hooks after the norm (attn_out.*, mlp_out.*), or use Project")

    def tap(self, config: Any, site: Site) -> Tap | None:
        """Where the op acts, given the site it is put at; None if it acts on the activations there."""
        return None

    @property
    def per_token(self) -> bool:
        """Whether the op treats each token alone, wherever the token stands."""
        return type(self).within is Op.within and type(self).tap is Op.tap

    @property
    def model(self) -> ModelReference | None:
        """The model the op was made with, if known: that of its direction, autoencoder, inner op or condition."""
        owners = (getattr(getattr(self, name), "model", None) for name, _ in _forms(type(self)))
        return next((model for model in owners if model is not None), None)

    @property
    def width(self) -> int | None:
        """d_model of the sites that the op fits, that of its affine form; None if it fits any basis and width."""
        affine = self.affine()
        return None if affine is None else len(affine.bias)

    @property
    def site(self) -> Site | None:
        """The only site at which the op makes sense; None if it can go anywhere."""
        return None


def finite(value: float, name: str) -> float:
    """The value as a float. Raises, by its name, where it is not a finite number."""
    if not isinstance(value, int | float) or value != value or abs(value) == float("inf"):
        raise InterpError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def numbers(tensor: Tensor, name: str) -> Tensor:
    """The tensor in float32 on the CPU. Raises, by its name, where an entry is not finite."""
    if not torch.isfinite(tensor).all():
        raise InterpError(f"{name} has NaN or infinite entries; check what it was fitted on")
    return tensor.detach().cpu().float().contiguous()


def different(units: Sequence[int] | None, name: str) -> list[int] | None:
    """Numbers of units as a list. Raises, by their name, where there are none, or where one is negative or repeated."""
    if units is None:
        return None
    listed = [int(unit) for unit in units]
    if not listed or min(listed) < 0 or len(set(listed)) != len(listed):
        raise InterpError(f"{name} are {listed}; expected one or more different numbers from 0 up, or None for all")
    return listed


def reference(plain: Mapping[str, Any] | None) -> ModelReference | None:
    """A model's reference from its plain values."""
    return ModelReference.parse(dict(plain), "the recipe's model") if plain else None


def _checked_op(op: Any, name: str) -> Op:
    if not isinstance(op, Op):
        raise InterpError(f"{op!r} is not an op; expected one of {', '.join(OPS)}")
    if not op.holdable:
        raise InterpError(f"{type(op).__name__} can't be inside another op; its own arguments say where it acts")
    return op


NUMBER = setting(finite)
TENSOR = {"form": Form(numbers, _nothing, lambda x, name: {name: x}, lambda settings, tensors, name: tensors[name])}
MODEL = setting(dump=lambda model: model and model.model_dump(), load=reference)
OP = part(
    lambda op: {"op": type(op).__name__, "settings": op.settings()},
    lambda op: op.tensors(),
    lambda settings, tensors: op_class(settings["op"]).restore(settings["settings"], tensors),
    "op.",
    _checked_op,
)
_PLAIN = setting()


@dataclass(frozen=True, eq=False, repr=False)
class Wrapped(Op):
    """An op that acts at some tokens only, or in part. It has no affine form: weights act on every token."""

    op: Op = field(metadata=OP)

    def observers(self) -> list[tuple[Site, Observer]]:
        """The inner op's."""
        return self.op.observers()

    def before_norm(self, gain: Float[Tensor, "d_model"]) -> "Wrapped":
        """The same around the inner op's."""
        converted = copy(self)
        object.__setattr__(converted, "op", self.op.before_norm(gain))
        return converted

    @property
    def width(self) -> int | None:
        """The inner op's."""
        return self.op.width

    @property
    def site(self) -> Site | None:
        """The inner op's."""
        return self.op.site


def within_only(chosen: Bool[Tensor, "batch pos"], op: Op, x: Tensor, passing: ForwardPass) -> Tensor:
    """The op where chosen, and x elsewhere. An op that may decide something about this pass sees it in any case."""
    if not chosen.any() and op.per_token:
        return x
    return torch.where(chosen[(..., *[None] * (x.ndim - 2))], op.within(x, passing), x)


def _forms(record: Record | type[Record]) -> list[tuple[str, Form]]:
    """A record's declared fields, each with its form."""
    return [(f.name, f.metadata.get("form", _PLAIN["form"])) for f in fields(cast(Any, record))]


def _words(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"tensor{list(value.shape)}"
    return value.name if isinstance(value, ModelReference) else str(value)
