"""A machine's replies: each question is asked once, and the replies of earlier runs are read from a file.

A line of the file is written as soon as a reply comes, so that a run that was killed continues and asks nothing twice.
What is asked is known by its digest, of the machine and the question. The key of an endpoint is in neither.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from interp.core.display import Card, Displayed, clipped
from interp.core.files import sha256_json
from interp.core.inputs import parse_object
from interp.data.chat_endpoint import ChatEndpoint
from interp.features.line_file import append_lines, whole_lines
from interp.models.chat_template import answer_of
from interp.models.hooked import HookedModel

Machine = ChatEndpoint | HookedModel
_LONGEST, _CHARACTERS = 20_000, 4  # characters of a reply that are kept, and of a token


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
        if isinstance(machine, ChatEndpoint):
            self._identity: list[Any] = [machine.url, machine.model]
        else:  # the digest is taken once: it reads all weights
            self._identity = [machine.digest, machine.reference.template, machine.reference.date]

    @property
    def name(self) -> str:
        """The machine's name."""
        return self.machine.model if isinstance(self.machine, ChatEndpoint) else self.machine.name

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
            answers: Where so many 0 and 1 are asked for, a local model can say nothing else.
        """
        if answers and isinstance(self.machine, HookedModel):
            max_tokens = answers
        key = sha256_json([self._identity, question, max_tokens])
        with self._lock:
            if key in self._known:
                return self._known[key]
            self._asked[key] = (len(question), max_tokens)
        if not self.ask:
            return "".join(chr(ord("a") + int(digit, 16)) for digit in key)  # another one for each question
        reply = clipped(self._reply(question, accept, max_tokens, answers), _LONGEST)
        with self._lock:
            self._known[key] = reply
            append_lines(self.file, [json.dumps({"key": key, "machine": self.name, "reply": reply})])
        return reply

    def _reply(self, question: str, accept: Callable[[str], bool], max_tokens: int, answers: int) -> str:
        if isinstance(self.machine, ChatEndpoint):
            return self.machine.reply(question, accept, max_tokens)
        prompt, options = self.machine.render(question), dict[str, Any]()
        if answers:
            encode = self.machine.tokenizer.encode
            digits = [encode(digit, add_special_tokens=False)[-1] for digit in "01"]
            options["prefix_allowed_tokens_fn"] = lambda batch, ids: digits
        said = self.machine.generate(prompt, max_new_tokens=max_tokens, **options)[0]
        return str([*map(int, re.findall("[01]", said))]) if answers else answer_of(said, prompt) or ""
