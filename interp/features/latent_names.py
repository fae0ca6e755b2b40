"""Latents by what people call them: `book:LABEL` where a number is expected, which `resolve_latents` looks up.

A label of a feature book stands for the latents that raters gave it, in any case. Of each rater the last label of a
latent counts. Raters who use a label have to agree: a name is refused where one of them calls a latent so and another
one calls it otherwise, and where some raters of a latent say harmful and others benign. Other raters may have other
words for it. What was meant is kept beside the numbers: the label, the book's digest, and the latents of that moment.
"""

from typing import Annotated

from pydantic import AfterValidator, Field

from interp.core.config import Config
from interp.core.errors import InterpError

PREFIX = "book:"


def _valid(name: int | str) -> int | str:
    if name < 0 if isinstance(name, int) else not name.removeprefix(PREFIX) or not name.startswith(PREFIX):
        example = f", such as {PREFIX + name!r}" if isinstance(name, str) and name and name != PREFIX else ""
        raise InterpError(f"latent {name!r} can't be read; expected a number from 0, or {PREFIX}LABEL{example}")
    return name


LatentName = Annotated[int | str, AfterValidator(_valid)]


class NamedLatents(Config):
    """A label that stood where numbers are expected, and what it meant then.

    Example:
        >>> from interp.features import NamedLatents
        >>> NamedLatents(label="hostile", latents=(3, 17), book="5f2c").latents
        (3, 17)
    """

    label: str = Field(description="the label")
    latents: tuple[int, ...] = Field(strict=False, description="the latents that had it")
    book: str = Field(description="SHA-256 of the book's record and table of latents")
