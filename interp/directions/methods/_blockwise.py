"""Blockwise: run prompts through a model one block at a time, with the residual stream changed in between.

A method that needs each layer's activations under changes to earlier layers would otherwise run the model from the
start for every layer, which costs half as many full passes as there are layers. Here each block is computed once. The
activations of all prompts after one block are kept, and the next forward pass continues from them: the blocks before it
are replaced by functions that return these activations, and the model itself still makes masks and positions.

Limitations: later blocks must use earlier ones only through the residual stream. Models with shared keys and values are
not supported (`supports_blockwise`).
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
    """Whether a model can be run block by block: it shares no keys and values, and has no hooks in place."""
    return not getattr(model.config, "num_kv_shared_layers", 0) and not model.is_hooked


class Blockwise:
    """Prompts on their way through a model. `to` advances to a layer; `replace` changes the input of later layers."""

    def __init__(self, model: HookedModel, batches: Sequence[Tokens]):
        if not supports_blockwise(model):
            raise InterpError(f"{model.name} shares keys and values between layers or is hooked; run it as a whole")
        self._model, self._batches = model, batches
        self._blocks = list(model.hf.get_submodule(architecture(model.config).layers))
        self._layer, self._states = -1, [torch.empty(0)] * len(batches)
        self._wrapped = False

    def to(self, layer: int) -> States:
        """The residual stream after a layer, which must be later than that of the last call; one tensor per batch."""
        if not self._layer < layer < len(self._blocks):
            raise InterpError(f"layer is {layer}; expected {self._layer + 1} to {len(self._blocks) - 1}, to go forward")
        self._states = [self._advance(*pair, layer) for pair in zip(self._batches, self._states, strict=True)]
        self._layer = layer
        return self._states

    def replace(self, states: States) -> None:
        """Replace the activations that the next layers receive."""
        self._states = states

    def _advance(self, rows: Tokens, state: Tensor, layer: int) -> Tensor:
        site = Site("resid_post", layer)
        with self._resumed(state), self._recording_output_type():
            return self._model.forward_to([site], rows.model_inputs(self._model.device))[site]

    @contextmanager
    def _recording_output_type(self) -> Iterator[None]:
        """Record whether blocks return a tensor or a tuple that begins with it."""

        def record(block: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._wrapped = isinstance(output, tuple)

        # It runs before other hooks, one of which ends the pass.
        handle = self._blocks[self._layer + 1].register_forward_hook(record, prepend=True)
        try:
            yield
        finally:
            handle.remove()

    @contextmanager
    def _resumed(self, state: Tensor) -> Iterator[None]:
        """Skip the blocks up to the present layer: each returns the state."""

        def skip(*args: Any, **kwargs: Any) -> Any:
            return (state,) if self._wrapped else state

        # An instance may already have its own forward, for example from accelerate.
        skipped = [(block, vars(block).get("forward")) for block in self._blocks[: self._layer + 1]]
        for block, _ in skipped:
            block.forward = skip
        try:
            yield
        finally:
            for block, forward in skipped:
                if forward is None:
                    del block.forward
                else:
                    block.forward = forward
