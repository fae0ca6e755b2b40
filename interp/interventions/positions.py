"""At and Schedule: an op at some positions only, or at a scale that changes while a reply is written.

A token's activations predict the next token. So the reply is written from the last token of the prompt on, which
predicts the first generated token, and positions are named by what is predicted there:

| position | tokens | what they predict |
|---|---|---|
| `prompt` | the prompt without its last token | tokens of the prompt |
| `last` | the last token of the prompt | the first generated token |
| `generated` | the last token of the prompt, and all generated ones | the reply |
| `assistant` | each token before one of an assistant's turn or its closing; `generated` | what the assistant says |
| 0, 1, … | the prompt's tokens, from its first | |
| -1, -2, … | the prompt's tokens, from its last | |

Every token is either at `prompt` or at `generated`. The first scale of a `Schedule` acts at `last`. In recipes of
format 1, `prompt` includes the last token, `generated` and the first scale begin at the first generated token, and
`assistant` means the tokens of its turns themselves, with their closing.

Under any key-value cache, left padding, chunked prefill, beams, sampling and assisted generation, both do what they
would do if every pass were computed from scratch; where they cannot, they raise an error. They run as hooks only.
"""

import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import pad

from interp.core.errors import InterpError, nearest
from interp.interventions.op import NUMBER, Op, Record, Wrapped, finite, nested, part, setting, within_only
from interp.models.forward_pass import ForwardPass
from interp.models.hooked import HookedModel
from interp.models.tokens import common_length

NAMED = ("prompt", "generated", "last", "assistant")


@dataclass(frozen=True, repr=False)
class Turns(Record):
    """How a chat template opens the assistant's turns and closes any turn.

    Args:
        opening: Ids of the tokens that open a turn of the assistant.
        closing: Id of the token that closes a turn.

    Example:
        >>> turns = interp.interventions.Turns.of(model)
        >>> model.tokenizer.decode(list(turns.opening)).strip() != ""
        True
    """

    opening: tuple[int, ...] = field(metadata=setting(lambda ids, name: tuple(ids), list))
    closing: int

    @classmethod
    def of(cls, model: HookedModel) -> "Turns":
        """The marks in a model's chat template. Raises where there is no template, or one that does not mark turns."""
        user, words = [{"role": "user", "content": "a"}], "\ue000"
        before, request = model.template.render(user, reply=False), model.template.render(user)
        full = model.template.render([*user, {"role": "assistant", "content": words}], reply=False)
        # What a template opens before a reply and leaves out of finished turns, such as a thought, is no mark.
        shared, closing = request[: common_length([request, full])], full.rpartition(words)[2]
        texts = shared.removeprefix(before), closing.strip()
        marks = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
        if not shared.startswith(before) or words not in full or not all(marks):
            raise InterpError("this chat template does not mark the assistant's turns; choose other positions")
        return cls(tuple(marks[0]), marks[1][0])

    def of_assistant(self, ids: Tensor) -> Bool[Tensor, "batch pos"]:
        """Which tokens stand between an opening and the next closing, the closing included."""
        opening = torch.tensor(self.opening, device=ids.device)
        n, spoken = len(opening), torch.zeros_like(ids, dtype=torch.bool)
        speaking = torch.zeros(len(ids), dtype=torch.bool, device=ids.device)
        for column in range(ids.shape[1]):
            spoken[:, column] = speaking
            speaking = speaking & (ids[:, column] != self.closing)
            if column + 1 >= n:
                speaking = speaking | (ids[:, column + 1 - n : column + 1] == opening).all(1)
        return spoken


@dataclass(frozen=True, eq=False, repr=False, init=False)
class Positions(Record):
    """Some tokens of a pass: those that any of the choices names.

    Args:
        names: `prompt` (where its own tokens are predicted); `generated` (where the reply is predicted, from the last
            token of the prompt on); `last` (the last token of the prompt, which predicts the first token of the reply);
            `assistant` (where the assistant's turns are predicted, by the chat template of the prompt, and
            `generated`); and numbers, which count tokens of the prompt from its first, or from its end if negative.
        tokens: Ids: every token that is one of them. `matching` finds ids by a pattern.
        model: The model whose chat template marks the turns, for `assistant`.
        turns: The marks themselves, instead of the model.

    Raises:
        InterpError: A name is unknown, nothing is chosen, or `assistant` comes without a model or turns.

    Example:
        >>> from interp.interventions import Positions
        >>> Positions(["last", 0]).names
        ['last', 0]
    """

    names: list[str | int] = field(metadata=setting(key="positions"))
    tokens: list[int] = field(metadata=setting())
    turns: Turns | None = field(metadata=nested(Turns))

    def __init__(
        self,
        names: str | int | Sequence[str | int] = (),
        tokens: Sequence[int] = (),
        model: HookedModel | None = None,
        turns: Turns | None = None,
    ):
        listed = [names] if isinstance(names, str | int) else list(names)
        if "assistant" in listed and turns is None and model is not None:
            turns = Turns.of(model)
        self._declare(names=listed, tokens=sorted(int(token) for token in tokens), turns=turns)

    def _check(self) -> None:
        for name in self.names:
            if isinstance(name, str) and name not in NAMED:
                raise InterpError(f"unknown position {name!r}, and not a number; {nearest(name, NAMED)}")
        if not self.names and not self.tokens:
            raise InterpError(f"no positions are given; expected some of {', '.join(NAMED)}, numbers, or tokens")
        if "assistant" in self.names and self.turns is None:
            raise InterpError("position 'assistant' needs the chat template; give the model, too (model=…)")

    def chosen(self, passing: ForwardPass) -> Bool[Tensor, "batch pos"]:
        """Which tokens of a pass are at these positions."""
        chosen = torch.zeros_like(passing.real)
        for position in self.names:
            chosen = chosen | self._chosen(position, passing)
        if self.tokens:
            chosen = chosen | torch.isin(_ids(passing), torch.tensor(self.tokens, device=passing.real.device))
        return chosen & passing.real

    def _chosen(self, position: str | int, passing: ForwardPass) -> Tensor:
        generated = passing.written >= 0
        if position == "prompt":
            return ~generated
        if position == "generated":
            return generated
        if position == "assistant":
            return generated | self._spoken(passing) if passing.reads_prompt("position 'assistant'") else generated
        if position == "last":
            return passing.distance == 0
        self._warn_if_absent(int(position), passing)
        if int(position) < 0:
            return passing.distance == 1 + int(position)
        rank = passing.before[:, None] + passing.real.cumsum(1) - 1
        return (rank == int(position)) & passing.of_prompt

    def _spoken(self, passing: ForwardPass) -> Tensor:
        """Which tokens of the prompt predict one of the assistant's; in format 1, which are the assistant's."""
        spoken = cast(Turns, self.turns).of_assistant(_ids(passing))  # see _check
        return (spoken if passing.format == 1 else pad(spoken[:, 1:], (0, 1))) & passing.of_prompt

    def _warn_if_absent(self, position: int, passing: ForwardPass) -> None:
        longest = int(passing.of_prompt.sum(1).max()) if passing.start == 0 else 0
        if passing.start == 0 and passing.prompt <= passing.real.shape[1] and not -longest <= position < longest:
            warnings.warn(
                f"position {position} is in none of these {len(passing.real)} prompts (the longest has {longest} "
                "tokens): the op does nothing there",
                stacklevel=2,
            )


_WHERE = part(lambda where: where.settings(), lambda where: {}, Positions.restore)


@dataclass(frozen=True, eq=False, repr=False, init=False)
class At(Wrapped):
    """An op at some positions only.

    Args:
        op: The op.
        positions: Where it acts: the names and numbers of `Positions`, or a `Positions`.
        tokens: Ids of tokens at which it acts, too.
        model: The model whose chat template marks the turns, for `assistant`.
        turns: The marks themselves, instead of the model.

    Raises:
        InterpError: A position is unknown, none is given, or the op acts on attention (`Knockout`).

    Example:
        >>> steer = interp.Add(torch.ones(model.d_model), scale=0.1)
        >>> recipe = interp.Recipe([("resid_post.2", interp.At(steer, ["last", "generated"]))])
        >>> text = model.generate(["Hello there."], recipe=recipe)
    """

    where: Positions = field(metadata=_WHERE)

    def __init__(
        self,
        op: Op,
        positions: str | int | Sequence[str | int] | Positions = (),
        tokens: Sequence[int] = (),
        model: HookedModel | None = None,
        turns: Turns | None = None,
    ):
        where = positions if isinstance(positions, Positions) else Positions(positions, tokens, model, turns)
        self._declare(op=op, where=where)

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The op at the positions, and x elsewhere."""
        return within_only(self.where.chosen(passing).to(x.device), self.op, x, passing)


def _finite_each(scales: Sequence[float], name: str) -> list[float]:
    if not scales:
        raise InterpError("a schedule has no scales; expected one for the first generated token, or more")
    return [finite(scale, name.replace("scales", "a scale")) for scale in scales]


@dataclass(frozen=True, eq=False, repr=False)
class Schedule(Wrapped):
    """An op whose scale depends on how much of the reply is written: x + scale · (op(x) - x).

    Args:
        op: The op.
        scales: The scale where the first generated token is predicted, which is at the last token of the prompt, then
            where the second is predicted, and so on. The last one holds from there on.
        prompt: The scale over the rest of the prompt.

    Raises:
        InterpError: There are no scales, or one is not finite.

    Example:
        >>> steer = interp.Add(torch.ones(model.d_model), scale=0.1)
        >>> fade = interp.interventions.Schedule(steer, scales=[1.0, 0.5, 0.0])
        >>> text = model.generate(["Hello there."], recipe=interp.Recipe([("resid_post.2", fade)]))
    """

    scales: Sequence[float] = field(metadata=setting(_finite_each, key="strengths"))
    prompt: float = field(default=0.0, metadata=NUMBER)

    def within(self, x: Tensor, passing: ForwardPass) -> Tensor:
        """The activations, moved towards the op's by the scale of each token."""
        written = passing.written.clamp(max=len(self.scales) - 1)
        values = torch.tensor([*self.scales, self.prompt], device=x.device, dtype=x.dtype)
        scale = values[torch.where(written < 0, len(self.scales), written).to(x.device)]
        if not scale.any() and self.op.per_token:
            return x
        return x + scale[(..., *[None] * (x.ndim - 2))] * (self.op.within(x, passing) - x)


def matching(model: HookedModel, pattern: str) -> list[int]:
    """Ids of the tokens whose text matches a regular expression in full, for `At` and `Positions`.

    Args:
        model: The model, for its tokenizer.
        pattern: The regular expression. The text of a token often begins with a space.

    Raises:
        InterpError: The pattern is not a regular expression, or no token matches it.

    Example:
        >>> ids = interp.interventions.matching(model, r"\s?tea")
        >>> model.tokenizer.decode(ids[:1]).strip()
        'tea'
    """
    try:
        expression = re.compile(pattern)
    except re.error as problem:
        raise InterpError(f"pattern {pattern!r} is not a regular expression ({problem})") from None
    vocabulary = range(model.hf.get_input_embeddings().num_embeddings)
    texts = model.tokenizer.batch_decode([[token] for token in vocabulary], clean_up_tokenization_spaces=False)
    ids = [token for token, text in enumerate(texts) if expression.fullmatch(text)]
    if not ids:
        raise InterpError(f"no token's text matches {pattern!r} in full; a token often begins with a space")
    return ids


def _ids(passing: ForwardPass) -> Tensor:
    if passing.ids is None:
        raise InterpError("the model was given embeddings, so tokens can't be matched; choose positions instead")
    return passing.ids
