"""The ops that have an exact affine form: Project, Add, Erase and LowRank. They fold into weights; Cap does not.

- Project: x -> x - scale · (x Qᵀ) Q
- Add: x -> x + scale · v
- Erase: x -> x - ((x - mean) readᵀ) write
- LowRank: x -> x + (x weightᵀ + bias - x rowsᵀ) rows
- Cap: x -> x + (min(max(x · q, low), high) - x · q) q, which is affine only between and beyond its bounds

Rows of vectors are (k, d_model), and activations (…, d_model).
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.core.linalg import erase, orthonormal_rows, project_out
from interp.directions.direction import Direction, Vectors, as_tensor, residual_sites
from interp.directions.methods.erasure import Eraser
from interp.interventions.op import MODEL, TENSOR, Affine, Form, Op, Settings, Tensors, finite, part, setting
from interp.interventions.steering_scale import NeutralText, largest_scale
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.sites import Site

_FLOAT32 = torch.finfo(torch.float32).eps


def _rows_of(direction: Vectors) -> Tensor:
    return torch.atleast_2d(as_tensor(direction))


def _rows(direction: Any, name: str) -> Direction | Tensor:
    """A direction as it is, or orthonormal rows of its numbers."""
    if isinstance(direction, Direction):
        return direction
    rows = _rows_of(direction)
    if rows.ndim != 2:
        raise InterpError(f"direction has shape {tuple(rows.shape)}; expected (d_model,) or (k, d_model)")
    return orthonormal_rows(rows)


def _vector(direction: Any, name: str) -> Direction | Tensor:
    """A direction of one row as it is, or the numbers of one vector."""
    vector = as_tensor(direction)
    if vector.ndim != 1 or not torch.isfinite(vector).all() or not vector.any():
        raise InterpError(f"Add needs one finite, non-zero vector (d_model,); got shape {tuple(vector.shape)}")
    return direction if isinstance(direction, Direction) else vector.detach().cpu().float().clone()


# "auto" is taken, to be refused with the call that measures it.
if TYPE_CHECKING:
    AddScale = float
else:
    AddScale = float | Literal["auto"]


def _scale(value: Any, name: str) -> float:
    """A scale as a number. "auto" raises: an op is plain data, and only a model can measure a scale."""
    if value == "auto":
        raise InterpError("scale is 'auto', which is measured in a model; write interp.Add.auto(model, direction)")
    return finite(value, name)


def _direction(
    keep: Callable[[Any, str], Direction | Tensor], tensor: str, numbers: Callable[[Vectors], Tensor]
) -> dict[str, Form]:
    """Metadata of a field that is a Direction or its bare numbers, which are saved under the name `tensor`."""

    def settings(direction: Vectors) -> dict[str, Any]:
        return {"direction": direction.to_json() if isinstance(direction, Direction) else None}

    def load(saved: Settings, tensors: Tensors) -> Direction | Tensor:
        fitted, values = saved["direction"], tensors[tensor]
        return Direction.from_json(fitted, torch.atleast_2d(values)) if fitted else values

    return part(settings, lambda direction: {tensor: numbers(direction)}, load, keep=keep)


@dataclass(frozen=True, eq=False, repr=False)
class Project(Op):
    """Remove a direction or a subspace: x -> x - scale · (x Qᵀ) Q, with orthonormal rows Q.

    At every writer of the residual stream, the stream keeps exactly the share 1 - scale of its component, however
    many layers there are. Where a norm follows the writer, the raw output y before the norm is projected along gain ·
    rows: of the component, scale 1 leaves nothing, and another scale a share that differs by token. Arditi et al. 2024,
    "Refusal in language models is mediated by a single direction", https://arxiv.org/abs/2406.11717, use the operation
    with scale 1.

    Args:
        direction: A Direction, or numbers of shape (d_model,) or (k, d_model). The rows are made orthonormal.
        scale: The share of the component that is removed; 1 removes all of it, 2 reflects it.

    Raises:
        InterpError: The rows are zero, not finite or linearly dependent, or the scale is not finite.

    Example:
        >>> interp.Project([0.0, 5.0])(torch.tensor([3.0, 1.0]))
        tensor([3., 0.])
    """

    direction: Vectors = field(metadata=_direction(_rows, "rows", _rows_of))
    scale: float = field(default=1.0, metadata=setting(finite, key="strength"))

    @cached_property
    def rows(self) -> Float[Tensor, "k d_model"]:
        """The orthonormal rows Q."""
        return _rows_of(self.direction)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations without `scale` of their component in the span of the rows."""
        return project_out(x, self.rows, self.scale)

    def affine(self) -> Affine:
        """Reads along the rows, and takes away `scale` of that along the same rows."""
        return Affine(self.rows, self.scale * self.rows, torch.zeros(self.rows.shape[1]))

    def before_norm(self, gain: Float[Tensor, "d_model"]) -> "Project":
        """The projection of y along gain · rows: at scale 1 it leaves nothing of gain · y / rms(y) along the rows."""
        values, basis = torch.linalg.svd(self.rows.double() * gain, full_matrices=False)[1:]
        converted = replace(self)
        # In float64: what is left of a coordinate whose gain is a thousand times the others' is a small difference.
        object.__setattr__(converted, "rows", basis[values > _FLOAT32 * gain.abs().max()])
        return converted


@dataclass(frozen=True, eq=False, repr=False)
class Add(Op):
    """Steer: x -> x + scale · v. Turner et al. 2023, "Activation addition", https://arxiv.org/abs/2308.10248.

    Args:
        direction: v: a Direction with a single row, of norm 1, or a vector (d_model,), which keeps its norm.
        scale: The factor of v.
        relative: Whether the addition is `scale` times as long as x, whatever the norm of v. Then one scale means the
            same at every layer, and the op has no affine form.

    Useful scales differ by model and layer, so `Add.auto` measures one. A relative scale that raised the loss of
    neutral text by 0.3 nats per token was 0.18 on SmolLM2-135M-Instruct (sentiment, layer 6; at 0.4 replies are
    gibberish), and 0.42 to 0.95 on the organism (two behaviours, three layers). Without `relative`, multiply these
    numbers by the norm of the activations (`python experiments/steering_scales.py`).

    Raises:
        InterpError: There is not exactly one finite, non-zero vector, or the scale is not finite.

    Example:
        >>> x = torch.tensor([[3.0, 4.0]])
        >>> interp.Add([0.0, 2.0], scale=0.5)(x)
        tensor([[3., 5.]])
        >>> interp.Add([0.0, 2.0], scale=0.5, relative=True)(x)
        tensor([[3.0000, 6.5000]])
    """

    direction: Vectors = field(metadata=_direction(_vector, "vector", as_tensor))
    scale: AddScale = field(default=1.0, metadata=setting(_scale))
    relative: bool = field(default=False, metadata=setting(lambda value, name: bool(value), older=False))

    @classmethod
    def auto(
        cls,
        model: HookedModel,
        direction: Vectors,
        site: str | Site | None = None,
        sign: int = 1,
        relative: bool = False,
        loss: float = 0.3,
        texts: NeutralText = None,
    ) -> "Add":
        """Steer as strongly as neutral text allows; `interp.interventions.steering_scale` has the method.

        Args:
            model: The model to steer.
            direction: v, as in `Add`.
            site: Where it is added. Default: the direction's site.
            sign: 1 adds v, and -1 subtracts it.
            relative: As in `Add`.
            loss: By how much the loss of neutral text may rise, in nats per token. At 0.3 replies are still text.
            texts: Neutral text: texts, token ids, or `Continuations`. Default: what the model itself writes after eight
                neutral openings (`neutral_text`).

        Returns:
            The op, with its scale as a number.

        Raises:
            InterpError: There is no site, the direction does not fit the model, or all scales or none keep the limit.

        Example:
            >>> findings = interp.find(model, contrast, "resid_post.3", "diff_means", bootstrap=0)
            >>> direction = findings.best()[0].direction
            >>> push = interp.Add.auto(model, direction, sign=-1)
            >>> -500 < push.scale < -5
            True
        """
        if site is None:
            if not isinstance(direction, Direction):
                raise InterpError("a bare vector does not say where it is added; give site=, such as resid_post.3")
            site = direction.site
        if sign not in (1, -1):
            raise InterpError(f"sign is {sign!r}; expected 1 to add the direction, or -1 to subtract it")
        (place,) = residual_sites(model, Site.parse(str(site)))
        op = cls(direction, relative=relative)
        if op.width != model.d_model:
            raise InterpError(f"direction has width {op.width}, but {model.name} has d_model {model.d_model}")
        length = 0.0 if relative else float(op.vector.norm())
        scale = largest_scale(model, lambda scale: replace(op, scale=sign * scale), place, length, loss, texts)
        return replace(op, scale=sign * scale)

    @cached_property
    def vector(self) -> Float[Tensor, "d_model"]:
        """v."""
        return as_tensor(self.direction)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations plus the vector."""
        if self.relative:
            length = x.float().norm(dim=-1, keepdim=True) / self.vector.norm()
            return x + (self.scale * length * self.vector.to(x.device)).to(x)
        return x + self.scale * self.vector.to(x)

    def affine(self) -> Affine | None:
        """A constant; None if the addition is relative to the length of the activations."""
        if self.relative:
            return None
        none = torch.zeros(0, self.width)
        return Affine(none, none, self.scale * self.vector)

    @property
    def width(self) -> int:
        """d_model."""
        return len(self.vector)


def _unit(direction: Any, name: str) -> Direction | Tensor:
    kept = _rows(direction, name)
    if (count := len(_rows_of(kept))) != 1:
        raise InterpError(f"Cap holds one coordinate, but the direction has {count} rows; give one of them")
    return kept


def _bound(value: Any, name: str) -> float | None:
    return None if value is None else finite(value, name)


@dataclass(frozen=True, eq=False, repr=False)
class Cap(Op):
    """Hold a coordinate within bounds: x -> x + (min(max(x · q, low), high) - x · q) q, with the unit row q.

    Activations whose coordinate is within the bounds stay as they are, bit for bit. Lu et al. 2026, "The assistant
    axis", https://arxiv.org/abs/2601.10387, hold the coordinate along the assistant's axis above its 25th percentile
    against persona drift. It has no affine form, so it runs with hooks or is distilled.

    Args:
        direction: A Direction with a single row, or a vector (d_model,), which gets norm 1.
        low: The least value of the coordinate x · q; None for no bound.
        high: The largest value; None for no bound.

    Raises:
        InterpError: There is not exactly one row, or `low` is above `high`.

    Example:
        >>> interp.interventions.Cap([0.0, 2.0], low=-1.0, high=3.0)(torch.tensor([[5.0, 4.0], [5.0, 2.0]]))
        tensor([[5., 3.],
                [5., 2.]])
    """

    direction: Vectors = field(metadata=_direction(_unit, "rows", _rows_of))
    low: float | None = field(default=None, metadata=setting(_bound))
    high: float | None = field(default=None, metadata=setting(_bound))

    def _check(self) -> None:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise InterpError(f"low is {self.low:g} and high {self.high:g}; expected low to be at most high")

    @cached_property
    def row(self) -> Float[Tensor, "d_model"]:
        """The unit row q."""
        return _rows_of(self.direction)[0]

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the coordinate at the nearest value within the bounds."""
        row = self.row.to(x.device)
        reading = x.float() @ row
        if self.low is None and self.high is None:
            return x
        return x + ((reading.clamp(self.low, self.high) - reading)[..., None] * row).to(x)

    @property
    def width(self) -> int:
        """d_model."""
        return len(self.row)


@dataclass(frozen=True, eq=False, repr=False)
class Erase(Op):
    """Erase a concept: x -> x - ((x - mean) readᵀ) write, an oblique projection where read and write differ.

    Least-squares concept erasure is of this form: Belrose et al. 2023, "LEACE: Perfect linear concept erasure in closed
    form", https://arxiv.org/abs/2306.03819. `interp.ErasureFitter` and `interp.scrub` fit it.

    Args:
        read: What is read of x - mean, (k, d_model).
        write: What is taken away for each reading, (k, d_model).
        mean: The mean of the activations, (d_model,).
        model: The model it was fitted in, if known.

    Raises:
        InterpError: The shapes do not match, or an entry is not finite.

    Limitations:
        At a residual site the constant counts once. At writers it counts at every one of them.

    Example:
        >>> row = torch.tensor([[1.0, 0.0]])
        >>> interp.Erase(row, row, mean=torch.tensor([2.0, 0.0]))(torch.tensor([[5.0, 4.0]]))
        tensor([[2., 4.]])
    """

    read: Tensor = field(metadata=TENSOR)
    write: Tensor = field(metadata=TENSOR)
    mean: Tensor = field(metadata=TENSOR)
    model: ModelReference | None = field(default=None, metadata=MODEL)

    def _check(self) -> None:
        if self.read.ndim != 2 or self.read.shape != self.write.shape or self.mean.shape != self.read.shape[1:]:
            shapes = "{}, {} and {}".format(*(tuple(x.shape) for x in (self.read, self.write, self.mean)))
            raise InterpError(f"read, write and mean have shapes {shapes}; expected (k, d_model) twice, and (d_model,)")

    @classmethod
    def of(cls, eraser: Eraser) -> "Erase":
        """The op of a fitted eraser."""
        return cls(eraser.read, eraser.write, eraser.mean, eraser.model)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with the concept's component at its mean; narrower types are computed in float32."""
        return erase(x, self.read, self.write, self.mean)

    def affine(self) -> Affine:
        """The component of the mean is the constant."""
        return Affine(self.read, self.write, (self.mean @ self.read.T) @ self.write)


@dataclass(frozen=True, eq=False, repr=False)
class LowRank(Op):
    """A trained or fitted low-rank edit: x -> x + (x weightᵀ + bias - x rowsᵀ) rows, with orthonormal rows.

    It replaces the coordinates of x along the rows by an affine function of x. LoReFT is of this form: Wu et al. 2024,
    "ReFT: Representation finetuning for language models", https://arxiv.org/abs/2404.03592.

    Args:
        rows: The subspace that is written, (k, d_model).
        weight: The linear function of x that gives the new coordinates, (k, d_model).
        bias: Its constant, (k,).
        model: The model it was trained in, if known.

    Raises:
        InterpError: The shapes do not match, the rows are not orthonormal, or an entry is not finite.

    Example:
        >>> rows = torch.tensor([[1.0, 0.0]])
        >>> interp.interventions.LowRank(rows, weight=0 * rows, bias=torch.tensor([7.0]))(torch.tensor([[3.0, 4.0]]))
        tensor([[7., 4.]])
    """

    rows: Tensor = field(metadata=TENSOR)
    weight: Tensor = field(metadata=TENSOR)
    bias: Tensor = field(metadata=TENSOR)
    model: ModelReference | None = field(default=None, metadata=MODEL)

    def _check(self) -> None:
        if self.rows.ndim != 2 or self.rows.shape != self.weight.shape or self.bias.shape != self.rows.shape[:1]:
            shapes = "{}, {} and {}".format(*(tuple(x.shape) for x in (self.rows, self.weight, self.bias)))
            raise InterpError(f"rows, weight and bias have shapes {shapes}; expected (k, d_model) twice, and (k,)")
        basis = orthonormal_rows(self.rows)
        if not torch.allclose(basis, self.rows, atol=1e-4):
            raise InterpError("the rows of a low-rank edit are not orthonormal; orthonormalise them while training it")
        object.__setattr__(self, "rows", basis)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """The activations with new coordinates along the rows."""
        rows, weight, bias = (tensor.to(x) for tensor in (self.rows, self.weight, self.bias))
        return x + (x @ (weight - rows).T + bias) @ rows

    def affine(self) -> Affine:
        """The map as it is."""
        return Affine(self.rows - self.weight, self.rows, self.bias @ self.rows)
