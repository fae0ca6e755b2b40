"""Zero and mean ablation, and scaling, in weights.

Heads (at z) and neurons (at mlp_post) are inputs of an output projection W. Where a value v replaces them, their
columns are zeroed and W v is added to the bias; where they are scaled, their columns are. What attention, an MLP or a
table writes is replaced as a whole or in some coordinates, by a map that keeps the others.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.editing.fold.affine_maps import TensorMap
from interp.interventions.ablation import Replace, Scale
from interp.models.architectures.writers import Writer
from interp.models.sites import Site

INPUTS = ("z", "mlp_post")


def replacement(op: Replace, site: Site, d_model: int) -> TensorMap:
    """The map that replaces what is written at a site, or the coordinates `op.units` of it."""
    refuse_positions(op, site)
    if (op.value is not None and len(op.value) != d_model) or max(op.units or [0]) >= d_model:
        raise InterpError(f"{site} has {d_model} coordinates, counted from 0; the value or a unit does not fit")
    keep = torch.ones(d_model)
    keep[slice(None) if op.units is None else op.units] = 0.0
    value = None if op.value is None or not op.value.any() else op.value * (1 - keep)
    return TensorMap.keeping(keep, value)


def refuse_positions(op: Replace, site: Site) -> None:
    """Raise where the value differs between positions."""
    if op.value is not None and op.value.ndim > (2 if site.kind == "z" else 1):
        value = f"a value of shape {tuple(op.value.shape)} at {site} differs between positions"
        raise InterpError(f"{value}, and weights act at all alike; give a mean over positions, or run it with hooks")


def inputs_of(ops: Sequence[Replace], width: int) -> tuple[Int[Tensor, "inputs"] | None, bool]:
    """The inputs that some ops replace, `width` per unit, and whether these are all."""
    if any(op.units is None for op in ops):
        return None, True
    return torch.cat([_columns(op, width) for op in ops]).unique(), False


def written_by(
    ops: Sequence[Replace], weight: Writer, read: Callable[[str], Tensor], width: int
) -> Float[Tensor, "d_model"] | None:
    """What the values write through the weight that reads them; None where all are zero. The last op wins."""
    if all(op.value is None for op in ops):
        return None
    tensor = read(weight.tensor).double()
    matrix = tensor if weight.layout == "out_in" else tensor.T
    values = matrix.new_zeros(matrix.shape[1])
    for op in ops:
        flat = values.new_zeros(len(values)) if op.value is None else op.value.flatten().to(values)
        if len(flat) != len(values):
            raise InterpError(f"a value of {len(flat)} numbers replaces {len(values)} inputs of {weight.tensor}")
        chosen = slice(None) if op.units is None else _columns(op, width)
        values[chosen] = flat[chosen]
    return matrix @ values


def unit_width(config: Any, site: Site) -> int:
    """How many inputs of the output projection a unit at a site has: a head's width, or 1 for a neuron."""
    if site.kind not in ("z", "attn_out"):
        return 1
    width = getattr(config, "v_head_dim", None) or getattr(config, "head_dim", None)
    return int(width or config.hidden_size // config.num_attention_heads)


def factors_of(ops: Sequence[Scale], width: int) -> Float[Tensor, "inputs"] | None:
    """What each input is multiplied by, `width` inputs per unit; None if no op scales any."""
    if not ops:
        return None
    return torch.stack([op.factors for op in ops]).prod(0).repeat_interleave(width)


def refuse_mixture(op: Replace | Scale, others: Sequence[Replace | Scale], site: Site) -> None:
    """Raise where a site has units replaced and scaled: what is added to the bias would depend on the order."""
    if any(type(other) is not type(op) for other in others):
        raise InterpError(f"units at {site} are both replaced and scaled; scale units to zero by 0, or replace all")


def refuse_units(op: Replace | Scale, site: Site, config: Any, inputs: Callable[[], int]) -> None:
    """Raise for units that do not exist, and unless every unit has a factor.

    `inputs` counts the inputs of the output projection, for configs that do not give the number of neurons.
    """
    if isinstance(op, Replace) and op.units is None:
        return
    neurons = [getattr(config, name, None) for name in ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size")]
    count = config.num_attention_heads if site.kind == "z" else next((n for n in neurons if n), None) or inputs()
    if isinstance(op, Scale) and len(op.factors) != count:
        raise InterpError(f"{len(op.factors)} factors for the {count} units at {site}; expected one for each")
    if isinstance(op, Replace) and max(op.units or [0]) >= count:
        raise InterpError(f"unit {max(op.units or [0])} at {site} is not there: it has {count}, counted from 0")


def _columns(op: Replace, width: int) -> Int[Tensor, "inputs"]:
    units = torch.tensor(op.units)
    return (units[:, None] * width + torch.arange(width)).flatten()
