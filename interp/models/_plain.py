"""PlainModel: a Hugging Face model, its named sites, and forward passes with functions attached at those sites.

`HookedModel` is built in three layers: this class; TransformerLens' methods (`transformer_lens`); and prompts, captured
activations, losses and generation (`hooked`).
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol, Self, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.calls import shown
from interp.core.errors import InterpError, note
from interp.models import tokens
from interp.models.architectures import table
from interp.models.architectures.table import Tap
from interp.models.architectures.writers import before_norm
from interp.models.chat_template import PromptedModel
from interp.models.forward_pass import ForwardPasses
from interp.models.hooks import HookFunction, HookPoint, Transform, attached, hook_function
from interp.models.identity import Digests, ModelReference
from interp.models.losses import next_token_losses
from interp.models.sites import Site, resolve
from interp.models.tokens import Beginning, Chat, Prompts, Tokens


@runtime_checkable
class Edits(Protocol):
    """What `hooked` needs of a recipe: functions, each with a site of the model or with a tap that is not a site."""

    @property
    def per_token(self) -> bool:
        """Whether the functions act on each token independently of the other tokens."""
        ...

    def bind(self, model: Any) -> Iterable[tuple[Site | Tap, Transform]]:
        """Pairs of site and function; raises if the recipe does not fit the model."""
        ...


class PlainModel(PromptedModel):
    """The base of `HookedModel`; see the module."""

    _noted = False  # whether it was said that texts are taken without the chat template

    def __init__(
        self,
        hf: Any,
        tokenizer: Any = None,
        name: str = "model in memory",
        source: str | None = None,
        revision: str | None = None,
    ):
        if not hasattr(hf, "get_output_embeddings") or isinstance(tokenizer, str):
            given = f"{shown(hf)} and the tokenizer {shown(tokenizer)}"
            raise InterpError(f"HookedModel takes a model and a tokenizer, not {given}; interp.load(name) loads both")
        self._taps = table.site_taps(hf.config)
        if hf.get_output_embeddings() is None:
            raise InterpError(f"{type(hf).__name__} has no unembedding; load a causal language model (…ForCausalLM)")
        self.hf = hf.eval()
        self.tokenizer = tokens.without_dropout(tokenizer)
        self.name = name
        self.source = source
        self.revision = revision
        self.template_variables = {}
        self.load_options: dict[str, Any] = {}  # with which `load` makes it again
        self.forward_passes = ForwardPasses()
        self._digests = Digests()
        self._open: list[bool] = []  # for each open `hooked` block: whether it acts on each token independently

    @property
    def config(self) -> Any:
        """The Hugging Face config."""
        return self.hf.config

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks."""
        return self.config.num_hidden_layers

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.config.hidden_size

    @property
    def context(self) -> int | None:
        """Maximum number of tokens in a prompt; None where the architecture sets no limit (ALiBi)."""
        return getattr(self.config, "max_position_embeddings", None)

    @property
    def device(self) -> torch.device:
        """The device of the weights; of offloaded ones, where the others are."""
        device = self.hf.device
        if device.type == "meta":
            return next((x.device for x in self.hf.parameters() if not x.is_meta), torch.device("cpu"))
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weights."""
        return self.hf.dtype

    @property
    def sites(self) -> list[Site]:
        """Every site, in the order of the forward pass."""
        return list(self._taps)

    @property
    def digest(self) -> str:
        """SHA-256 of the weights: of the values that the model computes with, whatever dtype they are in."""
        return self._digests.weights(self.hf).exact

    @property
    def reference(self) -> ModelReference:
        """Name, digests and shape of the model, for records that are made with it."""
        digests = self._digests.weights(self.hf)
        return self.shape.model_copy(update={"digest": digests.exact, "storage_digest": digests.storage})

    @property
    def shape(self) -> ModelReference:
        """`reference` without the digests of the weights, which take a pass over their bytes."""
        return ModelReference(
            name=self.name,
            digest="",
            revision=self.revision,
            model_type=self.config.model_type,
            d_model=self.d_model,
            n_layers=self.n_layers,
        )

    @property
    def identity(self) -> ModelReference:
        """`reference` plus the digest of config, tokenizer and generation settings, for records of measurements; and
        the chat template's variables, and the date that it prints, if it prints one."""
        variables = json.dumps(self.template_variables, sort_keys=True) if self.template_variables else ""
        chat = {"date": self.date if self.template.prints_date else "", "template": variables}
        return self.reference.model_copy(update={"settings": self.settings(), **chat})

    def settings(self, chat: bool = True) -> str:
        """SHA-256 of config, tokenizer, generation settings and, with `chat`, what decides how conversations read."""
        return self._digests.settings(self.hf, self.template, chat)

    def resolve(self, patterns: str | Site | Iterable[str | Site]) -> list[Site]:
        """The sites of this model that patterns name, in the order of the forward pass.

        Args:
            patterns: One or more of: a site (`resid_post.3` or `blocks.3.hook_resid_post`), a pattern over layers
                (`resid_post.*`, `mlp_out.2-4`), or `writers` for every site that writes into the residual stream.

        Raises:
            InterpError: A pattern names no site of this model; the message has the nearest site.

        Example:
            >>> [str(site) for site in model.resolve("mlp_out.2-4")]
            ['mlp_out.2', 'mlp_out.3', 'mlp_out.4']
        """
        return resolve(patterns, self.sites)

    def tokens(
        self,
        prompts: Prompts,
        cut: int | None = None,
        chat: Chat = False,
        rendered: bool = False,
        mask: Any = None,
        beginning: Beginning = "tokenizer",
    ) -> Tokens:
        """Tokenise prompts into a left-padded batch.

        Args:
            prompts: A text, a list of texts, token ids (a tensor (batch, pos), a list, or lists), or `Tokens`,
                which are returned as they are.
            cut: Keep only the first `cut` tokens of each prompt. Default: keep all.
            chat: Render texts as user messages with the chat template, where the tokenizer has one; what `chat` has
                rendered stays as it is. A mapping gives variables of the template. None does as False does, and notes
                once on standard error if the model has a template and the first text lacks it.
            rendered: Take plain texts as rendered ones, such as those read from a file: only the tokens of the text.
                Default: a text that `chat` has rendered, whose type says so, gets no other tokens; before a plain one
                comes what the tokenizer puts there, and an end token that it would append is left out.
            mask: Which token ids are real, (batch, pos), as `attention_mask` says. Default: all but padding, before and
                after; where the pad token also ends texts, ids that end with it need a mask.
            beginning: What comes before a plain text: what the tokenizer puts there (`tokenizer`), what begins a
                document of pretraining (`document`: `<|endoftext|>` in SmolLM2, whose tokenizer adds nothing), or
                nothing (`none`).

        Returns:
            Token ids and mask, both (batch, pos), on the CPU.

        Raises:
            InterpError: There are no prompts, a prompt is empty or longer than the context, a token id is outside the
                vocabulary, or what is padding cannot be known.

        Example:
            >>> batch = model.tokens(["The river of Belmor", "Hello"])
            >>> batch.lengths.tolist()
            [7, 4]
        """
        if chat not in (None, False) and not rendered:
            prompts = [self.render(text, chat) for text in tokens.texts_of(prompts)]
        elif chat is None and not rendered and not self._noted and tokens.lack_template(prompts, self.tokenizer):
            self._noted = True
            note(
                f"{self.name} is a chat model, and this text has no chat template; chat=True renders it, "
                "chat=False takes it as it is without this note"
            )
        first = [] if rendered else None if beginning == "tokenizer" else self.beginning(beginning)
        batch = tokens.tokenise(prompts, self.tokenizer, self.context, cut, first=first, mask=mask)
        vocabulary = self.hf.get_input_embeddings().num_embeddings
        outside = batch.ids[batch.mask & ((batch.ids < 0) | (batch.ids >= vocabulary))]
        if len(outside):
            raise InterpError(f"token id {int(outside[0])} is not in the model's vocabulary (0 to {vocabulary - 1})")
        return batch

    def tap(self, site: Site) -> Tap:
        """The place of a site in the module tree."""
        return self._taps[site]

    @contextmanager
    def hooked(
        self, recipe: Edits | Iterable[tuple[str | Site | Tap, HookFunction]], prompt: int | None = None
    ) -> Iterator[Self]:
        """Run the model with a recipe applied, for as long as the block lasts.

        The hooks are removed when the block ends, also after an exception. Blocks can be nested.

        Args:
            recipe: A recipe, or pairs of (site pattern, function). A function f(x) or f(x, hook) receives the
                activations at its site, (batch, pos, d_model) or with a head axis, and its `HookPoint` if it has a
                second parameter. It returns new activations of that shape, or None for no change.
            prompt: How many columns of the left-padded batch are the prompt. Default: those that `generate` is given,
                and without `generate` those of the pass that begins. It matters only to ops that act on the prompt or
                on the reply alone.

        Raises:
            InterpError: A pattern names no site, an op was fitted in another model, a function takes other arguments,
                or (in the forward pass) it returns something else than a tensor of the same shape.

        Example:
            >>> with model.hooked([("mlp_out.3", lambda x: 0 * x)]):
            ...     ablated = model.logits("The river of")
            >>> torch.equal(ablated, model.logits("The river of"))
            False
        """
        bound = recipe.bind(self) if isinstance(recipe, Edits) else self._bind(recipe)
        taps = [(where if isinstance(where, Tap) else self._taps[where], transform) for where, transform in bound]
        # The module that holds the layers: OPT's ForCausalLM calls its decoder past the base model.
        body = self.hf.get_submodule(table.architecture(self.config).layers.rpartition(".")[0])
        with self.forward_passes.prompted(prompt), self.forward_passes.watched(self.hf, body), attached(self.hf, taps):
            self._open.append(isinstance(recipe, Edits) and recipe.per_token)
            try:
                yield self
            finally:
                self._open.pop()

    def _bind(self, pairs: Iterable[tuple[str | Site | Tap, HookFunction]]) -> Iterator[tuple[Site | Tap, Transform]]:
        for patterns, function in pairs:
            # An op or an eraser records the model that it was fitted in.
            if isinstance(fitted_in := getattr(function, "model", None), ModelReference):
                fitted_in.check(self.reference, f"this {type(function).__name__}")
            if isinstance(patterns, Tap):
                yield patterns, function
                continue
            for site in self.resolve(patterns):
                yield site, hook_function(self.as_at(site, function), HookPoint(site))

    def as_at(self, site: Site, op: Any) -> Any:
        """An op as it acts at a site: at a raw output, in the coordinates before the norm."""
        return before_norm(op, site, self.config, self.hf.get_parameter)

    @property
    def is_hooked(self) -> bool:
        """Whether a recipe or hooks are applied: a `hooked` block is open."""
        return bool(self._open)

    def require_unhooked(self) -> None:
        """Raise inside a `hooked` block, where what is compared with the plain model would be under its hooks."""
        if self.is_hooked:
            raise InterpError(
                "the model is inside a hooked block; leave the block, or export the recipe and load the result"
            )

    @property
    def hooks_are_per_token(self) -> bool:
        """Whether every open `hooked` block acts on each token independently; true without any block."""
        return all(self._open)

    def forward_to(
        self,
        sites: list[Site],
        inputs: dict[str, Tensor],
        column: Int[Tensor, "batch chosen"] | None = None,
        keep_graph: bool = False,
        copy: bool = True,
    ) -> dict[Site, Tensor]:
        """Run a forward pass up to the last of some sites, and return the activations there.

        Args:
            sites: The sites to record.
            inputs: Keyword arguments of the Hugging Face model's forward, as `Tokens.model_inputs` makes them.
            column: Columns of each row to record. Default: all columns.
            keep_graph: Record what gradients need.
            copy: Copy the activations. Without a copy they may be the model's own tensors, which later steps of the
                forward pass can change in place.

        Returns:
            The activations by site, (batch, pos, d_model) or with a head axis.

        Raises:
            InterpError: A site is never computed in this forward pass.

        Example:
            >>> inputs = model.tokens("The river of").model_inputs(model.device)
            >>> site = interp.models.Site("resid_post", 2)
            >>> model.forward_to([site], inputs)[site].shape
            torch.Size([1, 4, 192])
        """
        activations: dict[Site, Tensor] = {}

        def record(site: Site, x: Tensor) -> None:
            if column is not None:
                activations[site] = x[torch.arange(len(column))[:, None], column]
            else:
                activations[site] = x.clone() if copy else x
            if len(activations) == len(sites):
                raise _Reached

        taps = [(self._taps[site], partial(record, site)) for site in sites]
        with attached(self.hf, taps), torch.set_grad_enabled(keep_graph):
            try:
                self.hf.base_model(**inputs, use_cache=False)
            except _Reached:
                return activations
        missing = ", ".join(str(site) for site in sites if site not in activations)
        raise InterpError(f"sites never computed in the forward pass: {missing}")

    def forward(self, batch: Tokens, last: int = 0) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits of a batch, with the graph that gradients need unless gradients are switched off.

        Args:
            batch: The tokens.
            last: Compute the logits at this many last positions only. Default 0: at all positions.

        Example:
            >>> model.forward(model.tokens("The river of"), last=1).shape
            torch.Size([1, 1, 1280])
        """
        head = self.hf.get_output_embeddings()
        # Of the last columns a copy is multiplied: with frozen weights, torch multiplies a view row by row, with a copy
        # of the unembedding for each.
        hook = head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(), *inputs[1:]))
        try:
            return self.hf(**batch.model_inputs(self.device), use_cache=False, logits_to_keep=last).logits
        finally:
            hook.remove()

    def mean_loss(self, batch: Tokens) -> Float[Tensor, ""]:
        """Mean next-token cross-entropy of a batch, in nats per token, with the graph that gradients need.

        Args:
            batch: The tokens. The first token of each row is not predicted.

        Raises:
            InterpError: No row has two tokens.

        Example:
            >>> loss = model.mean_loss(model.tokens("The river is the Nim."))
            >>> loss.requires_grad, round(loss.item(), 2)
            (True, 4.11)
        """
        if not batch.predicted.any():
            raise InterpError("loss needs a text of at least two tokens: the first token is not predicted")
        return next_token_losses(self.forward(batch), batch.ids, batch.predicted).mean()


class _Reached(Exception):
    """Every site is recorded: the rest of the forward pass is not needed."""
