"""The unedited prefix: what the layers below an edit compute, kept once and used again for every trial.

An edit changes nothing below its lowest layer. The first pass over some tokens keeps the residual stream before chosen
layers (and the keys and values below them, where the pass fills a cache); later passes over the same tokens begin at
the highest kept layer that is not above the edit. What they compute from there is the same to the last bit, since the
layers are the model's own and receive the same numbers.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from hashlib import blake2b
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import Cache

from interp.interventions.recipe import Recipe
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel

_LAYERS = 8  # at most so many are kept
_BYTES = 2 * 2**30


def lowest_layer(recipe: Recipe, model: HookedModel) -> int:
    """The first layer that a recipe acts in or reads; 0 where it acts on the embeddings."""
    sites = [site for edit in recipe.edits for site in model.resolve(edit.sites)]
    sites += [site for edit in recipe.edits for site, _ in edit.op.observers()]
    return min(site.layer or 0 for site in sites)


class UneditedPrefix:
    """Residual streams before some layers of a model, by the tokens of the pass.

    Args:
        model: The model.
        limit: How many bytes to keep; passes beyond it run whole.
    """

    def __init__(self, model: HookedModel, limit: int = _BYTES):
        self.model, self.limit, self.size = model, limit, 0
        self._layers: Sequence[nn.Module] = model.hf.get_submodule(architecture(model.config).layers)
        self.kept = sorted({len(self._layers) * number // _LAYERS for number in range(1, _LAYERS)} - {0})
        self._streams: dict[bytes, dict[int, Tensor]] = {}
        self._memory: dict[bytes, dict[int, tuple[Tensor, Tensor]]] = {}
        self._outputs: dict[int, int] = {}  # how many things a layer returns; 0 where it is a bare tensor
        self._pass = b"", 0  # the key of the current pass, and the layer it begins at

    @contextmanager
    def reused(self, lowest: int) -> Iterator[None]:
        """Begin each pass of the block at the highest kept layer up to `lowest`, the first one that is edited."""
        body = self.model.hf.get_submodule(architecture(self.model.config).layers.rpartition(".")[0])
        usable = [layer for layer in self.kept if layer <= lowest]
        if not usable:
            yield
            return
        with ExitStack() as stack:
            entering = partial(self._enter, usable[-1])
            stack.callback(body.register_forward_pre_hook(entering, with_kwargs=True).remove)
            for number, layer in enumerate(self._layers[: usable[-1]]):
                stack.enter_context(patch.object(layer, "forward", partial(self._layer, number, layer.forward)))
            yield

    def _enter(self, layer: int, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        cache, ids = kwargs.get("past_key_values"), args[0] if args else kwargs.get("input_ids")
        if ids is None or (cache is not None and cache.get_seq_length()):
            self._pass = b"", 0
            return
        fills_cache = cache is not None or kwargs.get("use_cache") is not False
        key = blake2b(f"{tuple(ids.shape)} {fills_cache}".encode(), digest_size=16)
        for x in (ids, kwargs.get("attention_mask"), kwargs.get("position_ids")):
            if isinstance(x, Tensor):
                key.update(x.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
            key.update(b"-")
        name = key.digest()
        known, remembered = self._streams.setdefault(name, {}), self._memory.setdefault(name, {})
        usable = [kept for kept in known if kept <= layer and (not fills_cache or kept <= len(remembered))]
        self._pass = name, max(usable, default=0)

    def _layer(self, number: int, forward: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        (key, begin), cache = self._pass, next((x for x in kwargs.values() if isinstance(x, Cache)), None)
        if key and number < begin:
            if cache is not None:
                cache.update(*self._memory[key][number], number)
            stream = self._streams[key][begin] if number == begin - 1 else hidden_states
            return (stream, *[None] * (self._outputs[number] - 1)) if self._outputs[number] else stream
        output = forward(hidden_states, *args, **kwargs)
        if key and self.size < self.limit:
            self._outputs[number] = len(output) if isinstance(output, tuple) else 0
            self._keep(key, number, output[0] if isinstance(output, tuple) else output, cache)
        return output

    def _keep(self, key: bytes, number: int, stream: Tensor, cache: Any) -> None:
        streams, memory = self._streams[key], self._memory[key]
        if number + 1 in self.kept and number + 1 not in streams:
            streams[number + 1] = stream.detach().clone()
            self.size += stream.nbytes
        # A window keeps the last keys only, and a static cache has room for more: neither can be filled again.
        if cache is not None and number == len(memory) and cache.layers[number].keys.shape[-2] == stream.shape[1]:
            memory[number] = cache.layers[number].keys, cache.layers[number].values
            self.size += 2 * memory[number][0].nbytes
