"""Judges: another language model grades each reply, through any endpoint that speaks OpenAI's chat completions.

The judge receives a question that contains the prompt and the reply, and answers with one of a few allowed words. Its
verdict is read wherever it states one (`Judge.read`); reasons before or after it are ignored. A server that fails,
redirects, times out or states no verdict, or two that differ, is asked again; after the last attempt the item has no
score (NaN), which counts neither as a pass nor as a failure.

The key comes from an environment variable that the caller names, and goes only to the host of the endpoint. A reply
of more than 1 MB is not read.

Limitations: judges are biased (by length, position and their own style: Zheng et al. 2023,
https://arxiv.org/abs/2306.05685), and a reply can address its judge. Check a judge against human labels. Prompts and
replies are sent to the endpoint.
"""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from interp.auditing.scoring.graders import on_answer
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.inputs import parse_object

_REPLY_BYTES = 1_000_000
_RETRIED = {408, 409, 425, 429}  # and 500 to 599


@dataclass(frozen=True)
class Judge(Displayed):
    """A grader that asks another language model about each reply.

    Args:
        endpoint: Base URL, such as `http://localhost:8000/v1`.
        model: Name of the judging model at the endpoint.
        question: The question, with `{prompt}` and `{reply}` where the two are inserted.
        answers: The grade, from 0 to 1, of each allowed word.
        key: Environment variable that holds the API key, which is not stored; empty if none is needed.
        timeout: Seconds per request, from the look-up of the host to the last byte of its reply.
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
    key: str = field(default="", metadata={"identifies": False})
    timeout: float = 60.0
    retries: int = 3
    pause: float = 1.0

    def __post_init__(self) -> None:
        host_of(self.endpoint)
        if "{prompt}" not in self.question or "{reply}" not in self.question:
            raise InterpError("judge's question must hold {prompt} and {reply}, where the two are inserted")
        words = {word.lower() for word in self.answers if re.fullmatch(r"\w+", word)}
        graded = all(0 <= grade <= 1 for grade in self.answers.values())
        if not words or len(words) < len(self.answers) or not graded:
            expected = "single words that differ in more than case, each with a grade from 0 to 1"
            raise InterpError(f"judge's answers are {self.answers}; expected {expected}")
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
            except httpx.HTTPStatusError as problem:
                status = problem.response.status_code
                if status < 500 and status not in _RETRIED:
                    break
            except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
                continue
            else:
                if grade is not None:
                    return grade
        return float("nan")

    def read(self, answer: str) -> float | None:
        r"""The grade of the verdict that an answer states; None where it states none, or two that differ.

        In this order: what follows "answer", "verdict" and their like ("Final answer: yes"), the final one before
        others; a line that is one allowed word; the first or last line, where it begins with an allowed word. Thoughts
        (`<think>`) and markup are not read.

        Example:
            >>> judge = Judge("http://localhost:8000/v1", "m", "Is this polite, yes or no? {prompt} {reply}")
            >>> judge.read("No insult is in it. Answer: **yes**"), judge.read("Yes, there is no insult.")
            (1.0, 1.0)
            >>> judge.read("Yes or no"), judge.read("No harm is meant.\n\nYes, it is polite.")
            (None, 1.0)
        """
        grades = {word.lower(): grade for word, grade in self.answers.items()}
        verdict = stated_word(answer, set(grades))
        return None if verdict is None else grades[verdict]

    def _ask(self, question: str) -> str:
        body = {"model": self.model, "messages": [{"role": "user", "content": question}], "temperature": 0}
        headers = {"Authorization": f"Bearer {os.environ[self.key].strip()}"} if self.key else {}
        return _content(_posted(self.endpoint.rstrip("/") + "/chat/completions", body, headers, self.timeout))


def host_of(endpoint: str) -> str:
    """The host of an endpoint's URL, and its port if named; after `http://` where others could read what it is sent.

    Raises where the URL is none, or holds a password.
    """
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in ("http", "https") or parts.username is not None or not endpoint.isprintable():
        expected = "a URL such as http://localhost:8000/v1, without a user name"
        raise InterpError(f"judge's endpoint is {endpoint!r}; expected {expected}")
    is_read = parts.scheme == "http" and host not in ("localhost", "127.0.0.1", "::1")
    return "http://" * is_read + parts.netloc.lower()


_READ = 100_000  # last characters of an answer that are read
_MARKUP = re.compile(r"[*`#>|\"'“”‘’()\[\]{}$]|(?<!\w)_+|_+(?!\w)|\\\w+|</\w{1,20}")
_MARK = re.compile(
    r"\b(final\s{1,3})?(?:answer|verdict|judge?ment|decision|conclusion|grade|rating|score|label)"
    r"\s{0,3}(?::|=|-|(is|would be)\b\s{0,3}:?)\s{0,3}|\b(so|therefore|thus|hence)\b[\s,:]{1,3}"
)
_CLAUSE = r"\s*(?:[.,;:!–—](?!\d)|\s-\s|(?:because|since|as|but|given|although)\b|$)"  # what ends a verdict


def stated_word(answer: str, allowed: set[str]) -> str | None:
    """The one of some words (in lower case) that an answer states as its verdict; see `Judge.read`."""
    text = answer[-_READ:].lower().rpartition("</think>")[2]
    if "<think>" in text:
        return None
    text = re.sub(r"<(\w{1,20})>", r"\n\1: ", text)  # <answer>yes</answer>
    text = re.sub(r"\b(\d{1,3})\s?(?:/|out of)\s?\d{1,3}\b", r"\1", text)  # 4/5
    lines = [line for line in _MARKUP.sub("", text).split("\n") if re.search(r"\w", line)]
    marked: list[tuple[bool, set[str]]] = []
    for line in lines:
        for mark in _MARK.finditer(line):
            rest = line[mark.end() : mark.end() + 200]
            marked.append((bool(mark[1]), _opening(rest, allowed, strict=bool(mark[2] or mark[3]))))
    bare = [{word} & allowed for word in (line.strip(" \t•-.,;:!") for line in lines)]
    ranks = [
        [words for final, words in marked if final],
        [words for _, words in marked],
        bare,
        [_opening(line, allowed, strict=True) for line in {*lines[:1], *lines[-1:]}],
        [_opening(line, allowed, strict=False) for line in lines[:1]],
    ]
    # A first line that is a verdict by itself has to agree with whatever else is stated.
    words = next((set().union(*rank, *bare[:1]) for rank in ranks if any(rank)), set[str]())
    return words.pop() if len(words) == 1 else None


def _opening(line: str, allowed: set[str], strict: bool) -> set[str]:
    """The allowed word that a line begins with, and any that contradict it.

    A word may begin a sentence that is no verdict ("No harm is meant"): with `strict`, it has to be a clause by itself.
    "Yes, there is no harm" states one verdict, "Yes, and no" two.
    """
    head = re.match(r"\W*(\w+)", line[:1000])
    if head is None or head[1] not in allowed:
        return set()
    rest = line[head.end() : 1000]
    if re.match(_CLAUSE, rest):
        return {head[1]} | {word for word in re.findall(rf"\b(\w+)\b(?={_CLAUSE}|[?/])", rest) if word in allowed}
    if strict or re.match(r"[.,]\d", rest):
        return set()
    return {head[1]} | (allowed & set(re.findall(r"\w+", rest)))


def _posted(url: str, body: Mapping[str, Any], headers: Mapping[str, str], timeout: float) -> bytes:
    """The reply to a request.

    Args:
        url: Where completions are made.
        body: The request, sent as JSON.
        headers: Further headers, such as the one with the key.
        timeout: Seconds for the whole exchange.

    Raises:
        httpx.HTTPError: The server failed, redirected the request, or did not reply in HTTP.
        TimeoutError: It did not reply in time.
        ValueError: The reply is too long.
    """
    # The system's certificates; each read has no limit of its own, since the whole exchange has one.
    secure = url.startswith("https:") and ssl.create_default_context()
    options: dict[str, Any] = {"json": body, "headers": {"Accept-Encoding": "identity", **headers}}

    async def exchange() -> bytes:
        reply = b""
        client = httpx.AsyncClient(verify=secure, timeout=None)
        async with asyncio.timeout(timeout), client, client.stream("POST", url, **options) as response:
            response.raise_for_status()  # redirects are not followed
            async for part in response.aiter_raw():
                reply += part
                if len(reply) > _REPLY_BYTES:
                    raise ValueError(f"the reply has more than {_REPLY_BYTES:,} bytes")
        return reply

    # In a thread of its own, since the caller's can have an event loop already, as in a notebook; the look-up of a
    # host, which can't be ended, goes on there.
    thread = ThreadPoolExecutor(1)
    try:
        return thread.submit(asyncio.run, exchange()).result(timeout)
    finally:
        thread.shutdown(wait=False)


def _content(reply: bytes) -> str:
    """What the assistant says in a reply. Raises ValueError where it is no completion."""
    try:
        content = parse_object(reply.decode(), "the reply")["choices"][0]["message"]["content"]
    except (InterpError, LookupError, TypeError) as problem:
        raise ValueError(f"the reply is no chat completion ({problem})") from None
    if not isinstance(content, str):
        raise ValueError(f"the content of the reply is a {type(content).__name__}; expected a text")
    return content
