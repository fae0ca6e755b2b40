"""Models that differ from another in a known way, and texts and passes to compare them on."""

import copy
from math import cos, pi, sin

import torch

from interp.activations import pack_rows
from interp.data import encode
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.upkeep.drift.paired_passes import ModelPass

TEXTS = [" ".join(f"w{4 + (7 * start + step * (1 + start % 3)) % 120}" for step in range(12)) for start in range(40)]


def copied(model, name="copy"):
    """The same model with weights of its own."""
    return HookedModel(copy.deepcopy(model.hf), model.tokenizer, name)


@torch.no_grad()
def moved(model, layer, direction, scale=4.0):
    """A copy whose MLP of one layer writes along a direction: a constant if it has a bias, else what it reads."""
    other = copied(model, f"moved at {layer}")
    writer, unit = other.hf.model.layers[layer].mlp.down_proj, direction / direction.norm()
    if writer.bias is not None:
        writer.bias += scale * unit
    else:
        writer.weight += scale * torch.outer(unit, writer.weight.std(0))
    return other


def rows_of(model, texts=TEXTS):
    """The texts, packed."""
    return pack_rows(model, texts, context=16)


def synthetic(rows, site, first, second):
    """Passes of two models whose activations are given, token by token."""
    place, shape = Site.parse(site), (*rows.ids.shape, first.shape[1])
    passes = []
    for values in (first, second):
        x = torch.zeros(shape)
        x[rows.mask] = values
        passes.append(ModelPass(torch.zeros(*rows.ids.shape, 4), {place: x}))
    return passes


def circle(n):
    """Points on a circle, as rows of two numbers."""
    return torch.tensor([[cos(2 * pi * k / n), sin(2 * pi * k / n)] for k in range(n)])


def alone(model, text):
    """The token ids of a document by itself, as packing begins it."""
    return [next(encode([text], model)).ids.tolist()]
