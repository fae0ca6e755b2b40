"""A judge: another language model asked about each reply, through any endpoint that speaks OpenAI's chat completions.

It is asked a question with the prompt and the reply in it, and has to begin its answer with one of a few words. A
server that fails, takes too long or says anything else is asked again, and at last the item counts as missing (NaN):
never as a pass, nor as a failure.

A judge has tastes of its own (length, position, its own style: Zheng et al. 2023, https://arxiv.org/abs/2306.05685),
and a reply can talk to it: what a judge says is evidence to be checked against labels, not a measurement. Prompts and
replies are sent to the endpoint.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.scoring.replies import reply_behaviour
from interp.core.errors import InterpError

_AGAIN = {408, 409, 425, 429}  # and whatever is the server's own fault


@dataclass(frozen=True)
class Judge:
    """Grades a reply by asking. `question` holds {prompt} and {reply}; `answers` gives each allowed word its grade.

    The key, where one is needed, is read from the environment variable that `key` names, and kept nowhere.
    """

    endpoint: str
    model: str
    question: str
    answers: dict[str, float] = field(default_factory=lambda: {"yes": 1.0, "no": 0.0})
    key: str = ""
    timeout: float = 60.0
    retries: int = 3
    pause: float = 1.0

    def __post_init__(self) -> None:
        if not self.endpoint.startswith(("http://", "https://")):
            raise InterpError(f"judge's endpoint is {self.endpoint!r}; expected a URL such as http://localhost:8000/v1")
        if "{prompt}" not in self.question or "{reply}" not in self.question:
            raise InterpError("judge's question must hold {prompt} and {reply}, where the two are to be put")
        if not self.answers or not all(0 <= grade <= 1 for grade in self.answers.values()):
            raise InterpError(f"judge's answers are {self.answers}; expected words, each with a grade from 0 to 1")
        words = [word.lower() for word in self.answers]
        if len(set(words)) < len(words) or not all(re.fullmatch(r"\w+", word) for word in words):
            raise InterpError(
                f"judge's answers are {', '.join(map(repr, self.answers))}; expected single words that differ in more "
                "than case: an answer is known by its first word"
            )
        if self.key and not os.environ.get(self.key):
            raise InterpError(f"judge's key: environment variable {self.key} is not set; set it, or leave key out")

    def __call__(self, prompt: str, reply: str) -> float:
        """The grade, or NaN."""
        # Not str.format: prompts and replies may hold braces.
        parts = re.split(r"(\{prompt\}|\{reply\})", self.question)
        asked = "".join({"{prompt}": prompt, "{reply}": reply}.get(part, part) for part in parts)
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                grade = self.read(self._ask(asked))
            except urllib.error.HTTPError as problem:
                if problem.code < 500 and problem.code not in _AGAIN:
                    break
            except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError):
                continue
            else:
                if grade is not None:
                    return grade
        return float("nan")

    def read(self, answer: str) -> float | None:
        """The grade of an answer whose first word is an allowed one, no other being in its first line; else None."""
        words = re.findall(r"\w+", answer.strip().partition("\n")[0].lower())
        allowed = {word.lower(): grade for word, grade in self.answers.items()}
        said = {word for word in words if word in allowed}
        return allowed[words[0]] if len(said) == 1 and words[0] in said else None

    def _ask(self, asked: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": asked}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        url = self.endpoint.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])


def judged(
    name: str,
    kind: Kind,
    statement: str,
    prompts: Sequence[str],
    judge: Judge,
    max_new_tokens: int = 64,
    workers: int = 8,
    **options: Any,
) -> Behaviour:
    """What a judge says of each greedy reply; items on which it failed have no score."""
    return reply_behaviour(name, kind, statement, prompts, judge, max_new_tokens, workers=workers, **options)
