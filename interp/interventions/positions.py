"""At and Schedule: an op at some positions only, or with a strength that changes while a reply is written.

Both do under a key-value cache, left padding, beams and sampling what they would do were everything computed anew for
each token. They run as hooks only.
"""

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from jaxtyping import Bool
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.interventions.ops import Op, finite
from interp.interventions.wrapped import Wrapped, inner, only
from interp.models.forward_pass import ForwardPass
from interp.models.hooked import HookedModel

NAMED = ("prompt", "generated", "last", "assistant")


@dataclass(frozen=True)
class Turns:
    """How a chat template opens the assistant's turns and closes any: ids of tokens."""

    opening: tuple[int, ...]
    closing: int

    @classmethod
    def of(cls, model: HookedModel) -> "Turns":
        """Of a model's chat template. Raises where it has none, or one in which turns have no marks."""
        user, words = [{"role": "user", "content": "a"}], "b"
        asked = model.chat(user)
        template = model.tokenizer.apply_chat_template
        before = template(user, tokenize=False)
        full = template([*user, {"role": "assistant", "content": words}], tokenize=False)
        opening, closing = asked.removeprefix(before), full.removeprefix(asked + words)
        marks = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in (opening, closing.strip())]
        if not asked.startswith(before) or not full.startswith(asked + words) or not all(marks):
            raise InterpError(
                "this chat template does not mark where the assistant's turns begin and end; choose prompt, generated, "
                "last, or tokens"
            )
        return cls(tuple(marks[0]), marks[1][0])

    def of_assistant(self, ids: Tensor) -> Bool[Tensor, "batch pos"]:
        """Tokens between an opening and the next closing, that included."""
        opening = torch.tensor(self.opening, device=ids.device)
        n, said = len(opening), torch.zeros_like(ids, dtype=torch.bool)
        speaking = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for column in range(ids.shape[1]):
            said[:, column] = speaking
            speaking = speaking & (ids[:, column] != self.closing)
            if column + 1 >= n:
                speaking = speaking | (ids[:, column + 1 - n : column + 1] == opening).all(1)
        return said


class Positions:
    """Some tokens of a pass: those of any of the choices, and all of them if there are several.

    `names` are `prompt`, `generated` (what comes after the prompt), `last` (the prompt's last token, from which the
    reply's first is predicted), `assistant` (the assistant's words in the prompt, by its chat template, and all that is
    generated), and numbers: tokens of the prompt, from its first if not negative, else from its end. `tokens` are ids:
    every token that is one of them (`matching` finds them by a pattern).
    """

    def __init__(
        self,
        names: str | int | Sequence[str | int] = (),
        tokens: Sequence[int] = (),
        model: HookedModel | None = None,
        turns: Turns | None = None,
    ):
        self.names = [names] if isinstance(names, str | int) else list(names)
        self.tokens = sorted(int(token) for token in tokens)
        for name in self.names:
            if isinstance(name, str) and name not in NAMED:
                raise InterpError(f"unknown position {name!r}; {nearest(name, NAMED)}; or a number")
        if not self.names and not self.tokens:
            raise InterpError(f"no positions are given; expected some of {', '.join(NAMED)}, numbers, or tokens")
        self.turns = turns
        if "assistant" in self.names and turns is None:
            if model is None:
                raise InterpError("position 'assistant' goes by a chat template; give the model, too (model=…)")
            self.turns = Turns.of(model)

    def chosen(self, passing: ForwardPass) -> Bool[Tensor, "batch pos"]:
        """Which tokens of a pass these are."""
        found = torch.zeros_like(passing.real)
        for position in self.names:
            if isinstance(position, int) and passing.begins:
                self._warn_of_nobody(position, passing)
            found = found | self._chosen(position, passing)
        if self.tokens:
            found = found | torch.isin(_ids(passing), torch.tensor(self.tokens, device=passing.real.device))
        return found & passing.real

    def _chosen(self, position: str | int, passing: ForwardPass) -> Tensor:
        if position == "prompt":
            return passing.of_prompt
        if position == "generated":
            return passing.of_reply
        if position == "assistant":
            turns = cast(Turns, self.turns)  # see __init__
            return (turns.of_assistant(_ids(passing)) & passing.of_prompt) | passing.of_reply
        if position == "last" or int(position) < 0:
            column = passing.prompt + (-1 if position == "last" else int(position))
            return (passing.columns == column).expand_as(passing.real)
        padding = (~passing.real).sum(1, keepdim=True)  # all of it is to the left
        return (passing.columns == padding + int(position)) & passing.of_prompt

    def _warn_of_nobody(self, position: int, passing: ForwardPass) -> None:
        longest = int(passing.of_prompt.sum(1).max())
        if not -longest <= position < longest:
            warnings.warn(
                f"position {position} is in none of these {len(passing.real)} prompts (the longest has {longest} "
                "tokens): nothing is done there",
                stacklevel=2,
            )

    def settings(self) -> dict[str, Any]:
        """Plain values: names, tokens and turns."""
        turns = None if self.turns is None else {"opening": list(self.turns.opening), "closing": self.turns.closing}
        return {"positions": self.names, "tokens": self.tokens, "turns": turns}

    @classmethod
    def restore(cls, settings: Mapping[str, Any]) -> "Positions":
        """The inverse of `settings`."""
        marks = settings["turns"]
        turns = None if marks is None else Turns(tuple(marks["opening"]), marks["closing"])
        return cls(settings["positions"], settings["tokens"], turns=turns)


class At(Wrapped):
    """An op at some positions only; what these may be is told by `Positions`, which has the same arguments."""

    def __init__(
        self,
        op: Op,
        positions: str | int | Sequence[str | int] | Positions = (),
        tokens: Sequence[int] = (),
        model: HookedModel | None = None,
        turns: Turns | None = None,
    ):
        super().__init__(op)
        if not isinstance(positions, Positions):
            positions = Positions(positions, tokens, model, turns)
        self.where = positions

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The op at the positions, and x elsewhere."""
        chosen = self.where.chosen(passing).to(x.device)
        return only(chosen, self.op.within(x, passing), x) if chosen.any() else x

    def settings(self) -> dict[str, Any]:
        """Positions, tokens and turns, and the op."""
        return super().settings() | self.where.settings()

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "At":
        """The inverse of `settings` and `tensors`."""
        return cls(inner(settings, tensors), Positions.restore(settings))


class Schedule(Wrapped):
    """An op whose strength depends on how much has been written: x + strength · (op(x) - x).

    `strengths` are of the first generated token, the second and so on; the last one holds from there on. `prompt` is
    the strength over the prompt.
    """

    def __init__(self, op: Op, strengths: Sequence[float], prompt: float = 0.0):
        super().__init__(op)
        self.strengths = [finite(value, "strength") for value in strengths]
        self.prompt = finite(prompt, "prompt")
        if not self.strengths:
            raise InterpError("a schedule has no strengths; expected one for the first generated token, or more")

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The blend."""
        written = (passing.columns - passing.prompt).clamp(max=len(self.strengths) - 1)
        values = torch.tensor([*self.strengths, self.prompt], device=x.device, dtype=x.dtype)
        strength = values[torch.where(written < 0, len(self.strengths), written).to(x.device)]
        if not strength.any():
            return x
        return x + strength[(..., *[None] * (x.ndim - 2))] * (self.op.within(x, passing) - x)

    def settings(self) -> dict[str, Any]:
        """The strengths, and the op."""
        return super().settings() | {"strengths": self.strengths, "prompt": self.prompt}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "Schedule":
        """The inverse of `settings` and `tensors`."""
        return cls(inner(settings, tensors), settings["strengths"], settings["prompt"])


def matching(model: HookedModel, pattern: str) -> list[int]:
    """Ids of the tokens whose text matches a regular expression in full. Raises where none does."""
    try:
        wanted = re.compile(pattern)
    except re.error as problem:
        raise InterpError(f"pattern {pattern!r} is no regular expression ({problem})") from None
    vocabulary = range(model.hf.get_input_embeddings().num_embeddings)
    texts = model.tokenizer.batch_decode([[token] for token in vocabulary], clean_up_tokenization_spaces=False)
    found = [token for token, text in enumerate(texts) if wanted.fullmatch(text)]
    if not found:
        raise InterpError(f"no token's text matches {pattern!r} in full; a token often begins with a space")
    return found


def _ids(passing: ForwardPass) -> Tensor:
    if passing.ids is None:
        raise InterpError("the model was given embeddings, so there are no tokens to go by; choose positions instead")
    return passing.ids
