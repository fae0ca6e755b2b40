"""Graft: latents of a transcoder turned down by neurons added to the MLP that it reads with.

    f(x) = relu(w x + c) of what the MLP reads; to be added: f(x) d, d the decoder row times factor - 1

A SwiGLU neuron writes silu(gate) · up along its column. With gate b (w x + c), up constantly 1/b and column d, it
writes what is wanted up to (max |silu - relu| / b) |d| < 0.279 |d| / b, whatever x is. The sharpness b costs nothing,
and a power of two rounds nothing. A threshold t > 0 (f is w x + c above it and 0 below) takes two neurons: with
z = b (w x + c - t), gates z + 1/2 and z - 1/2, and up 1/(2b) + t and 1/(2b) - t. At the threshold f jumps by t, where
no continuous function can follow: the bound there is (0.279 / b + t / 2) |d|, and `Neurons.bound_beyond` says how it
falls to the first term away from it.

These bounds are of neurons as they are computed. Saved, they are rounded, which adds to them in proportion to what is
read: `Neurons.rounding`. The two neurons of a threshold are each far larger than their difference, of which 16 bits
leave nothing: there they are refused.

Neurons need biases on gate and up, and all layers of a checkpoint have one width: other layers get neurons of zeros.

What it does not do: TopK latents, which depend on the others, and transcoders that read anything but `mlp_input`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import ceil, gcd
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import silu

from interp.core.errors import InterpError
from interp.editing.fold.affine_maps import MapChange
from interp.editing.fold.bias_slots import BiasSlots
from interp.editing.fold.rounding import SIXTEEN_BITS
from interp.interventions.latents import Suppress
from interp.models.architectures.table import architecture
from interp.models.sites import Site
from interp.sae.nonlinearities import JumpReLU

SILU_GAP = 0.279  # more than the largest |silu(z) - relu(z)|, 0.27846… at z = ±1.2785
_STEEPEST = 1.1  # more than the largest slope of silu, 1.0998… at z = 2.3994
_EVEN = 64  # widths stay multiples of this, or of what they were multiples of: kernels like them so


@dataclass(frozen=True, eq=False)
class Neurons:
    """down (silu(gate x + gate_bias) · up_bias), and by how much it may miss what the hook adds, in length."""

    gate: Float[Tensor, "neuron d_model"]
    gate_bias: Float[Tensor, "neuron"]
    up_bias: Float[Tensor, "neuron"]
    down: Float[Tensor, "d_model neuron"]
    sharpness: float
    lengths: Float[Tensor, "latent"]
    thresholds: Float[Tensor, "latent"]

    @classmethod
    def of(cls, op: Suppress, sharpness: float) -> "Neurons":
        """Those of an op, in float64. Raises where its latents are no function of the own pre-activation each."""
        coder = op.transcoder
        if not isinstance(coder.nonlinearity, JumpReLU) or coder.threshold is None:
            raise InterpError(
                f"the latents of this {coder} are the largest {coder.nonlinearity} of a token, each of which depends "
                "on the others, and a neuron on none; train one with thresholds (batchtopk, jumprelu or standard)"
            )
        w, c, t = (x.cpu().double()[op.latents] for x in (coder.W_enc, coder.b_enc, coder.threshold))
        columns = (op.factor - 1) * coder.W_dec.cpu().double()[op.latents]
        parts = [_neuron(*each, sharpness) for each in zip(w, c, t, columns, strict=True)]
        gate, gate_bias, up_bias, down = (torch.cat(side) for side in zip(*parts, strict=True))
        return cls(gate, gate_bias, up_bias, down.T, sharpness, columns.norm(dim=1), t)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What they write."""
        gate, gate_bias, up_bias, down = (y.to(x) for y in (self.gate, self.gate_bias, self.up_bias, self.down))
        return (silu(x @ gate.T + gate_bias) * up_bias) @ down.T

    @property
    def bound(self) -> float:
        """The most by which what they write may differ from what the hook adds, whatever they read."""
        return float((self.lengths * (SILU_GAP / self.sharpness + self.thresholds / 2)).sum())

    def bound_beyond(self, distance: float) -> float:
        """The same where every pre-activation is at least so far from its threshold."""
        z = torch.tensor(self.sharpness * distance, dtype=torch.float64)
        # silu(z) = z - z / (1 + e^z), and the step is odd about 1/2: so above as below.
        jump = min(0.5, float((z + 0.5) * torch.exp(0.5 - z)))
        return float((self.lengths * (SILU_GAP / self.sharpness + self.thresholds * jump)).sum())

    def rounded(self, dtype: torch.dtype, scale: float = 1.0) -> "Neurons":
        """As they are in a file of a type, in a model that multiplies what its MLPs write by `scale`."""
        gate, gate_bias, up_bias = (x.to(dtype).double() for x in (self.gate, self.gate_bias, self.up_bias))
        down = (self.down / scale).to(dtype).double() * scale
        return replace(self, gate=gate, gate_bias=gate_bias, up_bias=up_bias, down=down)

    def rounding(self, dtype: torch.dtype, scale: float = 1.0) -> float:
        """The most that rounding them to a type adds to either bound, over |(x, 1)|, the length of what is read and 1.

        |u' d' silu(g') - u d silu(g)| is at most |u' d' - u d| |g'| + |u d| |g' - g| max |silu'|, neuron by neuron.
        """
        own, held = self, self.rounded(dtype, scale)
        reads = [torch.cat([each.gate, each.gate_bias[:, None]], 1) for each in (own, held)]
        writes = [each.up_bias * each.down for each in (own, held)]
        moved = (writes[1] - writes[0]).norm(dim=0) * reads[1].norm(dim=1)
        return float((moved + _STEEPEST * writes[0].norm(dim=0) * (reads[1] - reads[0]).norm(dim=1)).sum())


def _neuron(w: Tensor, c: Tensor, t: Tensor, column: Tensor, b: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gate rows, gate biases, up biases and columns (as rows) for one latent."""
    if t == 0:
        return b * w[None], b * c[None], torch.full((1,), 1 / b, dtype=w.dtype), column[None]
    half = torch.tensor([0.5, -0.5], dtype=w.dtype)
    return b * w.expand(2, -1), b * (c - t) + half, 1 / (2 * b) + 2 * half * t, column.expand(2, -1)


@dataclass(frozen=True, eq=False)
class Growth:
    """What is appended to a tensor along an axis: blocks, each edited by its change, then zeros; `count` in all."""

    axis: int
    count: int
    blocks: tuple[tuple[Tensor, MapChange], ...] = ()

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of what becomes of a tensor of a shape."""
        return tuple(size + self.count * (axis == self.axis) for axis, size in enumerate(shape))

    def apply(self, tensor: Tensor) -> Tensor:
        """The grown tensor, in its own type."""
        more = tensor.new_zeros([self.count if axis == self.axis else n for axis, n in enumerate(tensor.shape)])
        start = 0
        for block, change in self.blocks:
            made = change.apply(block, out=torch.empty_like(block, dtype=tensor.dtype))
            more.narrow(self.axis, start, made.shape[self.axis]).copy_(made)
            start += made.shape[self.axis]
        return torch.cat([tensor, more], self.axis)


@dataclass
class Grafts:
    """The mutable side of a plan's grafts: asked for one op after the other, it notes neurons by layer."""

    config: Any
    names: set[str]
    biases: BiasSlots
    sharpness: float
    read: Callable[[str], Tensor]
    # Neurons of a layer, each with how many ops were at its site before: those that follow act on what it writes.
    grafted: dict[int, list[tuple[Neurons, int]]] = field(default_factory=dict)

    def take(self, op: Suppress, site: Site, before: int) -> str:
        """Note an op; returns how near its neurons come. Raises with the reason where it can't be grafted."""
        if not self.sharpness > 0:
            raise InterpError(f"sharpness is {self.sharpness}; expected a number above 0, such as 256")
        if site.kind != "mlp_out" or site.layer is None or op.reads != Site("mlp_input", site.layer):
            raise InterpError(
                f"the transcoder reads {op.reads} and writes {site}, and a neuron reads what its MLP reads and writes "
                "what that writes (mlp_input.N, mlp_out.N); run it with hooks (model.hooked(recipe)), or train one so"
            )
        missing = [name for name in self._weights(site.layer) if name not in self.names]
        act = getattr(self.config, "hidden_act", None)
        if missing or act != "silu":
            raise InterpError(
                f"{self.config.model_type} has no SwiGLU neurons at {site} to add one to (activation {act}, "
                f"{', '.join(missing) or 'all weights there'}); run it with hooks (model.hooked(recipe))"
            )
        neurons, dtype = Neurons.of(op, self.sharpness), self.read(self._weights(site.layer)[-1]).dtype
        named = str(dtype).removeprefix("torch.")
        if neurons.thresholds.any() and dtype in SIXTEEN_BITS:
            raise InterpError(
                f"latents with thresholds take two neurons each at {site}, of whose difference {named} leaves nothing; "
                "save in float32 (dtype), distil the recipe, or suppress latents without thresholds"
            )
        self._hold(site)
        self.grafted.setdefault(site.layer, []).append((neurons, before))
        jumps = " at the thresholds" if neurons.thresholds.any() else ""
        far = f", {neurons.bound_beyond(0.1):.2g} at a distance of 0.1 from them" if jumps else ""
        return (
            f"{len(neurons.gate)} SwiGLU neurons of sharpness {self.sharpness:g} in place of relu: what is written "
            f"differs by at most {neurons.bound:.2g}{jumps}{far}, and by what {named} rounds: at most "
            f"{neurons.rounding(dtype, self._scale):.2g} for each unit of length that is read"
        )

    def growths(self, after: Callable[[Site, int], MapChange]) -> dict[str, Growth]:
        """By tensor; `after` says what the ops at a site make of what is written there behind the first so many."""
        if not self.grafted:
            return {}
        count = self._count()
        found: dict[str, Growth] = {}
        for layer in range(self.config.num_hidden_layers):
            found |= self._layer(layer, count, after)
        return found

    @property
    def flags(self) -> Mapping[str, int]:
        """Keys of config.json."""
        return {"intermediate_size": self.config.intermediate_size + self._count()} if self.grafted else {}

    def _layer(self, layer: int, count: int, after: Callable[[Site, int], MapChange]) -> dict[str, Growth]:
        gate, up, down = (name.removesuffix(".weight") for name in self._weights(layer))
        found = {f"{name}.{kind}": Growth(0, count) for name in (gate, up) for kind in ("weight", "bias")}
        found[f"{down}.weight"] = Growth(1, count)
        if layer in self.grafted:
            listed, scale = self.grafted[layer], self._scale
            kept, site = MapChange("bias"), Site("mlp_out", layer)
            columns = tuple((x.down / scale, after(site, before)) for x, before in listed)
            found[f"{gate}.weight"] = Growth(0, count, tuple((x.gate, kept) for x, _ in listed))
            found[f"{gate}.bias"] = Growth(0, count, tuple((x.gate_bias, kept) for x, _ in listed))
            found[f"{up}.bias"] = Growth(0, count, tuple((x.up_bias, kept) for x, _ in listed))
            found[f"{down}.weight"] = Growth(1, count, columns)
        return found

    @property
    def _scale(self) -> float:
        """What the model multiplies what its MLPs write by."""
        return architecture(self.config).scale(self.config)

    def _count(self) -> int:
        wanted = max(sum(len(neurons.gate) for neurons, _ in listed) for listed in self.grafted.values())
        even = gcd(self.config.intermediate_size, _EVEN)
        return ceil(wanted / even) * even

    def _weights(self, layer: int) -> list[str]:
        path = f"{architecture(self.config).layers}.{layer}.mlp"
        return [f"{path}.{name}_proj.weight" for name in ("gate", "up", "down")]

    def _hold(self, site: Site) -> None:
        """Make sure that gate and up have biases, which come with the writer's."""
        self.biases.hold(site)
        gate, up, _ = (name.replace(".weight", ".bias") for name in self._weights(site.layer or 0))
        lacking = [name for name in (gate, up) if name not in self.names and name not in self.biases.created]
        if lacking:
            raise InterpError(f"a neuron needs {lacking[0]}, which {self.config.model_type} has no place for")
