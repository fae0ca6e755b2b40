"""Judges: another language model grades each reply, through any endpoint that speaks OpenAI's chat completions.

The judge receives a question that contains the prompt and the reply, and must begin its answer with one of a few
allowed words. A server that fails, times out or answers anything else is asked again; after the last attempt the item
has no score (NaN), which counts neither as a pass nor as a failure.

Limitations: judges are biased (by length, position and their own style: Zheng et al. 2023,
https://arxiv.org/abs/2306.05685), and a reply can address its judge. Check a judge against human labels. Prompts and
replies are sent to the endpoint.
"""

import json
import os
import re
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPException

from interp.auditing.scoring.graders import on_answer
from interp.core.display import Displayed
from interp.core.errors import InterpError

_RETRIED = {408, 409, 425, 429}  # and 500 to 599


@dataclass(frozen=True)
class Judge(Displayed):
    """A grader that asks another language model about each reply.

    Args:
        endpoint: Base URL, such as `http://localhost:8000/v1`.
        model: Name of the judging model at the endpoint.
        question: The question, with `{prompt}` and `{reply}` where the two are inserted.
        answers: The grade, from 0 to 1, of each allowed first word.
        key: Environment variable that holds the API key, which is not stored; empty if none is needed.
        timeout: Seconds per request.
        retries: Attempts after the first.
        pause: Seconds before the first retry; it doubles with each.

    Raises:
        InterpError: The endpoint is not a URL, the question lacks a placeholder, the answers are not distinct single
            words with grades, or the environment variable is not set.

    Example:
        >>> from interp.auditing import Judge
        >>> judge = Judge("http://localhost:8000/v1", "m", "Is this polite, yes or no? {prompt} {reply}")
        >>> judge.read("Yes, it is."), judge.read("Perhaps.")
        (1.0, None)
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
            raise InterpError("judge's question must hold {prompt} and {reply}, where the two are inserted")
        words = {word.lower() for word in self.answers if re.fullmatch(r"\w+", word)}
        graded = all(0 <= grade <= 1 for grade in self.answers.values())
        if not words or len(words) < len(self.answers) or not graded:
            raise InterpError(
                f"judge's answers are {self.answers}; expected single words that differ in more than case, each with a "
                "grade from 0 to 1: an answer is read by its first word"
            )
        if self.key and not os.environ.get(self.key):
            raise InterpError(f"judge's key: environment variable {self.key} is not set; set it, or leave key out")

    @on_answer
    def __call__(self, prompt: str, reply: str) -> float:
        """The grade, or NaN."""
        # Not str.format: prompts and replies may hold braces.
        parts = re.split(r"(\{prompt\}|\{reply\})", self.question)
        question = "".join({"{prompt}": prompt, "{reply}": reply}.get(part, part) for part in parts)
        for attempt in range(self.retries + 1):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            try:
                grade = self.read(self._ask(question))
            except urllib.error.HTTPError as problem:
                if problem.code < 500 and problem.code not in _RETRIED:
                    break
            except (OSError, HTTPException, ValueError, KeyError, IndexError, TypeError):
                continue
            else:
                if grade is not None:
                    return grade
        return float("nan")

    def read(self, answer: str) -> float | None:
        """The grade of an answer whose first word is allowed and whose first line has no other allowed word, or
        None."""
        words = re.findall(r"\w+", answer.strip().partition("\n")[0].lower())
        allowed = {word.lower(): grade for word, grade in self.answers.items()}
        named = {word for word in words if word in allowed}
        return allowed[words[0]] if len(named) == 1 and words[0] in named else None

    def _ask(self, question: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        headers = {"Content-Type": "application/json"}
        if self.key:
            headers["Authorization"] = f"Bearer {os.environ[self.key]}"
        url = self.endpoint.rstrip("/") + "/chat/completions"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=self.timeout) as response:
            return str(json.load(response)["choices"][0]["message"]["content"])
