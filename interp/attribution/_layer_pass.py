"""Layer passes: the forward passes of many edited copies of a batch, each begun where its edit is.

An edit at layer l and position p changes the later layers at the positions from p on, and nothing else. So:

1. `RecordedRun` runs the unedited batch once, and keeps the residual stream before each layer, and all keys and values.
2. A pass computes the columns from p on. Keys and values of earlier columns are those of the recorded run.
3. It goes from layer to layer. Before each layer, the copies that are edited there join the batch, with the recorded
   residual stream; their edit acts inside this layer. So no layer before an edit is computed, and few passes serve
   many edits.

The layers are the Hugging Face model's own modules, with the arguments that the model itself gives them, so that masks,
windows and positions are the model's.

Limitations: the logits are read at the last position only.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Cache

from interp.core.errors import InterpError
from interp.models.architectures.table import Tap, architecture
from interp.models.architectures.unembedding import final_norm, stream_logits
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform, attached
from interp.models.sites import Site
from interp.models.tokens import Tokens

_TOKENS = 8192  # rows times columns in a pass
_LOGITS = 25_000_000  # in memory at once
Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # of a layer, after the hidden states
Read = Callable[[Float[Tensor, "edit batch d_vocab"]], Float[Tensor, "edit batch"]]
Change = Callable[[Float[Tensor, "rows pos *features"]], Float[Tensor, "rows pos *features"]]


@dataclass(frozen=True, eq=False)
class SiteEdit:
    """An edit of one copy of the batch.

    Args:
        site: Where it acts.
        change: A function of the activations there, (batch, pos, …), over the columns that the pass computes.
    """

    site: Site
    change: Change


class _KeyValues(Cache):
    """The keys and values of each layer, whole: a window is a matter of the mask.

    Args:
        before: Keys and values of the columns before those that a pass computes. None: those of the pass are kept.
        others: Keys and values of another run, whose values stand for those of the pass.
    """

    def __init__(
        self,
        before: dict[int, tuple[Tensor, Tensor]] | None = None,
        others: dict[int, tuple[Tensor, Tensor]] | None = None,
    ):
        super().__init__(layers=[])
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        self.before, self.others = before or {}, others or {}

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The keys and values that a layer attends to."""
        keys, values = key_states, value_states
        if self.others:
            return keys, self.others[layer_idx][1]
        if not self.before:
            self.kept[layer_idx] = keys, values
            return keys, values
        old_keys, old_values = self.before[layer_idx]
        copies = len(keys) // len(old_keys)
        old = (x.repeat(copies, 1, 1, 1) for x in (old_keys, old_values))
        whole_keys, whole_values = (torch.cat(pair, -2) for pair in zip(old, (keys, values), strict=True))
        return whole_keys, whole_values

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """How many columns are before those of the pass."""
        return next(iter(self.before.values()))[0].shape[-2] if self.before else 0

    def get_mask_sizes(self, query_length: int, layer_idx: int = 0) -> tuple[int, int]:
        """The number of columns that are attended to, and the first of them."""
        return self.get_seq_length() + query_length, 0


class RecordedRun:
    """A forward pass of a batch, and passes of edited copies of it.

    Args:
        model: The model.
        batch: The tokens.

    Raises:
        InterpError: The layers, called one by one, do not give the model's logits.
    """

    def __init__(self, model: HookedModel, batch: Tokens):
        self.model, self.batch, self.width = model, batch, batch.ids.shape[1]
        self.layers: Sequence[nn.Module] = model.hf.get_submodule(architecture(model.config).layers)
        self.norm = final_norm(model)
        self.inputs = batch.model_inputs(model.device)
        self.streams: list[Tensor] = []
        self.outputs: list[int] = []  # how many things a layer returns; 0 where it is a bare tensor
        record = [(model.tap(Site("resid_pre", layer)), self.streams.append) for layer in range(model.n_layers)]
        memory = _KeyValues()
        with torch.no_grad(), attached(model.hf, record), ExitStack() as stack:
            for layer in self.layers:
                stack.callback(layer.register_forward_hook(self._note_output).remove)
            logits = model.hf(**self.inputs, past_key_values=memory, use_cache=True, logits_to_keep=1).logits[:, 0]
            self.kept = memory.kept
            self.logits: Float[Tensor, "batch d_vocab"] = logits
            hidden = self.through(len(self.layers) - 1, self.streams[-1], self.arguments(0))
            again = stream_logits(model, self.norm(hidden[:, -1]))
        if not torch.allclose(again, logits, atol=1e-3, rtol=1e-3):
            raise InterpError(f"{model.config.model_type}: its layers, one by one, do not give the model's logits")

    def _note_output(self, module: Any, arguments: Any, output: Any) -> None:
        self.outputs.append(len(output) if isinstance(output, tuple) else 0)

    def through(self, layer: int, hidden: Tensor, arguments: Sequence[Arguments]) -> Tensor:
        """What a layer returns for copies of the batch."""
        copies, size = len(hidden) // len(self.batch), len(self.batch)
        args, kwargs = (_repeated(part, copies, size) for part in arguments[layer])
        output = self.layers[layer](hidden, *args, **kwargs)
        return output[0] if isinstance(output, tuple) else output

    def read(self, edits: Sequence[SiteEdit], start: int, read: Read) -> Float[Tensor, "edit batch"]:
        """What `read` makes of the last position's logits under each edit.

        Args:
            edits: The edits, in the order of their layers. They change nothing before column `start`.
            start: The first column that is computed.
            read: A function of logits, (edit, batch, d_vocab), that returns (edit, batch).
        """
        copies = max(1, _TOKENS // (len(self.batch) * (self.width - start)))
        arguments = self.arguments(start)
        parts = [edits[first : first + copies] for first in range(0, len(edits), copies)]
        return torch.cat([self._read_part(part, start, arguments, read) for part in parts])

    @torch.no_grad()
    def within(
        self, site: Site, edits: Sequence[SiteEdit] = (), values: "RecordedRun | None" = None
    ) -> Float[Tensor, "edit batch pos *features"]:
        """The activations at a site under edits of the same layer, which alone is computed.

        Args:
            site: The site that is read.
            edits: The edits; without any, there is one copy of the batch.
            values: Another run, whose values attention reads in place of this one's.
        """
        layer, read, copies = site.layer or 0, list[Tensor](), max(1, len(edits))
        hidden = self.streams[layer].repeat(copies, 1, 1)
        taps = [*self._taps(edits, len(hidden)), (self.model.tap(site), read.append)]
        with attached(self.model.hf, taps):
            self.through(layer, hidden, self.arguments(0, values))
        return read[0].unflatten(0, (copies, -1))

    @torch.no_grad()
    def _read_part(self, edits: Sequence[SiteEdit], start: int, arguments: Any, read: Read) -> Tensor:
        batch, hidden = len(self.batch), self.streams[0][:0, start:]
        for layer in range(edits[0].site.layer or 0, len(self.layers)):
            joining = [edit for edit in edits if edit.site.layer == layer]
            if joining:
                hidden = torch.cat([hidden, self.streams[layer][:, start:].repeat(len(joining), 1, 1)])
            with attached(self.model.hf, self._taps(joining, len(hidden))), self._narrowed_mlp(layer, joining):
                hidden = self.through(layer, hidden, arguments)
        last = self.norm(hidden[:, -1]).unflatten(0, (-1, batch))
        size = max(1, _LOGITS // (batch * self.model.hf.get_output_embeddings().weight.shape[0]))
        return torch.cat([read(stream_logits(self.model, part)) for part in last.split(size)])

    def _narrowed_mlp(self, layer: int, joining: Sequence[SiteEdit]) -> AbstractContextManager[Any]:
        """While the last layer runs, its MLP gets the last column alone: no other column of its output is read.

        Some MLPs add in place to the output of attention beside them; those after attention do not.
        """
        site, known = Site("mlp_input", layer), self.model.sites
        edited = any(edit.site.order >= site.order for edit in joining)
        sequential = site in known and Site("resid_mid", layer) in known and not self.model.tap(site).batch_of
        if edited or not sequential or layer < len(self.layers) - 1:
            return nullcontext()
        mlp = self.model.hf.get_submodule(self.model.tap(site).path)
        return mlp.register_forward_pre_hook(lambda _, args: (args[0][:, -1:], *args[1:]))

    def _taps(self, joining: Sequence[SiteEdit], rows: int) -> list[tuple[Tap, Transform]]:
        """The edits of the copies that have just joined, which are the last rows."""
        batch, first = len(self.batch), rows - len(self.batch) * len(joining)
        blocks = [(edit, slice(first + n * batch, first + (n + 1) * batch)) for n, edit in enumerate(joining)]

        def change(chosen: Sequence[tuple[SiteEdit, slice]], x: Tensor) -> Tensor:
            changed = x.clone()
            for edit, block in chosen:
                changed[block] = edit.change(x[block])
            return changed

        sites = dict.fromkeys(edit.site for edit in joining)
        return [
            (self.model.tap(site), partial(change, [(edit, block) for edit, block in blocks if edit.site == site]))
            for site in sites
        ]

    def arguments(self, start: int, values: "RecordedRun | None" = None) -> list[Arguments]:
        """What the model gives to each layer, after the hidden states, for the columns from `start` on."""
        before = (
            {layer: (k[..., :start, :], v[..., :start, :]) for layer, (k, v) in self.kept.items()} if start else None
        )
        given: list[Arguments] = []

        def note(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
            given.append((args, kwargs))
            kind = self.outputs[len(given) - 1]
            return (hidden_states, *[None] * (kind - 1)) if kind else hidden_states

        with ExitStack() as stack:
            for layer in self.layers:
                stack.enter_context(patch.object(layer, "forward", note))
            inputs = {name: x[:, start:] for name, x in self.inputs.items() if name != "attention_mask"}
            mask, memory = self.inputs["attention_mask"], _KeyValues(before, values.kept if values else None)
            with torch.no_grad():
                self.model.hf.base_model(**inputs, attention_mask=mask, past_key_values=memory, use_cache=True)
        return given


def _repeated(value: Any, copies: int, batch: int) -> Any:
    """A layer's arguments for copies of a batch: what has a row, or several, for each row of the batch is repeated."""
    if isinstance(value, Tensor):
        per_row = value.ndim > 1 and len(value) % batch == 0
        return value.repeat(copies, *[1] * (value.ndim - 1)) if per_row and copies > 1 else value
    if isinstance(value, tuple | list):
        return type(value)(_repeated(part, copies, batch) for part in value)
    if isinstance(value, dict):
        return {name: _repeated(part, copies, batch) for name, part in value.items()}
    return value
