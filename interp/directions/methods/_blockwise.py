"""Blockwise: prompts taken through a model a block at a time, with the residual stream changed in between.

Whatever needs each layer's activations given the changes to those before it would run the model up to there again for
every layer: half as many passes as there are layers. Here each block is computed once. The activations of all prompts
behind one block are kept, and the next forward pass goes on from them: blocks before them hand through what they get,
and everything beside the blocks (masks, positions) is still made by the model itself.

What it does not know: models whose later blocks use more of earlier ones than the residual stream, such as shared keys
and values (`fits` says so).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InterpError
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Tokens

States = list[Float[Tensor, "_ _ d_model"]]


def supports_blockwise(model: HookedModel) -> bool:
    """Whether a model can be taken block by block: no shared keys and values, and no hooks in place."""
    return not getattr(model.config, "num_kv_shared_layers", 0) and not model.inside_hooked


class Blockwise:
    """See the module. `to` goes on to a layer; `replace` changes what the layers behind it are given."""

    def __init__(self, model: HookedModel, batches: Sequence[Tokens]):
        if not supports_blockwise(model):
            raise InterpError(f"{model.name} shares keys and values between layers or is hooked; run it as a whole")
        self._model, self._batches = model, batches
        self._blocks = list(model.hf.get_submodule(architecture(model.config).layers))
        self._layer, self._states = -1, [torch.empty(0)] * len(batches)
        self._wrapped = False

    def to(self, layer: int) -> States:
        """The residual stream behind a layer, which is past the last one asked for; a tensor a batch."""
        if not self._layer < layer < len(self._blocks):
            raise InterpError(f"layer is {layer}; expected {self._layer + 1} to {len(self._blocks) - 1}, to go forward")
        self._states = [self._passed(*each, layer) for each in zip(self._batches, self._states, strict=True)]
        self._layer = layer
        return self._states

    def replace(self, states: States) -> None:
        """What the next layers are given instead."""
        self._states = states

    def _passed(self, rows: Tokens, state: Tensor, layer: int) -> Tensor:
        site = Site("resid_post", layer)
        with self._from(state), self._noting():
            return self._model.forward_to([site], rows.model_inputs(self._model.device))[site]

    @contextmanager
    def _noting(self) -> Iterator[None]:
        """Note whether blocks return a tensor or a tuple that begins with it."""

        def note(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._wrapped = isinstance(output, tuple)

        # Before other hooks, of which one ends the pass.
        handle = self._blocks[self._layer + 1].register_forward_hook(note, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _from(self, state: Tensor) -> Iterator[None]:
        """Have the blocks up to the present layer computed no more: the last of them returns the state."""

        def instead(*args: Any, **kwargs: Any) -> Any:
            return (state,) if self._wrapped else state

        # A block may have a forward of its own already, put there by accelerate for one.
        passed = [(block, vars(block).get("forward")) for block in self._blocks[: self._layer + 1]]
        for block, _ in passed:
            block.forward = instead
        try:
            yield
        finally:
            for block, own in passed:
                if own is None:
                    del block.forward
                else:
                    block.forward = own
