"""What a machine is asked about a latent, and how its replies are read.

The description comes from examples with marked tokens. It is tested by two questions (Paulo et al. 2024,
arXiv:2410.13928): detection asks in which texts the latent fires, fuzzing whether the marked tokens are those on which
it does.
"""

import re
from collections.abc import Collection, Sequence
from itertools import groupby
from typing import Any

_LONGEST = 300  # characters of a description

_DESCRIBE = """A detector reads texts token by token, and fires on some of the tokens. \
In the texts below, these are marked <<like this>>.

{texts}

What do the marked tokens have in common? Think of their meaning, of their form, and of the words around them. \
Reply with one phrase of at most fifteen words, and nothing else."""
_DETECT = """A detector reads texts, and fires on this: {description}

{texts}

In which of these texts does it fire? \
Reply with a list of {count}, in order: 1 for a text in which it fires, 0 for another. \
{example}Reply with the list alone."""
_FUZZ = """A detector reads texts token by token, and fires on this: {description}
In each text below, some tokens are marked <<like this>>. In some texts these are the tokens on which it fires, in \
others they are not.

{texts}

In which of these texts are the right tokens marked? \
Reply with a list of {count}, in order: 1 for right marks, 0 for wrong ones. \
{example}Reply with the list alone."""


def marked_text(tokens: Sequence[str], marked: Collection[int] = ()) -> str:
    """A text in one line, its marked tokens in double angle brackets.

    >>> marked_text(["the", " old", " king"], {1, 2})
    'the<< old king>>'
    """
    runs = groupby(range(len(tokens)), key=lambda index: index in marked)
    parts = ["".join(tokens[index] for index in run).join(("<<", ">>") if mark else ("", "")) for mark, run in runs]
    return "".join(parts).replace("\r", " ").replace("\n", "\\n")


def description_question(texts: Sequence[str]) -> str:
    """The question for a description, of examples with marked tokens."""
    return _DESCRIBE.format(texts=_numbered(texts))


def score_question(test: str, description: str, texts: Sequence[str]) -> str:
    """The question of detection or of fuzzing."""
    count = len(texts)
    # With a single text an example would be an answer.
    example = f"For example {[(index + 1) % 2 for index in range(count)]}. " if count > 1 else ""
    template: Any = {"detection": _DETECT, "fuzzing": _FUZZ}[test]
    return template.format(description=description, texts=_numbered(texts), count=count, example=example)


def read_description(reply: str) -> str | None:
    """The description in a reply: its first line, or what follows "description:"; None where it is empty or too long.

    >>> read_description("**Description:** names of towns.\\n\\nThey all are."), read_description("...")
    ('names of towns', None)
    """
    text = reply.rpartition("</think>")[2]
    named = re.search(r"\bdescription\W{0,4}:\W{0,4}(.+)", text, flags=re.IGNORECASE)
    lines = [line for line in text.splitlines() if re.search(r"\w", line)]
    line = (named[1] if named else lines[0] if lines else "").strip(" \t*_`\"'“”#-.")
    return line if re.search(r"\w", line) and len(line) <= _LONGEST else None


def read_answers(reply: str, count: int) -> tuple[bool, ...] | None:
    """The answers in a reply: its last list of so many 0 and 1, or all of it, if it is one; else None.

    >>> read_answers("I think [1, 0, 1].", 3), read_answers("1", 1), read_answers("1. I think so", 1)
    ((True, False, True), (True,), None)
    """
    text = reply.rpartition("</think>")[2]
    lists = re.findall(r"\[([\s\d,]*)\]", text) or re.findall(r"^[\s\d,]*$", text)
    for numbers in map(re.compile(r"\d+").findall, reversed(lists)):
        if len(numbers) == count and {*numbers} <= {"0", "1"}:
            return tuple(number == "1" for number in numbers)
    return None


def _numbered(texts: Sequence[str]) -> str:
    return "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1))
