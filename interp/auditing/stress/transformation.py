"""Transformations of prompts, as data: a YAML file of slices, each with transformations that its items take in turn.

    version: 1
    slices:
      paraphrase:
        statement: asked in other words
        transformations:
          - {replace: {"What is": "Tell me"}, prompt: "{prompt} Thank you."}

A transformation replaces words, then encodes the text, then puts it into a frame, after messages of its own. What it
would leave as it was, it does not apply to. Nor do encodings, messages, and frames that go on after the prompt, to a
behaviour whose prompts the model continues as plain text.

Limitations: templates. They show whether a behaviour depends on the form of its prompts, and find no worst case.
"""

import base64
import codecs
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from interp.auditing.scoring._behaviour_schema import MessageRow
from interp.core.config import Config
from interp.core.errors import InterpError
from interp.core.files import sha256_json

Encoding = Literal["rot13", "base64", "leet", "spaced", "upper"]
PROMPT = "{prompt}"
_LEET = str.maketrans("aeiotAEIOT", "4310743107")
_ENCODINGS = {
    "rot13": lambda text: codecs.encode(text, "rot13"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "leet": lambda text: text.translate(_LEET),
    "spaced": " ".join,
    "upper": str.upper,
}


class Transformation(Config):
    """One way to put a prompt; see the description of each field.

    Example:
        >>> from interp.auditing.stress.transformation import Transformation
        >>> polite = Transformation(replace={"Tell me": "Please tell me"}, prompt="One thing. {prompt}")
        >>> polite.apply("Tell me the time."), polite.apply("What time is it?")
        ('One thing. Please tell me the time.', None)
    """

    replace: dict[str, str] = Field({}, description="words in place of others; a prompt has to have one of them")
    encode: Encoding | None = Field(None, description="how the text is then written")
    prompt: str = Field(PROMPT, description="frame of the text, with {prompt} once")
    before: Annotated[tuple[MessageRow, ...], Field(strict=False)] = Field((), description="messages before the prompt")

    @model_validator(mode="after")
    def _changes(self) -> "Transformation":
        if self.prompt.count(PROMPT) != 1:
            raise InterpError(f"prompt {self.prompt!r} has to hold {PROMPT} once")
        if self == Transformation.model_construct():
            raise InterpError("a transformation without a change; give replace, encode, prompt or before")
        if "" in self.replace:
            raise InterpError("replace has an empty text to replace; expected words")
        return self

    def apply(self, text: str, chat: bool = True) -> str | None:
        """The prompt that the model reads; None where the transformation does not apply. `chat`: see the module."""
        if not chat and (self.encode or self.before or not self.prompt.endswith(PROMPT)):
            return None
        if self.replace:
            replaced = text
            for old, new in self.replace.items():
                replaced = replaced.replace(old, new)
            if replaced == text:
                return None
            text = replaced
        encoded = _ENCODINGS[self.encode](text) if self.encode else text
        return None if self.encode and encoded == text else self.prompt.replace(PROMPT, encoded)


class Slice(Config):
    """A scenario: its transformations, which the items take in turn."""

    statement: str = Field(min_length=1, description="what is different, in a few words")
    language: str | None = Field(None, description="language of the slice; items may state their own translation")
    transformations: tuple[Transformation, ...] = Field(strict=False, min_length=1, description="at least one")


class StressFile(Config):
    """The slices of a stress file.

    Example:
        >>> from interp.auditing.stress.transformation import StressFile
        >>> StressFile.shipped().version
        1
    """

    version: int = Field(ge=1, description="number of the version of the slices")
    slices: dict[str, Slice] = Field(min_length=1, description="by name: a family, or family.member")

    @property
    def digest(self) -> str:
        """SHA-256 of its content."""
        return sha256_json(self.model_dump(mode="json"))

    @classmethod
    def shipped(cls) -> "StressFile":
        """That of the package."""
        return cls.read(Path(str(files("interp.auditing.stress") / "stress.yaml")))
