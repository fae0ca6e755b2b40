"""HookedModel: a plain Hugging Face model under TransformerLens' site names.

The Hugging Face model is the source of truth: its own attention, its own weights, its own basis. Nothing is folded or
centred, so a direction found here is in the checkpoint's coordinates and can be written back into it.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import GenerationConfig

from interp.core.display import html_card
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models import tokens, transformer_lens
from interp.models.architectures import table
from interp.models.architectures.table import Tap
from interp.models.capture import Activations, position_columns
from interp.models.forward_pass import ForwardPasses
from interp.models.generation import greedy_settings
from interp.models.hooks import Transform, attached
from interp.models.identity import Digests, ModelReference
from interp.models.losses import next_token_losses
from interp.models.sites import Site, resolve
from interp.models.tokens import Prompts, Tokens


@runtime_checkable
class Edits(Protocol):
    """What `hooked` needs of a recipe: its functions, each at one site of this model, or at a tap that is no site."""

    @property
    def tokenwise(self) -> bool:
        """Whether they do to each token what they would do to it alone."""
        ...

    def bind(self, model: "HookedModel") -> Iterable[tuple[Site | Tap, Transform]]:
        """Pairs of site and function; raises if the recipe does not fit the model."""
        ...


@runtime_checkable
class MadeFor(Protocol):
    """A function that says which model it was fitted in: an op, an eraser."""

    model: ModelReference | None


class HookedModel:
    """See the module. Make one with `interp.load`."""

    def __init__(
        self,
        hf: Any,
        tokenizer: Any = None,
        name: str = "model in memory",
        source: str | None = None,
        revision: str | None = None,
    ):
        self._taps = table.sites(hf.config)
        if hf.get_output_embeddings() is None:
            raise InterpError(f"{type(hf).__name__} has no unembedding; load a causal language model (…ForCausalLM)")
        self.hf = hf.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.source = source
        self.revision = revision
        self._digests = Digests()
        self._bridge: tuple[Any, Any] | None = None
        self.passes = ForwardPasses()
        self._instruction = ""
        self._open: list[bool] = []  # of each `hooked` block: whether it acts on each token by itself

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.hf.config

    @property
    def n_layers(self) -> int:
        """Number of blocks."""
        return self.config.num_hidden_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.config.hidden_size

    @property
    def context(self) -> int | None:
        """Most tokens of a prompt; None where the architecture sets no limit (ALiBi)."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def packs(self) -> bool:
        """Whether documents packed into one row, position ids restarting, stay apart in this architecture."""
        return table.architecture(self.config).packs

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.hf.dtype

    @property
    def sites(self) -> list[Site]:
        """Every site, in the order of the forward pass."""
        return list(self._taps)

    @property
    def digest(self) -> str:
        """SHA-256 that identifies the weights, whatever type they were loaded in; see `tensors_digest`."""
        return self._digests.weights(self.hf)

    @property
    def reference(self) -> ModelReference:
        """Name, digest and shape, for records made with this model."""
        return ModelReference(
            name=self.name,
            digest=self.digest,
            revision=self.revision,
            model_type=self.config.model_type,
            d_model=self.d_model,
            n_layers=self.n_layers,
        )

    @property
    def identity(self) -> ModelReference:
        """`reference`, and the digest of what else decides its output: for records of what was measured."""
        return self.reference.model_copy(update={"settings": self._digests.settings(self.hf, self.tokenizer)})

    def resolve(self, patterns: str | Site | Iterable[str | Site]) -> list[Site]:
        """The sites that patterns such as `resid_post.*` or `writers` name here; raises for one that names none."""
        return resolve(patterns, self.sites)

    def tokens(self, prompts: Prompts, cut: int | None = None) -> Tokens:
        """A left-padded batch of token ids; `cut` keeps the first so many of each prompt."""
        batch = tokens.tokenise(prompts, self.tokenizer, self.context, cut)
        vocabulary = self.hf.get_input_embeddings().num_embeddings
        outside = batch.ids[batch.mask & ((batch.ids < 0) | (batch.ids >= vocabulary))]
        if len(outside):
            raise InterpError(f"token id {int(outside[0])} is not in the model's vocabulary (0 to {vocabulary - 1})")
        return batch

    def chat(self, messages: str | Sequence[dict[str, str]]) -> str:
        """A conversation (or one user message) rendered with the chat template, ready for the model's reply."""
        return tokens.render_chat(messages, self.tokenizer, self._instruction)

    def render(self, prompt: str, chat: bool = True) -> str:
        """A prompt as the model expects it: a user's message where there is a chat template, else as it is.

        Without `chat` it is as it is, too. An instruction comes before it in any case.
        """
        if chat and self.tokenizer is not None and self.tokenizer.chat_template:
            return self.chat(prompt)
        return f"{self._instruction}\n\n{prompt}" if self._instruction else prompt

    @contextmanager
    def instructed(self, instruction: str) -> Iterator["HookedModel"]:
        """Render prompts with an instruction before them: a system message, or text before the first message."""
        before, self._instruction = self._instruction, instruction
        try:
            yield self
        finally:
            self._instruction = before

    @contextmanager
    def hooked(
        self, recipe: Edits | Iterable[tuple[str | Site | Tap, Transform]], prompt: int | None = None
    ) -> Iterator["HookedModel"]:
        """Run with a recipe, or with pairs of (site pattern, function), applied; removed whatever happens inside.

        `prompt` is how many columns of the left-padded batch are the prompt, where a pass is given a reply with it;
        everything is, if not given. It matters to ops that act on one of them only.

        >>> with model.hooked([("mlp_out.3", lambda x: 0 * x)]):  # doctest: +SKIP
        ...     model.logits("The river of")
        """
        bound = recipe.bind(self) if isinstance(recipe, Edits) else self._bind(recipe)
        taps = [(where if isinstance(where, Tap) else self._taps[where], transform) for where, transform in bound]
        # The module that holds the layers: OPT's ForCausalLM calls its decoder past the base model.
        body = self.hf.get_submodule(table.architecture(self.config).layers.rpartition(".")[0])
        with self.passes.prompted(prompt), self.passes.watched(body), attached(self.hf, taps):
            self._open.append(isinstance(recipe, Edits) and recipe.tokenwise)
            try:
                yield self
            finally:
                self._open.pop()

    def _bind(self, pairs: Iterable[tuple[str | Site | Tap, Transform]]) -> list[tuple[Site | Tap, Transform]]:
        pairs = list(pairs)
        for _, function in pairs:
            if isinstance(function, MadeFor) and isinstance(function.model, ModelReference):
                function.model.check(self.reference, f"this {type(function).__name__}")
        return [
            (where, function)
            for patterns, function in pairs
            for where in ([patterns] if isinstance(patterns, Tap) else self.resolve(patterns))
        ]

    @torch.no_grad()
    def capture(
        self,
        prompts: Prompts,
        sites: str | Site | Iterable[str | Site],
        positions: int | Sequence[int] | None = None,
        batch_size: int = 32,
        copy: bool = True,
    ) -> Activations:
        """Copies of the activations at sites, stopping each forward pass at the last of them.

        `positions` chooses tokens of each prompt: from its first token, or from its end if negative. All by default.
        `copy=False` spares the copy where prompts fit into one batch: you may get the model's own tensors, to be read
        at once and never written to.
        """
        _require_positive("batch_size", batch_size)
        wanted, batch = self.resolve(sites), self.tokens(prompts)
        chosen = position_columns(batch, positions)
        width = batch.ids.shape[1]
        parts: list[dict[Site, Tensor]] = []
        for start in range(0, len(batch), batch_size):
            rows = batch.rows(start, start + batch_size)
            column = None if chosen is None else chosen[start : start + batch_size] - (width - rows.ids.shape[1])
            part = self.forward_to(wanted, rows.model_inputs(self.device), column, copy=copy)
            parts.append(part if chosen is not None else {site: _pad_left(x, width) for site, x in part.items()})
        picked = None if positions is None else ((positions,) if isinstance(positions, int) else tuple(positions))
        joined = parts[0] if len(parts) == 1 else {site: torch.cat([part[site] for part in parts]) for site in wanted}
        return Activations({site: joined[site] for site in wanted}, batch, picked)

    def forward_to(
        self,
        wanted: list[Site],
        inputs: dict[str, Tensor],
        column: Int[Tensor, "batch chosen"] | None = None,
        keep_graph: bool = False,
        copy: bool = True,
    ) -> dict[Site, Tensor]:
        """Copies of the activations at sites for a Hugging Face forward's inputs; stops at the last site reached.

        `column` chooses columns of each row; only they are copied. `keep_graph` records what gradients need. Without
        `copy` the model's own tensors may be returned, which later steps of the pass could change in place.
        """
        found: dict[Site, Tensor] = {}

        def keep(site: Site) -> Transform:
            def record(x: Tensor) -> None:
                if column is not None:
                    found[site] = x[torch.arange(len(column))[:, None], column]
                else:
                    found[site] = x.clone() if copy else x
                if len(found) == len(wanted):
                    raise _Reached

            return record

        taps = [(self._taps[site], keep(site)) for site in wanted]
        with attached(self.hf, taps), torch.set_grad_enabled(keep_graph):
            try:
                self.hf.base_model(**inputs, use_cache=False)
            except _Reached:
                return found
        missing = ", ".join(str(site) for site in wanted if site not in found)
        raise InterpError(f"sites never computed in the forward pass: {missing}")

    @torch.no_grad()
    def logits(self, prompts: Prompts, last: int = 0) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits at every position of the left-padded batch; padding columns hold no meaning.

        `last`, if not 0, computes them at so many last positions only, which spares most of the unembedding.
        """
        return self.forward(self.tokens(prompts), last)

    def forward(self, batch: Tokens, last: int = 0) -> Float[Tensor, "batch pos d_vocab"]:
        """As `logits`, for a batch of tokens, with the graph that gradients need unless they are switched off."""
        return self.hf(**batch.model_inputs(self.device), use_cache=False, logits_to_keep=last).logits

    def mean_loss(self, batch: Tokens) -> Float[Tensor, ""]:
        """Mean next-token cross-entropy of a batch in nats, with the graph that gradients need."""
        if not batch.predicted.any():
            raise InterpError("loss needs a text of at least two tokens: the first token is not predicted")
        return next_token_losses(self.forward(batch), batch.ids, batch.predicted).mean()

    def loss(self, prompts: Prompts, batch_size: int = 16) -> float:
        """Mean next-token cross-entropy in nats over all tokens of all texts, each token counted once."""
        batch = self.tokens(prompts)
        total, count = 0.0, 0
        for start in range(0, len(batch), batch_size):
            rows = batch.rows(start, start + batch_size)
            losses = next_token_losses(self.logits(rows), rows.ids, rows.predicted)
            total, count = total + float(losses.double().sum()), count + len(losses)
        if not count:
            raise InterpError("loss needs a text of at least two tokens: the first token is not predicted")
        return total / count

    def generate(
        self,
        prompts: Prompts,
        recipe: Edits | Iterable[tuple[str | Site, Transform]] = (),
        max_new_tokens: int = 64,
        batch_size: int = 64,
        **options: Any,
    ) -> list[str]:
        """The model's continuations as text, special tokens dropped; greedy unless `options` (Hugging Face's) say not.

        `recipe` is applied to prompt and generated tokens alike.
        """
        _require_positive("batch_size", batch_size)
        _require_positive("max_new_tokens", max_new_tokens)
        batch = self.tokens(prompts)
        self._require_room(batch, max_new_tokens)
        starts = range(0, len(batch), batch_size)
        settings = self._greedy(max_new_tokens)
        rest = settings.update(**options)
        replies: list[str] = []
        with self.hooked(recipe), torch.no_grad():
            for start in track(starts, "generate", total=len(starts)) if len(starts) > 4 else starts:
                rows = batch.rows(start, start + batch_size)
                inputs = rows.prompt_inputs(self.device)
                with self.passes.prompted(rows.ids.shape[1]):
                    out = self.hf.generate(**inputs, generation_config=settings, **rest)
                replies += self.tokenizer.batch_decode(out[:, rows.ids.shape[1] :], skip_special_tokens=True)
        return replies

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        """Of the checkpoint's own settings only its end token is kept."""
        if self.tokenizer is None:
            raise InterpError("this model has no tokenizer, so it can't write text; load it with load(..., tokenizer=)")
        pad, own = self.tokenizer.pad_token_id, self.hf.generation_config
        ends = own.eos_token_id if own is not None else self.config.eos_token_id
        return greedy_settings(max_new_tokens, ends, 0 if pad is None else pad)

    def _require_room(self, batch: Tokens, new: int) -> None:
        longest = int(batch.lengths.max())
        if self.context is not None and longest + new > self.context:
            raise InterpError(
                f"prompt {int(batch.lengths.argmax())} has {longest} tokens, and {new} new ones would pass the model's "
                f"context of {self.context}; lower max_new_tokens or shorten the prompt"
            )

    @property
    def bridge(self) -> Any:
        """A TransformerLens TransformerBridge that shares this model's weights, for analyses written for it.

        It has hooks of its own: a recipe applied with `hooked` does not reach it. Built when first asked for, and anew
        after the model moved, or was edited where the bridge holds copies (fused q, k and v).
        """
        from interp.models.bridge import build

        fused = () if table.architecture(self.config).qkv else self.hf.parameters()
        stamp = (self.device, self.dtype, [(x.data_ptr(), x._version) for x in fused])
        if self._bridge is None or self._bridge[0] != stamp:
            self._bridge = (stamp, build(self.hf, self.tokenizer))
        return self._bridge[1]

    def compatibility_bridge(self, **options: Any) -> Any:
        """A bridge in TransformerLens' compatibility mode (folded norms, centred weights) on a full copy of the model.

        `options` are those of `enable_compatibility_mode`. Its edits and this model's do not show in each other.
        """
        from interp.models.bridge import build

        bridge = build(self.hf, self.tokenizer, share=False)
        bridge.enable_compatibility_mode(**options)
        return bridge

    @property
    def cfg(self) -> Any:
        """TransformerLens' configuration of this model."""
        return self.bridge.cfg

    @property
    def hook_dict(self) -> dict[str, transformer_lens.HookPoint]:
        """The sites under TransformerLens' names; `bridge.hook_dict` has those that no module computes, too."""
        return {site.hook_name: transformer_lens.HookPoint(site) for site in self.sites}

    @property
    def inside_hooked(self) -> bool:
        """Whether a `hooked` block is open."""
        return bool(self._open)

    @property
    def tokenwise(self) -> bool:
        """Whether all open `hooked` blocks act on each token by itself, wherever it stands; so without any."""
        return all(self._open)

    def hooks(
        self, fwd_hooks: transformer_lens.Hooks = (), bwd_hooks: transformer_lens.Hooks = ()
    ) -> AbstractContextManager["HookedModel"]:
        """TransformerLens' `hooks`: functions `f(tensor, hook)` attached by name within a block; see `run_with_hooks`.

        A backward function is given the gradient at its site, and may return another; it fires for graphs made inside
        the block, even if the backward pass comes later.
        """
        return transformer_lens.hooks(self, fwd_hooks, bwd_hooks)

    def run_with_hooks(
        self,
        prompts: Prompts,
        fwd_hooks: transformer_lens.Hooks = (),
        bwd_hooks: transformer_lens.Hooks = (),
        return_type: transformer_lens.Returned = "logits",
        stop_at_layer: int | None = None,
    ) -> Tensor | None:
        """TransformerLens' `run_with_hooks` on the plain model: logits, the mean loss, or a residual stream.

        Hooks are `(name, f(tensor, hook))`; a name may be a filter on names, or a pattern such as `mlp_out.*`. A loss,
        and whatever backward hooks see, comes with its graph. Raises for names that are no site here and for hooks that
        would never fire.
        """
        return transformer_lens.run_with_hooks(self, prompts, fwd_hooks, bwd_hooks, return_type, stop_at_layer)

    def run_with_cache(
        self,
        prompts: Prompts,
        names_filter: transformer_lens.Names = None,
        *,
        stop_at_layer: int | None = None,
        pos_slice: transformer_lens.LensPositions = None,
        remove_batch_dim: bool = False,
        incl_bwd: bool = False,
        return_type: transformer_lens.Returned = "logits",
    ) -> tuple[Tensor | None, Any]:
        """TransformerLens' `run_with_cache`: the output, and an ActivationCache of copies.

        Names that modules compute come from the plain model, padding and recipes included; others, and all names at
        once (no filter), from the bridge, for which prompts must have one length and no recipe be applied. `incl_bwd`
        adds gradients of the loss as NAME_grad. Raises for unknown names and for those that never fire.
        """
        return transformer_lens.run_with_cache(
            self, prompts, names_filter, stop_at_layer, pos_slice, remove_batch_dim, incl_bwd, return_type
        )

    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Token ids, left-padded. `prepend_bos` None is the tokenizer's own rule; True or False overrides it.

        Given back to this model, leading pad tokens are padding again. Raises where prompts of different lengths meet a
        tokenizer without a pad token: `tokens` keeps a mask.
        """
        batch = tokens.tokenise(text, self.tokenizer, self.context, prepend_bos=prepend_bos)
        if self.tokenizer.pad_token_id is None and not batch.mask.all():
            raise InterpError("prompts have different lengths and the tokenizer has no pad token; use model.tokens")
        return batch.ids

    def to_str_tokens(
        self, text: str | Sequence[str] | Int[Tensor, "*batch pos"], prepend_bos: bool | None = None
    ) -> list[str] | list[list[str]]:
        """The tokens of a text, or of ids, each as text, without padding; of several prompts, a list for each."""
        batch = tokens.tokenise(text, self.tokenizer, self.context, prepend_bos=prepend_bos)
        each = [
            [self.tokenizer.decode([token], clean_up_tokenization_spaces=False) for token in ids[real].tolist()]
            for ids, real in zip(batch.ids, batch.mask, strict=True)
        ]
        return each[0] if isinstance(text, str) or (isinstance(text, Tensor) and text.ndim == 1) else each

    def _repr_html_(self) -> str:
        parameters = sum(p.numel() for p in self.hf.parameters())
        size = [("parameters", f"{parameters:,}"), ("layers", self.n_layers), ("d_model", self.d_model)]
        return html_card(
            f"HookedModel {self.name}", [("architecture", self.config.model_type), *size, ("dtype", self.dtype)]
        )


class _Reached(Exception):
    """Every wanted site has been seen: the rest of the forward pass is not needed."""


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InterpError(f"{name} is {value}; expected at least 1")


def _pad_left(x: Tensor, width: int) -> Tensor:
    missing = width - x.shape[1]
    return x if not missing else torch.cat([x.new_zeros(x.shape[0], missing, *x.shape[2:]), x], dim=1)
