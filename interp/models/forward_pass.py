"""ForwardPass: which tokens a forward pass covers, for functions that act on some tokens only.

Generation with a key-value cache is one pass over the prompt and then one pass per new token. Without a cache each pass
covers everything, a prompt may be read in chunks, and assisted generation reads several new tokens at once. A function
that acts on prompts, on replies or on some tokens has to do the same in all these cases. So it can read how far each
token is from the last token of its prompt, and what was decided when the model read the prompt.

The call of `generate` says where the prompt ends. Without such a call it is the first pass, unless `prompted` says
otherwise. Prompts may have padding anywhere; if they are read in several passes, on the left only.

Limitations: if a cache was filled elsewhere, and under the options of `generate` in `UNSUPPORTED`, it is not known
which tokens belong to the prompt. Functions that need to know raise an error; others run.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field, replace
from functools import wraps
from inspect import signature
from typing import Any
from unittest.mock import patch

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from interp.core.errors import InterpError

# Options of Hugging Face's `generate` that run further passes through the model, in between or instead, each with the
# value that does not. Those of `REMOTE` need code from the Hub.
REMOTE = dict.fromkeys(["custom_generate", "penalty_alpha", "dola_layers", "constraints", "force_words_ids"])
REMOTE |= {"num_beam_groups": 1}
UNSUPPORTED = {"guidance_scale": 1, "token_healing": False, "assistant_early_exit": None, "use_mtp": False, **REMOTE}


@dataclass(frozen=True, eq=False)
class ForwardPass:
    """One forward pass. Its tokens are in columns `start` onwards; columns before `prompt` are the prompt.

    `ids` is None where the model receives embeddings. `distance` counts the tokens from the last one of the prompt,
    which is 0: it is negative before it, and positive in the reply. `before` is how many tokens of the prompt were read
    in earlier passes. `notes` are kept until another prompt is read: a function that decides something about a prompt
    stores it there for the passes over the reply, as a tensor with a row per sequence. `unknown` says why the prompt is
    not known. `place` is the function's place in a recipe, and `format` the format in which that was saved.
    """

    ids: Int[Tensor, "batch pos"] | None
    real: Bool[Tensor, "batch pos"]
    start: int
    prompt: int
    distance: Int[Tensor, "batch pos"]
    before: Int[Tensor, "batch"]
    notes: dict[Any, Tensor] = field(default_factory=dict)
    unknown: str = ""
    place: Any = None
    format: int = 2

    @property
    def columns(self) -> Int[Tensor, "pos"]:
        """The column of each token, counted from the first column of the prompt."""
        return torch.arange(self.start, self.start + self.real.shape[1], device=self.real.device)

    @property
    def of_prompt(self) -> Bool[Tensor, "batch pos"]:
        """Tokens of the prompt, its last one included."""
        return self.real & (self.columns < self.prompt)

    @property
    def written(self) -> Int[Tensor, "batch pos"]:
        """How many tokens of the reply come before the one that each token predicts; negative if that is the prompt's.

        In recipes of format 1, it is one less.
        """
        self.require_known()
        return self.distance - int(self.format == 1)

    def require_known(self) -> None:
        """Raise where it is not known which tokens are the prompt's."""
        if self.unknown:
            raise InterpError(self.unknown)

    def reads_prompt(self, what: str) -> bool:
        """Whether this pass reads the prompt. Raises, by the name of what needs all of it, if it reads only a part."""
        self.require_known()
        stop = self.start + self.real.shape[1]
        if self.start >= self.prompt:
            return False
        if self.start or stop < self.prompt:
            columns = f"columns {self.start} to {stop - 1} of its {self.prompt}"
            raise InterpError(f"{what} needs the whole prompt, but this pass reads {columns}; drop prefill_chunk_size")
        return True


class ForwardPasses:
    """Keeps track of a model's current forward pass."""

    def __init__(self) -> None:
        self._current: ForwardPass | None = None
        self._prompt: int | None = None
        self._unknown = ""
        self._cache: Callable[[], Any] | None = None  # that of the last pass, if known
        self._watching = False

    @property
    def current(self) -> ForwardPass:
        """The current pass. Raises outside a forward pass."""
        if self._current is None:
            raise InterpError("no forward pass is running; run the op in a recipe, with model.hooked or model.generate")
        return self._current

    @contextmanager
    def watched(self, hf: Any, body: nn.Module) -> Iterator[None]:
        """Track every pass through a model's body, and every call of its `generate`, for as long as the block lasts."""
        if self._watching:
            yield
            return
        entering = body.register_forward_pre_hook(self._enter, with_kwargs=True)
        announced = patch.object(hf, "generate", self._announced(hf, hf.generate))
        self._watching = True
        try:
            with entering, body.register_forward_hook(self._leave), announced:
                yield
        finally:
            self._watching, self._current = False, None

    @contextmanager
    def prompted(self, columns: int | None, unknown: str = "") -> Iterator[None]:
        """Set how many columns the prompt has, or why it is not known. None changes nothing."""
        before = self._prompt, self._unknown
        self._prompt, self._unknown = self._prompt if columns is None else columns, self._unknown or unknown
        try:
            yield
        finally:
            self._prompt, self._unknown = before

    @contextmanager
    def branched(self, rows: Int[Tensor, "n"]) -> Iterator[None]:
        """Continue the current pass with some of its rows; what the block stores in `notes` is dropped afterwards."""
        before = self._current, self._cache
        if self._current is not None:
            fields = {name: getattr(self._current, name) for name in ("ids", "real", "distance", "before")}
            chosen: dict[str, Any] = {name: None if x is None else x[rows.to(x.device)] for name, x in fields.items()}
            notes = {key: note[rows.to(note.device)] for key, note in self._current.notes.items()}
            self._current, self._cache = replace(self._current, **chosen, notes=notes), None
        try:
            yield
        finally:
            self._current, self._cache = before

    def _announced(self, hf: Any, generate: Callable[..., Any]) -> Callable[..., Any]:
        """`generate`, with its prompt known to the passes that it makes. It does not compile: that can skip hooks."""

        @wraps(generate)
        def announced(*args: Any, **kwargs: Any) -> Any:
            call = signature(generate).bind(*args, **kwargs)
            options = call.arguments.setdefault("kwargs", {})
            given = call.arguments["generation_config"] = copy(call.arguments.get("generation_config"))
            (options if given is None else vars(given))["disable_compile"] = True
            sources = vars(hf.generation_config), {} if given is None else vars(given), options, call.arguments
            values = {name: x for source in sources for name, x in source.items() if x is not None}
            inputs = next((values[name] for name in ("inputs_embeds", "inputs", "input_ids") if name in values), None)
            columns = 1 if inputs is None else inputs.shape[1]  # without inputs it is the token that begins a text
            with self.prompted(columns if self._prompt is None else None, _unsupported(values, hf)):
                return generate(*call.args, **call.kwargs)

        return announced

    def _enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        ids = args[0] if args else kwargs.get("input_ids")
        inputs = ids if ids is not None else kwargs["inputs_embeds"]
        cache, last = kwargs.get("past_key_values"), self._current
        start = 0 if cache is None else int(cache.get_seq_length())
        real, unclear = _real(kwargs.get("attention_mask"), inputs, start, cache)
        packed = "packed sequences hide their prompts; give one in each row" if "cu_seq_lens_q" in kwargs else ""
        unknown = self._unknown or unclear or packed
        if start == 0:
            prompt = inputs.shape[1] if self._prompt is None else self._prompt
            before, notes = real.new_zeros(len(real), dtype=torch.long), dict[Any, Tensor]()
            unknown = unknown or _padded_inside(real, real.shape[1] < prompt)
        elif last is None:
            raise InterpError(f"a pass continues {start} tokens of a cache filled outside this block; read all in it")
        else:
            prompt, notes = last.prompt, last.notes
            before = last.before + last.real.sum(1) if start < prompt else last.before
            unknown = last.unknown or unknown or self._unlike(last, real, start, cache)
        distance = _distance(real, start, prompt)
        self._current = ForwardPass(ids, real, start, prompt, distance, before, notes, unknown)
        self._cache = _reference(cache)

    def _leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self._cache = None if isinstance(output, tuple) else _reference(getattr(output, "past_key_values", None))

    def _unlike(self, last: ForwardPass, real: Tensor, start: int, cache: Any) -> str:
        """Why a pass does not continue the last one; empty if it does."""
        stop = last.start + last.real.shape[1]  # a cache may be cropped, but not into the prompt
        foreign = self._cache is not None and self._cache() is not cache
        if foreign or start > stop or start < min(stop, last.prompt) or len(last.real) not in (1, len(real)):
            return f"a pass continues from {start} tokens of another cache than the last pass; read all in this block"
        return _padded_inside(torch.cat([last.real[:, -1:].expand(len(real), 1), real], 1), start < last.prompt)


def _padded_inside(real: Bool[Tensor, "batch pos"], in_parts: bool) -> str:
    """Why the padding of a prompt that is read in parts is in the wrong place; empty if it is not."""
    if in_parts and (real[:, :-1] & ~real[:, 1:]).any():
        return "a prompt with padding after its tokens is read in several passes; pad it on the left"
    return ""


def _reference(cache: Any) -> Callable[[], Any]:
    """A weak reference to a cache; without a cache, to nothing that could be one."""
    return (lambda: ...) if cache is None else weakref.ref(cache)


def _unsupported(values: Mapping[str, Any], hf: Any) -> str:
    """Why the options of `generate` hide which tokens are the prompt's; empty if they do not."""
    past = values.get("past_key_values")
    if past is not None and past.get_seq_length():
        return "generate continues from past_key_values, which hides its prompt; give it the whole text alone"
    active = [name for name, inert in UNSUPPORTED.items() if values.get(name, inert) not in (inert, False)]
    active += ["this model as its own assistant_model"] if values.get("assistant_model") is hf else []
    if not active:
        return ""
    reason = f"generate with {active[0]} runs passes of which it is not known whose tokens they read; leave it out"
    if active[0] in REMOTE and not values.get("trust_remote_code"):
        raise InterpError(reason)
    return reason


def _real(mask: Any, inputs: Tensor, start: int, cache: Any) -> tuple[Bool[Tensor, "batch pos"], str]:
    """Which tokens of a pass are no padding, and why that is unclear.

    A mask is of columns or, for static caches, of edges for each kind of attention. Only padding is hidden from itself.
    """
    (batch, width), whole = inputs.shape[:2], isinstance(mask, dict) and "full_attention" in mask
    if isinstance(mask, dict):
        mask = mask["full_attention"] if whole else next(iter(mask.values()))
    everywhere = torch.ones(batch, width, dtype=torch.bool, device=inputs.device)
    if mask is None:
        return everywhere, ""
    if isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] >= start + width:
        return mask[:, start : start + width].bool(), ""
    if isinstance(mask, Tensor) and mask.ndim == 4:
        first = 0 if whole or cache is None else cache.get_mask_sizes(width, 0)[1]  # the column that comes first
        seen = mask[:, 0].diagonal(start - first, 1, 2)
        if seen.shape[1] == width:
            return (seen if seen.dtype == torch.bool else seen > torch.finfo(seen.dtype).min / 2) & everywhere, ""
    shape = f"shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    return everywhere, f"a mask of {shape} hides which of {start + width} columns are padding; give (batch, columns)"


def _distance(real: Bool[Tensor, "batch pos"], start: int, prompt: int) -> Int[Tensor, "batch pos"]:
    """How many tokens each token is after the last one of its prompt; the columns of other passes hold no padding."""
    width = real.shape[1]
    if width == 1 and start >= prompt:
        return torch.full((len(real), 1), start - prompt + 1, device=real.device)
    inside = torch.arange(start, start + width, device=real.device) < prompt
    later = (real & inside).flip(1).cumsum(1).flip(1) - (real & inside).long()
    written = (real & ~inside).cumsum(1) + max(0, start - prompt)
    return written - later - max(0, prompt - start - width)
