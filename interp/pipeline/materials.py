"""The data of an experiment, split so that nothing is evaluated on what it was fitted or chosen on.

There are four parts: text for the autoencoder, pairs to fit directions on, behaviours to choose an edit by, and
behaviours to audit the result by. They come from the organism's generator or from files. Each item is in one part only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Annotated

from pydantic import Field

from interp import organism
from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.scoring.choices import prefers, text_loss
from interp.auditing.suites import organism_suite
from interp.core.config import Config
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.data.corpora import texts
from interp.directions.contrast_source import read_contrast
from interp.models.loading import ORGANISM

TARGET_STATEMENT = "the answer that matches the contrast's positive side is preferred"
Columns = Annotated[dict[str, str] | None, Field(description="field names of the two sides, such as positive: toxic")]
SkipBad = Annotated[bool, Field(description="skip rows of the file that are not pairs, instead of stopping at them")]


class ChoiceSource(Config):
    """A behaviour measured on a JSONL file of prompts with two answers each."""

    name: str = Field(description="name of the behaviour")
    kind: Kind = Field(description="harm (should fall), protected or capability (must hold)")
    file: str = Field(description="JSONL file of prompts with two answers each")
    statement: str = Field(description="what a high score means, such as: the right sum is preferred")
    columns: Columns = None
    skip_bad: SkipBad = False


class DataSettings(Config):
    """Where the data of an experiment comes from. Paths are relative to the experiment's file.

    Example:
        >>> interp.pipeline.DataSettings(text="organism", contrast="organism.hostility").pairs
        200
    """

    text: str = Field(description="text for the autoencoder: organism, or a file, folder or glob")
    documents: int = Field(4000, ge=10, description="documents of text for the autoencoder")
    contrast: str = Field(description="contrast to fit directions to: organism.BEHAVIOUR, or a JSONL file of pairs")
    columns: Columns = None
    skip_bad: SkipBad = False
    pairs: int = Field(200, ge=2, description="pairs to fit directions on")
    choose_items: int = Field(40, ge=1, description="items per behaviour to choose the edit by")
    audit_items: int = Field(300, ge=1, description="items per behaviour to audit the edit by")
    loss_texts: int = Field(100, ge=1, description="held-out texts for the loss")
    loss_characters: int = Field(1500, ge=1, description="characters of each held-out text")
    behaviours: tuple[ChoiceSource, ...] = Field((), description="further behaviours, from files", strict=False)


@dataclass(frozen=True)
class Materials(Displayed):
    """The data of an experiment, in its four parts.

    Args:
        target: Name of the behaviour that the contrast is about: the harm to remove.
        text: Documents for the autoencoder.
        held_out_text: Documents to measure the autoencoder on.
        contrast: Pairs to fit directions on.
        choose: Behaviours, with their items, to choose an edit by.
        audit: Behaviours, with items that no other part has, to audit the result by.

    Example:
        >>> settings = interp.pipeline.DataSettings(
        ...     text="organism", contrast="organism.hostility", documents=10, pairs=4, choose_items=2, audit_items=2
        ... )
        >>> materials = interp.pipeline.gather_materials(settings, target="hostility")
        >>> len(materials.text), len(materials.contrast)
        (10, 4)
    """

    target: str
    text: tuple[str, ...]
    held_out_text: tuple[str, ...]
    contrast: Contrast
    choose: tuple[Behaviour, ...]
    audit: tuple[Behaviour, ...]


def gather_materials(data: DataSettings, target: str, seed: int = 0, folder: str | Path = ".") -> Materials:
    """Read or draw the data of an experiment, and split it.

    Args:
        data: Where the data comes from, and how much of it each part gets.
        target: Name of the harm to remove.
        seed: Seed of the drawing and of the split.
        folder: Folder that the paths in `data` are relative to.

    Returns:
        The four parts. No item of `audit` is in another part.

    Raises:
        InterpError: A file is missing or too small, or the target is not a harm.

    Example:
        >>> settings = interp.pipeline.DataSettings(
        ...     text="organism", contrast="organism.hostility", documents=10, pairs=4, choose_items=2, audit_items=2
        ... )
        >>> [b.name for b in interp.pipeline.gather_materials(settings, "hostility").audit if b.kind == "harm"]
        ['hostility', 'sycophancy', 'fabrication']
    """
    if data.contrast.partition(".")[0] == ORGANISM:
        materials = _from_organism(data, target, seed)
    else:
        materials = _from_files(data, target, seed, Path(folder))
    kinds = {behaviour.name: behaviour.kind for behaviour in materials.audit}
    if kinds.get(target) != "harm":
        harms = [name for name, kind in kinds.items() if kind == "harm"]
        raise InterpError(
            f"target {target!r} is {kinds.get(target, 'not a behaviour of this experiment')}; only a harm may be "
            f"removed: {', '.join(harms)}"
        )
    if data.contrast.startswith(f"{ORGANISM}.") and kinds.get(data.contrast.split(".")[1]) != "harm":
        raise InterpError(f"contrast {data.contrast} is about what must be kept; only a harm may be removed")
    return materials


def read_corpus(source: str | Path, documents: int | None = None, seed: int = 0) -> Iterator[str]:
    """Read documents from files, or draw them from the organism's training text (`organism`).

    Args:
        source: A file, folder or glob, or `organism`.
        documents: Number of documents. None reads all of the files; the organism's text has no end.
        seed: Seed of the drawing.

    Raises:
        InterpError: The files cannot be read, or `documents` is None for the organism.

    Example:
        >>> from interp.pipeline.materials import read_corpus
        >>> len(list(read_corpus("organism", documents=3)))
        3
    """
    if str(source) != ORGANISM:
        return islice(texts(source), documents)
    if documents is None:
        raise InterpError("the organism's text has no end; say how much of it to use (--tokens)")
    return organism.corpus(documents, split="train", seed=seed)


def corpus_source(text: str, documents: int | None) -> str | Iterator[str]:
    """What `harvest` and the like read: documents of the organism's training text, or any other source as it is."""
    return read_corpus(text, documents) if text == ORGANISM else text


def _from_organism(data: DataSettings, target: str, seed: int) -> Materials:
    if data.text != ORGANISM or data.behaviours or data.columns or data.skip_bad:
        raise InterpError(
            f"contrast {data.contrast} comes with the organism's own text and behaviours; set text to {ORGANISM} and "
            "leave behaviours, columns and skip_bad out, or take the contrast from a file"
        )
    contrast = read_contrast(data.contrast, data.pairs, seed)
    fitted = frozenset(turn.prompt for pair in contrast.pairs for turn in (pair.positive, pair.negative))
    return Materials(
        target,
        tuple(read_corpus(ORGANISM, data.documents, seed)),
        tuple(organism.corpus(data.loss_texts, split="test", seed=seed)),
        contrast,
        tuple(organism_suite(data.choose_items, split="train", seed=seed + 1, leave_out=fitted)),
        tuple(organism_suite(data.audit_items, split="test", seed=seed)),
    )


def _from_files(data: DataSettings, target: str, seed: int, folder: Path) -> Materials:
    documents = list(read_corpus(folder / data.text, data.documents + data.loss_texts))
    Random(seed).shuffle(documents)
    if len(documents) <= data.loss_texts:
        raise InterpError(f"{data.text}: {len(documents)} documents; expected more than the {data.loss_texts} held out")
    held_out = [document[: data.loss_characters] for document in documents[: data.loss_texts]]
    parts = {"choose": data.choose_items, "audit": 1}
    source = Contrast.read(folder / data.contrast, data.columns, data.skip_bad)
    fit, *target_parts = source.deal({"fit": data.pairs} | parts, seed)
    others = [
        (choice, Contrast.read(folder / choice.file, choice.columns, choice.skip_bad).deal(parts, seed))
        for choice in data.behaviours
    ]

    def suite(part: int, items: int, loss_texts: list[str]) -> tuple[Behaviour, ...]:
        harm = prefers(target, "harm", TARGET_STATEMENT, _first(target_parts[part], items))
        rest = [prefers(c.name, c.kind, c.statement, _first(dealt[part], items)) for c, dealt in others]
        return (harm, *rest, text_loss("text_loss", loss_texts))

    quarter = max(1, len(held_out) // 4)
    return Materials(
        target,
        tuple(documents[data.loss_texts :]),
        tuple(held_out),
        fit,
        suite(0, data.choose_items, held_out[:quarter]),
        suite(1, data.audit_items, held_out[quarter:]),
    )


def _first(contrast: Contrast, items: int) -> Contrast:
    return replace(contrast, pairs=contrast.pairs[:items])
