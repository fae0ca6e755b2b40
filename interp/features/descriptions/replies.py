"""A machine's replies: each question is asked once, and the replies of earlier runs are read from a file.

A line of the file is written as soon as a reply comes, so that a run that was killed continues and asks nothing twice.
What is asked is known by its digest, of the machine and the question. The key of an endpoint is in neither.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from operator import ne
from pathlib import Path
from threading import Lock
from typing import Any

from interp.core.display import Card, Displayed, clipped
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.inputs import parse_object
from interp.data.chat_endpoint import ChatEndpoint
from interp.features.line_file import append_lines, whole_lines
from interp.models.chat_template import answer_of
from interp.models.hooked import HookedModel

Machine = ChatEndpoint | HookedModel
_LONGEST, _CHARACTERS = 20_000, 4  # characters of a reply that are kept, and of a token


def machine_name(machine: Machine) -> str:
    """What a machine is called."""
    return machine.model if isinstance(machine, ChatEndpoint) else machine.name


def machine_identity(machine: Machine) -> list[Any]:
    """What decides a machine's replies; an endpoint's key is not among it."""
    if isinstance(machine, ChatEndpoint):
        return [machine.url, machine.model]
    return [machine.digest, machine.reference.template, machine.reference.date]


@dataclass(frozen=True)
class Cost(Displayed):
    """What replies cost.

    Attributes:
        requests: Number of requests, without repeated ones.
        tokens_in: Tokens of the questions, one for every four characters.
        tokens_out: The most tokens of the replies.
    """

    requests: int
    tokens_in: int
    tokens_out: int

    def money(self, price_in: float, price_out: float | None = None) -> float:
        """What it costs, where a million tokens of questions and of replies have these prices.

        >>> from interp.features.descriptions.replies import Cost
        >>> Cost(10, 500_000, 100_000).money(2.0, 10.0)
        2.0
        """
        return (self.tokens_in * price_in + self.tokens_out * (price_in if price_out is None else price_out)) / 1e6

    def _card(self) -> Card:
        return "", [
            ("requests", self.requests),
            ("tokens in", self.tokens_in),
            ("tokens out, at most", self.tokens_out),
        ]


class Replies:
    """The replies of a machine.

    Args:
        machine: An endpoint, or a local model.
        file: Where they are kept.
        ask: Ask the machine; without it, replies that are not known are stood in for, and counted.
    """

    def __init__(self, machine: Machine, file: Path, ask: bool = True):
        self.machine, self.file, self.ask, self._lock = machine, file, ask, Lock()
        rows = [parse_object(line, place) for place, line in whole_lines(file)]
        self._known = {row["key"]: str(row["reply"]) for row in rows if "key" in row and "reply" in row}
        self._asked: dict[str, tuple[int, int]] = {}
        self._identity = machine_identity(machine)  # taken once: it reads all weights of a local model

    @property
    def cost(self) -> Cost:
        """What was asked so far, or would have been."""
        questions, replies = ([pair[side] for pair in self._asked.values()] for side in (0, 1))
        return Cost(len(questions), sum(-(-size // _CHARACTERS) for size in questions), sum(replies))

    def reply(self, question: str, accept: Callable[[str], bool], max_tokens: int, answers: int = 0) -> str:
        """The reply to a question, the same at each call.

        Args:
            question: The question.
            accept: Whether a reply is of the asked form.
            max_tokens: The most that the machine may say.
            answers: Where a list of so many 0 and 1 is asked for, a local model can say nothing else.
        """
        form = []
        if answers and isinstance(self.machine, HookedModel):
            form = _list_tokens(self.machine.tokenizer, answers)
            max_tokens = len(form)
        key = sha256_json([self._identity, question, max_tokens])
        with self._lock:
            if key in self._known:
                return self._known[key]
            self._asked[key] = (len(question), max_tokens)
        if not self.ask:
            return "".join(chr(ord("a") + int(digit, 16)) for digit in key)  # another one for each question
        reply = clipped(self._reply(question, accept, max_tokens, form), _LONGEST)
        with self._lock:
            self._known[key] = reply
            append_lines(self.file, [json.dumps({"key": key, "machine": machine_name(self.machine), "reply": reply})])
        return reply

    def _reply(
        self, question: str, accept: Callable[[str], bool], max_tokens: int, form: Sequence[Sequence[int]]
    ) -> str:
        if isinstance(self.machine, ChatEndpoint):
            return self.machine.reply(question, accept, max_tokens)
        prompt, options = self.machine.render(question), dict[str, Any]()
        if form:
            start = self.machine.tokens(prompt, chat=False).ids.shape[1]
            options["prefix_allowed_tokens_fn"] = lambda batch, ids: form[len(ids) - start]
        size, context = len(self.machine.tokenizer.encode(prompt)), self.machine.context
        if context is not None and size + max_tokens > context:
            raise InterpError(
                f"a question has {size} tokens and {self.machine.name} reads {context} with its reply; ask less "
                "(--shown, --per-request, --max-tokens), or another model"
            )
        said = self.machine.generate(prompt, max_new_tokens=max_tokens, **options)[0]
        return said if form else answer_of(said, prompt) or ""


def _list_tokens(tokenizer: Any, count: int) -> list[Sequence[int]]:
    """What each token of a list such as [1, 0] of so many 0 and 1 can be, with the separators that were asked for."""

    def encoded(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False))

    zeros, ones = (encoded(str([digit] * count)) for digit in (0, 1))
    if len(zeros) == len(ones) and sum(map(ne, zeros, ones)) == count:
        return [*zip(zeros, ones, strict=True)]
    digits = [encoded(digit)[-1] for digit in "01"]  # one of them is written together with what is before it
    parts = [[*((token,) for token in encoded(before)), digits] for before in ["[", *[", "] * (count - 1)]]
    return [*chain(*parts), *((token,) for token in encoded("]"))]
