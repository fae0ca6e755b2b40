"""Tokens: prompts as left-padded batches of token ids, whose position ids come from the mask, not from the column.

A prompt is plain text, which gets the tokens that the tokenizer puts before a text; or it is a `RenderedText`, as the
chat template writes it (`HookedModel.chat`), which has all its special tokens and gets no others.

Limitations: f-strings and `"".join` turn rendered text into plain text; pass `rendered=True` for such a text.
"""

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError

_WORD = "\ue000\ue001"  # in no conversation


class RenderedText(str):
    """A text with all its special tokens, as a chat template writes it: its tokens are those of the text, no others.

    What is added to it, and what is cut or replaced in it, is rendered text as well.

    Example:
        >>> prompt = model.chat("hello there.") + "Good"
        >>> type(prompt).__name__, model.tokens(prompt).ids[0, :2].tolist() == [1, 2]
        ('RenderedText', True)
    """

    __slots__ = ("_reply",)
    _reply: Callable[[str], str] | None

    def __new__(cls, text: str, reply: Callable[[str], str] | None = None) -> "RenderedText":
        """The text, as rendered text; of a prompt, `reply` renders its conversation with an answer as the last turn."""
        rendered = super().__new__(cls, text)
        rendered._reply = reply
        return rendered

    def answered(self, answers: Sequence[str]) -> "tuple[RenderedText, list[RenderedText]]":
        """The text that comes before every answer to a prompt, and the prompt with each answer.

        An answer to a chat prompt is the assistant's turn as the template writes it, up to its words' end: with what
        the template puts before them, and without what it strips. Other rendered text is continued as it is.

        Args:
            answers: The answers.

        Raises:
            InterpError: The template ends an answer's turn in another way than the turns of other words.

        Example:
            >>> before, (text,) = model.chat("hello there.").answered(["Good day."])
            >>> text.removeprefix(before)
            'Good day.'
        """
        if self._reply is None:
            return self, [self + answer for answer in answers]  # type: ignore[misc]  # `+` gives rendered text
        other, *texts = (str(self._reply(answer)) for answer in (_WORD, *answers))
        before, _, after = other.partition(_WORD)
        for answer, text in zip(answers, texts, strict=True):
            if not text.endswith(after) or other.count(_WORD) != 1:
                raise InterpError(f"the chat template does not write {answer[:40]!r} as it writes other answers")
        start = len(before) if all(text.startswith(before) for text in texts) else common_length([before, *texts])
        return RenderedText(before[:start]), [RenderedText(text.removesuffix(after)) for text in texts]

    def __radd__(self, before: str) -> "RenderedText":
        return RenderedText(before + str(self))


def _rendered(method: Callable[..., str]) -> Callable[..., str]:
    def rendered_result(self: str, *args: Any, **options: Any) -> str:
        return RenderedText(method(self, *args, **options))

    return rendered_result


for _name in ("__add__", "__getitem__", "replace", "strip", "lstrip", "rstrip", "removeprefix", "removesuffix"):
    setattr(RenderedText, _name, _rendered(getattr(str, _name)))


@dataclass(frozen=True, eq=False)
class Tokens(Displayed):
    """A left-padded batch of token ids.

    Args:
        ids: Token ids; any id on padding.
        mask: True on real tokens.

    Example:
        >>> batch = model.tokens(["The river of", "Hello"])
        >>> batch.lengths.tolist(), batch.position_ids[0].tolist()
        ([4, 4], [0, 1, 2, 3])
    """

    ids: Int[Tensor, "batch pos"]
    mask: Bool[Tensor, "batch pos"]

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """Position of each token in its prompt, from 0; 0 on padding."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)

    @property
    def lengths(self) -> Int[Tensor, "batch"]:
        """Number of real tokens in each row."""
        return self.mask.sum(1)

    @property
    def predicted(self) -> Bool[Tensor, "batch pos_minus_1"]:
        """Whether each token but the row's first has a real token before it, which predicts it."""
        return self.mask[:, :-1] & self.mask[:, 1:]

    def __len__(self) -> int:
        return len(self.ids)

    def unpadded(self) -> list[list[int]]:
        """The token ids of each row, without padding."""
        return [ids[real].tolist() for ids, real in zip(self.ids, self.mask, strict=True)]

    def rows(self, start: int, stop: int) -> "Tokens":
        """Rows `start` to `stop`, without padding columns that these rows do not need."""
        mask = self.mask[start:stop]
        first = int(mask.any(0).int().argmax())
        return Tokens(self.ids[start:stop, first:], mask[:, first:])

    def batches(self, size: int) -> list["Tokens"]:
        """The rows, `size` at a time."""
        return [self.rows(start, start + size) for start in range(0, len(self), size)]

    def pick(self, rows: Int[Tensor, "n"]) -> "Tokens":
        """The rows with these indices, without padding columns that these rows do not need."""
        return Tokens(self.ids[rows], self.mask[rows]).rows(0, len(rows))

    def model_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments of a Hugging Face model's forward."""
        inputs = {"input_ids": self.ids, "attention_mask": self.mask.long(), "position_ids": self.position_ids}
        return {name: x.to(device) for name, x in inputs.items()}

    def prompt_inputs(self, device: torch.device) -> dict[str, Tensor]:
        """Keyword arguments of a Hugging Face model's `generate`, which computes positions itself."""
        return {name: x for name, x in self.model_inputs(device).items() if name != "position_ids"}


Row = TypeVar("Row", list[int], str)
Beginning = Literal["tokenizer", "document", "none"]  # what comes before a plain text
Chat = bool | Mapping[str, Any] | None
Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | Tensor | Tokens


def tokenise(
    prompts: Prompts,
    tokenizer: Any,
    context: int | None,
    cut: int | None = None,
    prepend_bos: bool | None = None,
    first: Sequence[int] | None = None,
    mask: Any = None,
) -> Tokens:
    """Tokenise prompts into a left-padded batch.

    Args:
        prompts: A text, texts, token ids (a tensor (batch, pos), a list, or lists of several lengths) or `Tokens`.
        tokenizer: The tokenizer; None if the prompts are token ids.
        context: Maximum number of tokens of a prompt; None for no limit.
        cut: Keep only the first `cut` tokens of each prompt.
        prepend_bos: Whether a BOS token comes first. None: the tokenizer's own rule.
        first: Ids that come before a plain text. None: those that the tokenizer puts there.
        mask: Which token ids are real, (batch, pos). None: all but the tokenizer's padding.

    Raises:
        InterpError: There are no prompts, or one is empty or longer than the context; the message has its index.
    """
    if isinstance(prompts, Tokens):
        return prompts
    if isinstance(prompts, Tensor) and (prompts.ndim not in (1, 2) or prompts.is_floating_point()):
        shape = tuple(prompts.shape)
        raise InterpError(f"token ids: shape {shape}, type {prompts.dtype}; expected integers (batch, pos)")
    given: Any = prompts.tolist() if isinstance(prompts, Tensor) else prompts
    if not isinstance(given, Iterable):
        raise InterpError(f"prompts {given!r} can't be read; expected a text, a list of texts, or token ids")
    single = isinstance(given, str) or (given and _is_ids(given))
    several: Any = [given] if single else given
    if mask is not None:
        rows = _real(several, mask)
    else:
        if first is None and any(isinstance(row, str) and not isinstance(row, RenderedText) for row in several):
            first = text_beginning(tokenizer)
        rows = [
            _without_padding(row, tokenizer, number, not single) if _is_ids(row)
            else _encode(row, tokenizer, prepend_bos, first)
            for number, row in enumerate(several)
        ]  # fmt: skip
    rows = [row[:cut] for row in rows]
    if not rows:
        raise InterpError("no prompts; expected a text, a list of texts, or a tensor of token ids")
    for number, row in enumerate(rows):
        if not row:
            raise InterpError(f"prompt {number} is empty; expected at least one token")
        if context is not None and len(row) > context:
            raise InterpError(f"prompt {number} has {len(row)} tokens but the model's context is {context}; shorten it")
    return padded(rows, getattr(tokenizer, "pad_token_id", None) or 0)


def _is_ids(prompt: Any) -> bool:
    return isinstance(prompt, list | tuple) and all(type(token) is int for token in prompt)


def _real(rows: Sequence[Any], mask: Any) -> list[list[int]]:
    """The ids that a mask calls real."""
    chosen = torch.as_tensor(mask).bool()
    chosen = chosen[None] if chosen.ndim == 1 else chosen
    if any(not _is_ids(row) for row in rows) or [len(row) for row in rows] != [chosen.shape[1]] * len(chosen):
        raise InterpError(f"a mask of shape {tuple(chosen.shape)} does not fit the prompts; expected one of token ids")
    return [ids[real].tolist() for ids, real in zip(torch.tensor([*map(list, rows)]), chosen, strict=True)]


def _without_padding(row: Sequence[int], tokenizer: Any, number: int, may_be_padded: bool) -> list[int]:
    """A row of ids without pad tokens before and after it; of leading ones that are also BOS, the last stays."""
    ids, pad = list(row), None if tokenizer is None else tokenizer.pad_token_id
    if pad is None or all(token == pad for token in ids):
        return ids
    if pad != tokenizer.eos_token_id:
        ids = ids[: len(ids) - next(n for n, token in enumerate(reversed(ids)) if token != pad)]
    elif may_be_padded and ids[-1] == pad:
        both = f"prompt {number} ends with token {pad}, which is this tokenizer's padding as well as its end token"
        raise InterpError(f"{both}; say which tokens are real: model.tokens(ids, mask=attention_mask)")
    leading = next(index for index, token in enumerate(ids) if token != pad)
    return ids[max(0, leading - (pad == tokenizer.bos_token_id)) :]


def _encode(text: str, tokenizer: Any, prepend_bos: bool | None, first: Sequence[int] | None) -> list[int]:
    if tokenizer is None:
        raise InterpError("this model has no tokenizer, so it can't read text; pass token ids or load(..., tokenizer=)")
    if not isinstance(text, str):
        raise InterpError(f"prompt {text!r} is not a text; render conversations with model.chat(messages)")
    if not text:
        return []
    ids = tokenizer(str(text), add_special_tokens=False)["input_ids"]
    if not isinstance(text, RenderedText):
        before = list(first or ())
        if before and ids[: len(before)] == before:
            warnings.warn(
                f"a text begins with {tokenizer.decode(before)!r}, and the tokenizer puts another before it; "
                "rendered=True takes a text as it is",
                stacklevel=2,
            )
        ids = before + ids
    bos = tokenizer.bos_token_id
    if prepend_bos and bos is None:
        raise InterpError("prepend_bos=True, but this tokenizer has no BOS token; pass None or False")
    if prepend_bos and ids[:1] != [bos]:
        return [bos, *ids]
    return ids[1:] if prepend_bos is False and bos is not None and ids[:1] == [bos] else ids


def text_beginning(tokenizer: Any) -> list[int]:
    """The ids that a tokenizer puts before a text. What it puts after one is never used, since a prompt goes on."""
    if tokenizer is None:
        return []
    ids, whole = (tokenizer("a", add_special_tokens=added)["input_ids"] for added in (False, True))
    return whole[: next((n for n in range(len(whole)) if ids and whole[n : n + len(ids)] == ids), 0)]


def padded(rows: Sequence[Sequence[int]], pad: int = 0) -> Tokens:
    """Rows of token ids as a left-padded batch. Any id serves as `pad`: the mask hides it."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return Tokens(ids, torch.arange(width) >= width - lengths[:, None])


def without_dropout(tokenizer: Any) -> Any:
    """The tokenizer, with the random merges of its training switched off (BPE dropout, Provilkov et al. 2020)."""
    model: Any = getattr(getattr(tokenizer, "backend_tokenizer", None), "model", None)
    if getattr(model, "dropout", None):
        model.dropout = None
    return tokenizer


def common_length(rows: Collection[Row]) -> int:
    """The length of the longest common prefix of rows of ids, or of texts."""
    first, last = min(rows), max(rows)  # every row between these shares their common prefix
    shortest = min(len(first), len(last))
    return next((n for n in range(shortest) if first[n] != last[n]), shortest)


def texts_of(prompts: Prompts) -> Sequence[Any]:
    """The texts of prompts to be rendered. Raises for token ids."""
    texts: Any = [prompts] if isinstance(prompts, str) else prompts
    if not isinstance(texts, list | tuple) or any(isinstance(text, int) or _is_ids(text) for text in texts):
        raise InterpError("chat=True renders texts, and these prompts are token ids; leave chat out")
    return texts


def lack_template(prompts: Prompts, tokenizer: Any) -> bool:
    """Whether the first prompt is plain text without a special token, though the tokenizer has a chat template."""
    text: Any = prompts[0] if isinstance(prompts, list | tuple) and prompts else prompts
    plain = isinstance(text, str) and not isinstance(text, RenderedText)
    if not plain or tokenizer is None or not tokenizer.chat_template:
        return False
    return not any(token in text for token in tokenizer.all_special_tokens)
