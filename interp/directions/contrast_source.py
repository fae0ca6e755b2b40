"""Where the pairs of a fit come from: a JSONL file, or the organism's own training prompts."""

from pathlib import Path
from random import Random

from interp import organism
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.models.loading import ORGANISM

DRAWN = 200  # pairs of the organism


def read_contrast(
    source: str | Path,
    pairs: int | None = None,
    seed: int = 0,
    columns: dict[str, str] | None = None,
    skip_bad: bool = False,
) -> Contrast:
    """Read a contrast from a JSONL file, or draw one from the organism's training prompts (`organism.BEHAVIOUR`).

    Args:
        source: The file, or `organism.` and the name of a behaviour; `organism.BEHAVIOUR.es` draws in Spanish, and
            `.en,es` the pairs in both languages.
        pairs: Number of pairs to draw from the organism (200 by default). Of a file at most so many,
            drawn at random; all of them by default.
        seed: Seed of the drawing.
        columns: The file's names for a layout's keys, such as `{"positive": "rude", "negative": "polite"}`.
        skip_bad: Ignore rows of the file that are not pairs, and print how many there were.

    Raises:
        InterpError: The file cannot be read, or the organism has no such behaviour or takes no columns.

    Example:
        >>> from interp.directions.contrast_source import read_contrast
        >>> len(read_contrast("organism.hostility", pairs=8))
        8
    """
    kind, _, behaviour = str(source).partition(".")
    if kind != ORGANISM:
        contrast = Contrast.read(source, columns, skip_bad)
        if pairs is None or pairs >= len(contrast):
            return contrast
        drawn = sorted(Random(seed).sample(range(len(contrast)), pairs))
        return Contrast(tuple(contrast.pairs[number] for number in drawn), contrast.name)
    if columns or skip_bad:
        raise InterpError(f"contrast {source} is the organism's; leave columns and skip_bad out, they are for files")
    behaviour, _, languages = behaviour.partition(".")
    count = DRAWN if pairs is None else pairs
    each = [organism.contrast(behaviour, count, seed=seed, language=x) for x in (languages or "en").split(",")]
    return Contrast.of([(one.user, other.user) for prompts in each for one, other in prompts], name=str(source))
