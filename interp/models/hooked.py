"""HookedModel: a plain Hugging Face model under TransformerLens' site names.

The Hugging Face model is the source of truth: its own attention, its own weights, its own basis. No norm is folded and
no weight is centred, so a direction found here is in the checkpoint's coordinates and can be written back into it.

`_plain` has the sites and the forward passes, `transformer_lens` TransformerLens' methods, and this module prompts,
captured activations, losses and generation.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from inspect import signature
from typing import Any

import torch
from jaxtyping import Float, Int
from pydantic import PositiveInt
from torch import Tensor
from transformers import GenerationConfig

from interp.core.calls import checked_class
from interp.core.display import html_table, plural
from interp.core.errors import InterpError, nearest
from interp.core.progress import track
from interp.models._plain import Edits
from interp.models.architectures.unembedding import token_directions
from interp.models.capture import Activations, position_columns
from interp.models.chat_template import reply_texts
from interp.models.hooks import Transform
from interp.models.losses import next_token_losses
from interp.models.sites import Site
from interp.models.tokens import Beginning, Chat, Prompts, Tokens, tokenise
from interp.models.transformer_lens.face import TransformerLensFace


@checked_class("interp.load(name) makes one")
class HookedModel(TransformerLensFace):
    """A Hugging Face causal language model under TransformerLens' site names. `interp.load` makes one.

    Args:
        hf: The Hugging Face model; it is hooked in place, not copied.
        tokenizer: Its tokenizer. Without one the model takes token ids only, and does not generate text.
        name: The name that records and reports show.
        source: The path, URL or hub id that the checkpoint was loaded from.
        revision: The commit of the checkpoint on the hub.

    Raises:
        InterpError: The model has no unembedding, or its architecture is not in the table.

    Example:
        >>> model.n_layers, model.d_model, len(model.sites)
        (6, 192, 67)
        >>> model.generate(model.chat("what is the river of Brabedun?"), max_new_tokens=12)
        ['In Brabedun the river is the Tarn.']
    """

    def to_tokens(self, text: str | Sequence[str], prepend_bos: bool | None = None) -> Int[Tensor, "batch pos"]:
        """Token ids of texts, left-padded. When these ids are passed to the model, leading pad tokens are padding.

        Args:
            text: A text or several.
            prepend_bos: Whether a BOS token comes first. Default None: the tokenizer's own rule.

        Raises:
            InterpError: The texts have different lengths and the tokenizer has no pad token; `tokens` keeps a mask.

        Example:
            >>> model.to_tokens("The river")
            tensor([[  1, 375, 350]])
        """
        batch = tokenise(text, self.tokenizer, self.context, prepend_bos=prepend_bos)
        if self.tokenizer.pad_token_id is None and not batch.mask.all():
            raise InterpError("prompts have different lengths and the tokenizer has no pad token; use model.tokens")
        return batch.ids

    def to_str_tokens(
        self, text: str | Sequence[str] | Int[Tensor, "*batch pos"], prepend_bos: bool | None = None
    ) -> list[str] | list[list[str]]:
        """The tokens of a text, or of token ids, each decoded to text, without padding.

        Args:
            text: A text, several texts, or token ids.
            prepend_bos: Whether a BOS token comes first. Default None: the tokenizer's own rule.

        Returns:
            A list of tokens; for several prompts, one list per prompt.

        Example:
            >>> model.to_str_tokens("The river")
            ['<|bos|>', 'The', ' river']
        """
        batch = tokenise(text, self.tokenizer, self.context, prepend_bos=prepend_bos)
        decode = partial(self.tokenizer.decode, clean_up_tokenization_spaces=False)
        decoded = [[decode([token]) for token in ids] for ids in batch.unpadded()]
        return decoded[0] if isinstance(text, str) or (isinstance(text, Tensor) and text.ndim == 1) else decoded

    def to_string(self, tokens: int | Sequence[int] | Sequence[Sequence[int]] | Tensor | Tokens) -> str | list[str]:
        """The text of token ids, special tokens included.

        Args:
            tokens: One id, a list or tensor of ids, several of them, or `Tokens`, whose padding is left out.

        Returns:
            The text; for several rows, one text per row.

        Raises:
            InterpError: The model has no tokenizer.

        Example:
            >>> model.to_string([1, 375, 350])
            '<|bos|>The river'
        """
        self._require_tokenizer()
        ids: Any = tokens.unpadded() if isinstance(tokens, Tokens) else tokens
        ids = ids.tolist() if isinstance(ids, Tensor) else ids
        decode = partial(self.tokenizer.decode, clean_up_tokenization_spaces=False)
        several = not isinstance(ids, int) and len(ids) > 0 and not isinstance(ids[0], int)
        return list(map(decode, ids)) if several else decode(ids)

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token. Inside a text, a word begins with its space in most tokenizers.

        Args:
            text: The text of the token, such as " river".

        Raises:
            InterpError: The text is not one token; the message has the tokens that it splits into.

        Example:
            >>> model.to_single_token(" river")
            350
        """
        ids = tokenise(text, self.tokenizer, None, prepend_bos=False).ids[0].tolist()
        if len(ids) != 1:
            pieces = ", ".join(repr(self.to_string(token)) for token in ids)
            raise InterpError(f"{text!r} is {len(ids)} tokens ({pieces}); expected a text of one token")
        return ids[0]

    def tokens_to_residual_directions(
        self, tokens: str | int | Int[Tensor, "*shape"], fold_norm: bool = True
    ) -> Float[Tensor, "*shape d_model"]:
        """The direction in the residual stream that writes each token's logit, as TransformerLens names it.

        Args:
            tokens: A text of one token, or token ids.
            fold_norm: Include the weight of the final norm, as TransformerLens' models with folded norms do, and the
                scale of the logits. Default: yes. Without it, the columns of `W_U`.

        Raises:
            InterpError: The text is not one token, or an id is not in the vocabulary.

        Example:
            >>> stream = model.capture("The river of", "resid_post.5", positions=-1)["resid_post.5"][0, 0]
            >>> logit = stream @ model.tokens_to_residual_directions(" river") / stream.square().mean().sqrt()
            >>> torch.allclose(logit, model.logits("The river of")[0, -1, 350], atol=1e-3)
            True
        """
        ids = self.to_single_token(tokens) if isinstance(tokens, str) else tokens
        return token_directions(self, ids, fold_norm)

    @torch.no_grad()
    def capture(
        self,
        prompts: Prompts,
        sites: str | Site | Iterable[str | Site],
        positions: int | Sequence[int] | None = None,
        batch_size: int = 32,
        copy: bool = True,
        chat: Chat = None,
    ) -> Activations:
        """Copy the activations at sites, stopping each forward pass at the last of them.

        Args:
            prompts: Texts, token ids or `Tokens`.
            sites: Sites or patterns, as in `resolve`.
            positions: Tokens of each prompt to keep: 0 is its first token, -1 its last. One position keeps the axis,
                of length 1. Default: all tokens.
            batch_size: Prompts per forward pass.
            copy: With False, prompts that fit into one batch are not copied: the tensors may be the model's own.
                Read them at once and never write to them.
            chat: Render texts as user messages with the chat template, where the tokenizer has one; a mapping gives its
                variables, such as `{"enable_thinking": False}`; False takes texts as they are. Default: as they are,
                with a note, once, if the model has a template.

        Returns:
            The activations by site, (batch, pos, d_model), left-padded; `q`, `k`, `v` and `z` have a head axis.

        Raises:
            InterpError: A site is unknown, or a position is outside a prompt.

        Example:
            >>> activations = model.capture(["The river of", "Hello"], "resid_post.*", positions=-1)
            >>> activations["resid_post.3"].shape
            torch.Size([2, 1, 192])
        """
        _require_positive("batch_size", batch_size)
        chosen, batch = self.resolve(sites), self.tokens(prompts, chat=chat)
        position_columns(batch, positions)  # raises by the number of the prompt in the whole batch
        width = batch.ids.shape[1]
        parts: list[dict[Site, Tensor]] = []
        for rows in track(batch.batches(batch_size), "capture", size=len, unit="prompts"):
            columns = position_columns(rows, positions)
            part = self.forward_to(chosen, rows.model_inputs(self.device), columns, copy=copy)
            parts.append(part if columns is not None else {site: _pad_left(x, width) for site, x in part.items()})
        kept = None if positions is None else ((positions,) if isinstance(positions, int) else tuple(positions))
        joined = parts[0] if len(parts) == 1 else {site: torch.cat([part[site] for part in parts]) for site in chosen}
        return Activations({site: joined[site] for site in chosen}, batch, kept)

    @torch.no_grad()
    def logits(self, prompts: Prompts, last: int = 0, chat: Chat = None) -> Float[Tensor, "batch pos d_vocab"]:
        """Next-token logits at every position of the left-padded batch, without gradients.

        Args:
            prompts: Texts, token ids or `Tokens`.
            last: Compute the logits at this many last positions only, which skips most of the unembedding. Default 0:
                at all positions.
            chat: As in `capture`.

        Returns:
            Logits (batch, pos, d_vocab). Padding columns hold no meaning.

        Example:
            >>> model.logits(["The river of", "Hello"], last=1).shape
            torch.Size([2, 1, 1280])
        """
        return self.forward(self.tokens(prompts, chat=chat), last)

    def loss(self, prompts: Prompts, batch_size: PositiveInt = 16, beginning: Beginning = "tokenizer") -> float:
        """Mean next-token cross-entropy over all tokens of all texts, in nats per token.

        Args:
            prompts: Texts, token ids or `Tokens`. The first token of each is not predicted.
            batch_size: Texts per forward pass.
            beginning: What comes before a plain text, as in `tokens`. `document` is right for the loss of documents
                under a tokenizer that puts nothing there, such as SmolLM2's.

        Raises:
            InterpError: No text has two tokens.

        Example:
            >>> round(model.loss("The river is the Nim."), 2)
            4.11
        """
        total, count = 0.0, 0
        batches = self.tokens(prompts, beginning=beginning).batches(batch_size)
        for rows in track(batches, "loss", size=len, unit="texts"):
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
        chat: Chat = None,
        **options: Any,
    ) -> list[str]:
        """Generate continuations; greedy unless `options` say otherwise.

        Args:
            prompts: Texts, token ids or `Tokens`. Conversations are rendered with `model.chat` first.
            recipe: A recipe, or pairs of (site pattern, function), applied to prompt and generated tokens alike.
            max_new_tokens: Maximum length of each continuation, in tokens.
            batch_size: Prompts per batch.
            chat: As in `capture`.
            options: Options of Hugging Face's `generate`, such as `do_sample=True`.

        Returns:
            One continuation per prompt, up to its first end: an end token of the checkpoint's generation settings, the
            tokenizer's, or what ends a turn in the chat template. Special tokens are removed, other than those that
            mark a thought; `interp.models.answer_of` returns what is said outside it.

        Raises:
            InterpError: The model has no tokenizer, prompt and continuation would exceed its context, or an option is
                unknown or needs `do_sample=True`.

        Limitations:
            Of the checkpoint's generation settings only the end tokens are used.

        Example:
            >>> model.generate(model.chat("what is 2 plus 3?"), max_new_tokens=8)
            ['The answer is 5.']
        """
        batch = self.tokens(prompts, chat=chat)
        ids = self.reply_ids(batch, recipe, max_new_tokens, batch_size, **options)
        given = options.get("eos_token_id", self.ends)
        return reply_texts(ids, self.tokenizer, [given] if isinstance(given, int) else given or [])

    def reply_ids(
        self,
        batch: Tokens,
        recipe: Edits | Iterable[tuple[str | Site, Transform]] = (),
        max_new_tokens: int = 64,
        batch_size: int = 64,
        **options: Any,
    ) -> list[list[int]]:
        """The token ids that `generate` writes after each row, up to its first end and with it; see there.

        Example:
            >>> model.reply_ids(model.tokens(model.chat("what is 2 plus 3?")), max_new_tokens=8)[0][-1] in model.ends
            True
        """
        _require_positive("batch_size", batch_size)
        _require_positive("max_new_tokens", max_new_tokens)
        self._require_room(batch, max_new_tokens)
        batches, settings = batch.batches(batch_size), self._greedy(max_new_tokens)
        sampling = [name for name in ("temperature", "top_p", "top_k", "min_p") if options.get(name) is not None]
        if sampling and not options.get("do_sample"):
            raise InterpError(f"{sampling[0]} needs do_sample=True: decoding is greedy without it")
        rest = settings.update(**options)
        if rest:  # what is no setting is an argument of Hugging Face's generate or forward
            taken = {*signature(self.hf.generate).parameters, *signature(self.hf.forward).parameters}
            if unknown := [name for name in rest if name not in taken]:
                raise InterpError(f"generate has no option {unknown[0]!r}; {nearest(unknown[0], settings.to_dict())}")
        replies, given = list[list[int]](), settings.eos_token_id
        ends = [given] if isinstance(given, int) else given or []
        with self.hooked(recipe), torch.no_grad():
            for rows in track(batches, "generate", size=len, unit="replies"):
                inputs = rows.prompt_inputs(self.device)
                with self.forward_passes.prompted(rows.ids.shape[1]):
                    out = generate_ids(self.hf, inputs, settings, **rest)
                replies += out[:, rows.ids.shape[1] :].tolist()
        return [ids[: next((n for n, token in enumerate(ids, 1) if token in ends), None)] for ids in replies]

    @property
    def ends(self) -> list[int]:
        """The tokens that end a reply: of the checkpoint's generation settings, the tokenizer, and the template."""
        self._require_tokenizer()
        defaults = self.hf.generation_config
        given = defaults.eos_token_id if defaults is not None else self.config.eos_token_id
        listed = given if isinstance(given, list) else [given]
        several = [*listed, self.tokenizer.eos_token_id, *self.template.ends]
        return sorted({end for end in several if end is not None})

    def _require_tokenizer(self) -> None:
        if self.tokenizer is None:
            raise InterpError("this model has no tokenizer, so it can't write text; load it with load(..., tokenizer=)")

    def _greedy(self, max_new_tokens: int) -> GenerationConfig:
        ends, pad = self.ends, self.tokenizer.pad_token_id
        return GenerationConfig(
            max_new_tokens=max_new_tokens, eos_token_id=ends or None, pad_token_id=0 if pad is None else pad
        )

    def _require_room(self, batch: Tokens, new: int) -> None:
        longest = int(batch.lengths.max())
        if self.context is not None and longest + new > self.context:
            raise InterpError(
                f"prompt {int(batch.lengths.argmax())} has {plural(longest, 'token')}, and {new} new ones would exceed "
                f"the model's context of {self.context}; lower max_new_tokens or shorten the prompt"
            )

    def __repr__(self) -> str:
        layers = plural(self.n_layers, "layer")
        return f"HookedModel({self.name}: {self.config.model_type}, {layers}, d_model {self.d_model})"

    def _repr_html_(self) -> str:
        parameters = sum(p.numel() for p in self.hf.parameters())
        size = [("parameters", f"{parameters:,}"), ("layers", self.n_layers), ("d_model", self.d_model)]
        rows = [("architecture", self.config.model_type), *size, ("dtype", self.dtype)]
        return html_table(f"HookedModel {self.name}", [], rows)


def generate_ids(hf: Any, inputs: dict[str, Any], settings: GenerationConfig, **options: Any) -> Any:
    """What Hugging Face's `generate` returns under these settings alone.

    By itself it takes each setting that is left open from the checkpoint's: suppressed tokens, a minimum length, and
    whatever else a file says.
    """
    checkpoint, hf.generation_config = hf.generation_config, GenerationConfig()
    try:
        return hf.generate(**inputs, generation_config=settings, **options)
    finally:
        hf.generation_config = checkpoint


def _require_positive(name: str, value: int) -> None:
    if value < 1:
        raise InterpError(f"{name} is {value}; expected at least 1")


def _pad_left(x: Tensor, width: int) -> Tensor:
    missing = width - x.shape[1]
    return x if not missing else torch.cat([x.new_zeros(x.shape[0], missing, *x.shape[2:]), x], dim=1)
