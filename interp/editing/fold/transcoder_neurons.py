"""Neurons that suppress latents of a transcoder, added to the MLP whose input the transcoder reads.

    f(x) = relu(w x + c) of what the MLP reads; the neurons add f(x) d, where d is the decoder row times factor - 1

A SwiGLU neuron writes silu(gate) · up along its column. With gate b (w x + c), up constantly 1/b and column d, it
writes f(x) d up to (max |silu - relu| / b) |d| < 0.279 |d| / b, whatever x is. The sharpness b costs nothing, and a
power of two causes no rounding. A threshold t > 0 (f is w x + c above it and 0 below) takes two neurons: with
z = b (w x + c - t), gates z + 1/2 and z - 1/2, and up 1/(2b) + t and 1/(2b) - t. At the threshold f jumps by t, which
no continuous function can follow: the bound there is (0.279 / b + t / 2) |d|, and `Neurons.bound` gives how it falls
to the first term away from it.

These bounds hold for neurons as computed. Saving rounds them, which adds an error in proportion to what is read
(`Neurons.rounding`). The two neurons of a threshold are each far larger than their difference. Rounding to 16 bits
would erase that difference, so thresholds are refused there.

Neurons need biases on gate and up, and all layers of a checkpoint have one width: other layers get neurons of zeros.

Limitations: it does not handle TopK latents, which depend on each other, or transcoders that do not read `mlp_input`.
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
from interp.models import Site, architecture
from interp.sae.nonlinearities import JumpReLU

SILU_GAP = 0.279  # more than the largest |silu(z) - relu(z)|, 0.27846… at z = ±1.2785
_STEEPEST = 1.1  # more than the largest slope of silu, 1.0998… at z = 2.3994
WITH_HOOKS = "run it with hooks (model.hooked(recipe))"
_EVEN = 64  # widths stay multiples of this (or of a smaller power of two, if they were), for which kernels are fast


@dataclass(frozen=True, eq=False)
class Neurons:
    """down (silu(gate x + gate_bias) · up_bias), with bounds on the norm of its difference from what the hook adds."""

    gate: Float[Tensor, "neuron d_model"]
    gate_bias: Float[Tensor, "neuron"]
    up_bias: Float[Tensor, "neuron"]
    down: Float[Tensor, "d_model neuron"]
    sharpness: float
    lengths: Float[Tensor, "latent"]
    thresholds: Float[Tensor, "latent"]

    @classmethod
    def of(cls, op: Suppress, sharpness: float) -> "Neurons":
        """The neurons of an op, in float64. Raises unless each latent depends only on its own pre-activation."""
        coder = op.transcoder
        if not isinstance(coder.nonlinearity, JumpReLU) or coder.threshold is None:
            problem = f"the latents of this {coder} are the largest {coder.nonlinearity} per token"
            raise InterpError(f"{problem}, each of which depends on the others; train one with thresholds (batchtopk)")
        w, c, t = (x.cpu().double()[op.latents] for x in (coder.W_enc, coder.b_enc, coder.threshold))
        columns = (op.scale - 1) * coder.W_dec.cpu().double()[op.latents]
        parts = [_neuron(*each, sharpness) for each in zip(w, c, t, columns, strict=True)]
        gate, gate_bias, up_bias, down = (torch.cat(side) for side in zip(*parts, strict=True))
        return cls(gate, gate_bias, up_bias, down.T, sharpness, columns.norm(dim=1), t)

    def __call__(self, x: Float[Tensor, "*batch d_model"]) -> Float[Tensor, "*batch d_model"]:
        """What the neurons write."""
        gate, gate_bias, up_bias, down = (y.to(x) for y in (self.gate, self.gate_bias, self.up_bias, self.down))
        return (silu(x @ gate.T + gate_bias) * up_bias) @ down.T

    def bound(self, distance: float = 0.0) -> float:
        """The largest difference from what the hook adds, for pre-activations this far from their thresholds."""
        z = torch.tensor(self.sharpness * distance, dtype=torch.float64)
        # silu(z) = z - z / (1 + e^z), and the step is odd about 1/2: the bound holds on both sides.
        jump = min(0.5, float((z + 0.5) * torch.exp(0.5 - z)))
        return float((self.lengths * (SILU_GAP / self.sharpness + self.thresholds * jump)).sum())

    def rounded(self, dtype: torch.dtype, scale: float = 1.0) -> "Neurons":
        """The neurons as a file of this type holds them, for a model that multiplies its MLPs' output by `scale`."""
        gate, gate_bias, up_bias = (x.to(dtype).double() for x in (self.gate, self.gate_bias, self.up_bias))
        down = (self.down / scale).to(dtype).double() * scale
        return replace(self, gate=gate, gate_bias=gate_bias, up_bias=up_bias, down=down)

    def rounding(self, dtype: torch.dtype, scale: float = 1.0) -> float:
        """The most that rounding to a type adds to either bound, relative to |(x, 1)|, the norm of the input and a 1.

        |u' d' silu(g') - u d silu(g)| is at most |u' d' - u d| |g'| + |u d| |g' - g| max |silu'|, neuron by neuron.
        """
        both = (self, self.rounded(dtype, scale))
        reads = [torch.cat([each.gate, each.gate_bias[:, None]], 1) for each in both]
        writes = [each.up_bias * each.down for each in both]
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
    """What is appended to a tensor along an axis: `count` entries, of edited blocks and then zeros."""

    axis: int
    count: int
    blocks: tuple[tuple[Tensor, MapChange], ...] = ()

    def shape(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a grown tensor, given its shape before."""
        return tuple(size + self.count * (axis == self.axis) for axis, size in enumerate(shape))

    def apply(self, tensor: Tensor) -> Tensor:
        """The grown tensor, in its own type."""
        places = [torch.empty_like(block, dtype=tensor.dtype, device=tensor.device) for block, _ in self.blocks]
        edited = [change.apply(block, out=out) for (block, change), out in zip(self.blocks, places, strict=True)]
        left = self.count - sum(block.shape[self.axis] for block in edited)
        zeros = tensor.new_zeros([left if axis == self.axis else n for axis, n in enumerate(tensor.shape)])
        return torch.cat([tensor, *edited, zeros], self.axis)


@dataclass
class AddedNeurons:
    """The mutable side of a plan's neurons: collects those of each op, by layer."""

    config: Any
    names: set[str]
    biases: BiasSlots
    sharpness: float
    read: Callable[[str], Tensor]
    # Neurons of a layer, with how many ops were at its site before: later ops act on what the neurons write.
    layers: dict[int, list[tuple[Neurons, int]]] = field(default_factory=dict)

    def take(self, op: Suppress, site: Site, before: int) -> str:
        """Add the neurons of an op; returns how near they come. Raises with the reason where there can be none."""
        if not self.sharpness > 0:
            raise InterpError(f"sharpness is {self.sharpness}; expected a number above 0, such as 256")
        if site.kind != "mlp_out" or site.layer is None or op.reads != Site("mlp_input", site.layer):
            sites = f"the transcoder reads {op.reads} and writes {site}"
            raise InterpError(f"{sites}; a neuron reads mlp_input.N and writes mlp_out.N of one MLP; {WITH_HOOKS}")
        missing = [name for name in self._weights(site.layer) if name not in self.names]
        act = getattr(self.config, "hidden_act", None)
        if missing or act != "silu":
            problem = f"activation {act}, {', '.join(missing) or 'no weight'} missing"
            raise InterpError(f"{self.config.model_type} has no SwiGLU neurons at {site} ({problem}); {WITH_HOOKS}")
        neurons, dtype = Neurons.of(op, self.sharpness), self.read(self._weights(site.layer)[-1]).dtype
        named = str(dtype).removeprefix("torch.")
        if neurons.thresholds.any() and dtype in SIXTEEN_BITS:
            pairs = f"latents with thresholds take two neurons each at {site}"
            raise InterpError(f"{pairs}, of whose difference {named} leaves nothing; use float32, or distil instead")
        self._require_biases(site)
        self.layers.setdefault(site.layer, []).append((neurons, before))
        jumps = " at the thresholds" if neurons.thresholds.any() else ""
        far = f", {neurons.bound(0.1):.2g} at a distance of 0.1 from them" if jumps else ""
        return (
            f"{len(neurons.gate)} SwiGLU neurons of sharpness {self.sharpness:g} in place of relu: what is written "
            f"differs by at most {neurons.bound():.2g}{jumps}{far}, and by what {named} rounds: at most "
            f"{neurons.rounding(dtype, self._scale):.2g} for each unit of length that is read"
        )

    def growths(self, after: Callable[[Site, int], MapChange]) -> dict[str, Growth]:
        """By tensor; `after` gives what the ops at a site, except the first so many, do to what is written there."""
        if not self.layers:
            return {}
        count = self._count()
        layers = range(self.config.num_hidden_layers)
        return {name: grown for n in layers for name, grown in self._layer(n, count, after).items()}

    @property
    def flags(self) -> Mapping[str, int]:
        """Keys of config.json."""
        return {"intermediate_size": self.config.intermediate_size + self._count()} if self.layers else {}

    def _layer(self, layer: int, count: int, after: Callable[[Site, int], MapChange]) -> dict[str, Growth]:
        gate, up, down = (name.removesuffix(".weight") for name in self._weights(layer))
        added, kept, site = self.layers.get(layer, []), MapChange("bias"), Site("mlp_out", layer)
        return {
            f"{gate}.weight": Growth(0, count, tuple((x.gate, kept) for x, _ in added)),
            f"{gate}.bias": Growth(0, count, tuple((x.gate_bias, kept) for x, _ in added)),
            f"{up}.weight": Growth(0, count),
            f"{up}.bias": Growth(0, count, tuple((x.up_bias, kept) for x, _ in added)),
            f"{down}.weight": Growth(1, count, tuple((x.down / self._scale, after(site, n)) for x, n in added)),
        }

    @property
    def _scale(self) -> float:
        """What the model multiplies its MLPs' output by."""
        return architecture(self.config).scale(self.config)

    def _count(self) -> int:
        needed = max(sum(len(neurons.gate) for neurons, _ in listed) for listed in self.layers.values())
        even = gcd(self.config.intermediate_size, _EVEN)
        return ceil(needed / even) * even

    def _weights(self, layer: int) -> list[str]:
        path = f"{architecture(self.config).layers}.{layer}.mlp"
        return [f"{path}.{name}_proj.weight" for name in ("gate", "up", "down")]

    def _require_biases(self, site: Site) -> None:
        """Make sure that gate and up have biases, which are created together with the writer's."""
        self.biases.hold(site)
        gate, up, _ = (name.replace(".weight", ".bias") for name in self._weights(site.layer or 0))
        missing = [name for name in (gate, up) if name not in self.names and name not in self.biases.created]
        if missing:
            raise InterpError(f"a neuron needs {missing[0]}, which {self.config.model_type} has no place for")
