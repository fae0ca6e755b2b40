"""Judges: another language model grades each reply, through any endpoint that speaks OpenAI's chat completions.

The judge receives a question that contains the prompt and the reply, and answers with one of a few allowed words. Its
verdict is read wherever it states one (`Judge.read`); reasons before or after it are ignored. A server that fails,
redirects, times out or states no verdict, or two that differ, is asked again; after the last attempt the item has no
score (NaN), which counts neither as a pass nor as a failure.

How the endpoint is asked, and what keeps its key safe: `interp.data.chat_endpoint`.

Limitations: judges are biased (by length, position and their own style: Zheng et al. 2023,
https://arxiv.org/abs/2306.05685), and a reply can address its judge. Check a judge against human labels. Prompts and
replies are sent to the endpoint.
"""

import re
from dataclasses import dataclass, field

from interp.auditing.scoring.graders import on_answer
from interp.core.display import Displayed
from interp.core.errors import InterpError, located
from interp.data.chat_endpoint import ChatEndpoint


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
        self._machine()
        if "{prompt}" not in self.question or "{reply}" not in self.question:
            raise InterpError("judge's question must hold {prompt} and {reply}, where the two are inserted")
        words = {word.lower() for word in self.answers if re.fullmatch(r"\w+", word)}
        graded = all(0 <= grade <= 1 for grade in self.answers.values())
        if not words or len(words) < len(self.answers) or not graded:
            expected = "single words that differ in more than case, each with a grade from 0 to 1"
            raise InterpError(f"judge's answers are {self.answers}; expected {expected}")

    @on_answer
    def __call__(self, prompt: str, reply: str) -> float:
        """The grade, or NaN."""
        # Not str.format: prompts and replies may hold braces.
        parts = re.split(r"(\{prompt\}|\{reply\})", self.question)
        question = "".join({"{prompt}": prompt, "{reply}": reply}.get(part, part) for part in parts)
        machine = self._machine()
        try:
            said = machine.reply(question, lambda text: self.read(text) is not None)
        except InterpError:
            return float("nan")
        grade = self.read(said)
        return float("nan") if grade is None else grade

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

    def _machine(self) -> ChatEndpoint:
        with located("judge"):
            return ChatEndpoint(self.endpoint, self.model, self.key, self.timeout, self.retries, self.pause)


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
