"""ForwardPass: which tokens a forward pass covers, for functions that act on some tokens only.

Generation with a key-value cache is one pass over the prompt and then one pass per new token; without a cache, each
pass covers everything. A function that acts on prompts, on replies or on some tokens has to do the same in both cases.
So it can read which column of the left-padded batch each token is in, where the prompt ends, and what was decided about
the prompt when the model read it. All prompts of a batch end in the same column, so this suffices for batches and
beams.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from interp.core.errors import InterpError


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """One forward pass. Its tokens are in columns `start` onwards; columns before `prompt` are the prompt.

    `ids` is None where the model receives embeddings. `notes` are kept until another prompt is read: a function that
    decides something about a prompt stores it there for the passes over the reply, as a tensor with a row per sequence.
    """

    ids: Int[Tensor, "batch pos"] | None
    real: Bool[Tensor, "batch pos"]
    start: int
    prompt: int
    notes: dict[Any, Tensor] = field(default_factory=dict)

    @property
    def columns(self) -> Int[Tensor, "pos"]:
        """The column of each token, counted from the first column of the prompt."""
        return torch.arange(self.start, self.start + self.real.shape[1], device=self.real.device)

    @property
    def of_prompt(self) -> Bool[Tensor, "batch pos"]:
        """Real tokens of the prompt."""
        return self.real & (self.columns < self.prompt)

    @property
    def of_reply(self) -> Bool[Tensor, "batch pos"]:
        """Real tokens after the prompt."""
        return self.real & (self.columns >= self.prompt)

    @property
    def begins(self) -> bool:
        """Whether this pass reads the prompt."""
        return self.start == 0


class ForwardPasses:
    """Keeps track of a model's current forward pass."""

    def __init__(self) -> None:
        self._current: ForwardPass | None = None
        self._prompt: int | None = None
        self._depth = 0

    @property
    def current(self) -> ForwardPass:
        """The current pass. Raises outside a forward pass."""
        if self._current is None:
            raise InterpError("no forward pass is running; run the op in a recipe, with model.hooked or model.generate")
        return self._current

    @contextmanager
    def watched(self, body: nn.Module) -> Iterator[None]:
        """Track every pass through a model's body for as long as the block lasts."""
        handle = None if self._depth else body.register_forward_pre_hook(self._enter, with_kwargs=True)
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if handle is not None:
                handle.remove()
                self._current = None

    @contextmanager
    def prompted(self, columns: int | None) -> Iterator[None]:
        """Set how many columns the prompt has, for passes that cover prompt and reply. None changes nothing."""
        before, self._prompt = self._prompt, self._prompt if columns is None else columns
        try:
            yield
        finally:
            self._prompt = before

    @contextmanager
    def branched(self, rows: Int[Tensor, "n"]) -> Iterator[None]:
        """Continue the current pass with some of its rows; what the block stores in `notes` is dropped afterwards."""
        before = self._current
        if before is not None:
            kept = {key: note[rows.to(note.device)] for key, note in before.notes.items()}
            self._current = replace(before, notes=kept)
        try:
            yield
        finally:
            self._current = before

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        inputs = ids if ids is not None else kwargs["inputs_embeds"]
        cache = kwargs.get("past_key_values")
        start = 0 if cache is None else int(cache.get_seq_length())
        width, mask = inputs.shape[1], kwargs.get("attention_mask")
        real = torch.ones(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        if isinstance(mask, Tensor) and mask.ndim == 2:
            real = mask[:, start : start + width].bool()
        if start == 0:
            prompt = width if self._prompt is None else self._prompt
            self._current = ForwardPass(ids, real, 0, prompt)
        elif self._current is None:
            raise InterpError(
                f"a pass over {width} tokens continues from {start} in a cache that was filled outside this block; "
                "read the prompt inside it"
            )
        else:
            self._current = ForwardPass(ids, real, start, self._current.prompt, self._current.notes)
