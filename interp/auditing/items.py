"""What a row of a behaviour's items is, by what scores it; unknown keys, empty texts and missing ones are refused."""

from typing import Annotated, Literal

from pydantic import Field

from interp.core.config import Config

Text = Annotated[str, Field(min_length=1, pattern=r"\S")]
Texts = Annotated[tuple[Text, ...], Field(strict=False, min_length=1)]
Numbers = Annotated[tuple[int, ...], Field(strict=False, min_length=1)]


class Message(Config):
    """What was said before a prompt."""

    role: Literal["system", "user", "assistant"]
    content: Text


class Prompt(Config):
    """An item that is a prompt."""

    prompt: Text
    group: Text | None = None
    before: Annotated[tuple[Message, ...], Field(strict=False)] = ()


class Question(Prompt):
    """A prompt with answers. `gold` is the number of the right one, from 0, or the numbers of several."""

    answers: Annotated[tuple[str, ...], Field(strict=False, min_length=2)]
    gold: int | Numbers


class Request(Prompt):
    """A prompt, and what a reply to it should hold."""

    expected: Texts


class Pair(Config):
    """Two texts."""

    first: Text
    second: Text
    group: Text | None = None


class Plain(Config):
    """A text."""

    text: Text
    group: Text | None = None
