"""Materials: the data of an experiment, cut so that nothing is judged on what it was fitted or chosen on.

Four parts: text for the autoencoder, pairs to fit directions on, behaviours to choose an edit by, and behaviours to
audit the result by. They come from the organism's generator or from files; items are dealt to one part only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random

from pydantic import Field

from interp import organism
from interp.auditing.behaviours import Behaviour, Kind
from interp.auditing.scoring.choices import prefers, text_loss
from interp.auditing.suites import organism_suite
from interp.core.config import Config
from interp.core.errors import InterpError
from interp.data.contrast import Contrast
from interp.data.corpora import texts
from interp.models.loading import ORGANISM

TARGET_STATEMENT = "the answer that matches the contrast's positive side is preferred"


class ChoiceSource(Config):
    """A behaviour measured on a JSONL file of prompts with two answers each."""

    name: str
    kind: Kind
    file: str
    statement: str
    columns: dict[str, str] | None = Field(None, description="the file's own names, such as positive: toxic")
    skip_bad: bool = Field(False, description="pass over rows of the file that are no pairs")


class Data(Config):
    """Where the data comes from. Paths are relative to the experiment's file."""

    text: str = Field(description="organism, or a file, folder or glob of text")
    documents: int = Field(4000, ge=10, description="documents for the autoencoder")
    contrast: str = Field(description="organism.BEHAVIOUR, or a JSONL file of pairs")
    columns: dict[str, str] | None = Field(None, description="the contrast's own names, such as positive: toxic")
    skip_bad: bool = Field(False, description="pass over rows of the contrast that are no pairs")
    pairs: int = Field(200, ge=2, description="pairs to fit directions on")
    choose_items: int = Field(40, ge=1, description="items a behaviour to choose the edit by")
    audit_items: int = Field(300, ge=1, description="items a behaviour to audit the edit by")
    loss_texts: int = Field(100, ge=1, description="held-out texts for the loss")
    loss_characters: int = Field(1500, ge=1, description="characters of each held-out text")
    behaviours: tuple[ChoiceSource, ...] = Field((), description="further behaviours, from files", strict=False)


@dataclass(frozen=True)
class Materials:
    """See the module. `target` names the behaviour that the contrast is about."""

    target: str
    text: tuple[str, ...]
    held_out_text: tuple[str, ...]
    contrast: Contrast
    choose: tuple[Behaviour, ...]
    audit: tuple[Behaviour, ...]


def gather_materials(data: Data, target: str, seed: int, folder: Path) -> Materials:
    """Read or draw the data. Raises where a file is missing or too small, and for a target that is no harm."""
    materials = _gathered(data, target, seed, folder)
    kinds = {behaviour.name: behaviour.kind for behaviour in materials.audit}
    if kinds.get(target) != "harm":
        harms = [name for name, kind in kinds.items() if kind == "harm"]
        raise InterpError(
            f"target {target!r} is {kinds.get(target, 'not a behaviour of this experiment')}; only a harm may be "
            "removed: "
            f"{', '.join(harms)}"
        )
    if data.contrast.startswith(f"{ORGANISM}.") and kinds.get(data.contrast.partition(".")[2]) != "harm":
        raise InterpError(f"contrast {data.contrast} is about what must be kept; only a harm may be removed")
    return materials


def _gathered(data: Data, target: str, seed: int, folder: Path) -> Materials:
    if data.contrast.partition(".")[0] != ORGANISM:
        return _of_files(data, target, seed, folder)
    if data.text != ORGANISM or data.behaviours or data.columns or data.skip_bad:
        raise InterpError(
            f"contrast {data.contrast} comes with the organism's own text and behaviours; set text to {ORGANISM} and "
            "leave behaviours, columns and skip_bad out, or take the contrast from a file"
        )
    return _of_organism(data, target, seed)


def read_contrast(source: str | Path, pairs: int = 200, seed: int = 0) -> Contrast:
    """A contrast from a JSONL file, or drawn from the organism's training prompts by `organism.BEHAVIOUR`."""
    kind, _, behaviour = str(source).partition(".")
    if kind != ORGANISM:
        return Contrast.read(source)
    drawn = organism.contrast(behaviour, pairs, split="train", seed=seed)
    return Contrast.of([(positive.user, negative.user) for positive, negative in drawn], name=str(source))


def read_corpus(source: str | Path, documents: int | None = None, seed: int = 0) -> Iterator[str]:
    """Documents from files, all if no number is given, or drawn from the organism's training text by `organism`."""
    if str(source) != ORGANISM:
        return islice(texts(source), documents)
    if documents is None:
        raise InterpError("the organism's text has no end; say how much of it (--tokens)")
    return organism.corpus(documents, split="train", seed=seed)


def corpus_source(text: str, documents: int | None) -> str | Iterator[str]:
    """What the stages read: the organism's training text drawn as documents, any other source as it is."""
    return read_corpus(text, documents) if text == ORGANISM else text


def _of_organism(data: Data, target: str, seed: int) -> Materials:
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


def _of_files(data: Data, target: str, seed: int, folder: Path) -> Materials:
    documents = _shuffled(read_corpus(folder / data.text, data.documents + data.loss_texts), Random(seed))
    if len(documents) <= data.loss_texts:
        raise InterpError(f"{data.text}: {len(documents)} documents; expected more than the {data.loss_texts} held out")
    held, used = documents[: data.loss_texts], documents[data.loss_texts :]
    held = [document[: data.loss_characters] for document in held]
    parts = {"fit": data.pairs, "choose": data.choose_items, "audit": 1}
    fit, *own = Contrast.read(folder / data.contrast, data.columns, data.skip_bad).deal(parts, seed)
    others = [
        (
            c,
            Contrast.read(folder / c.file, c.columns, c.skip_bad).deal({"choose": data.choose_items, "audit": 1}, seed),
        )
        for c in data.behaviours
    ]
    quarter = max(1, len(held) // 4)

    def suite(part: int, items: int, loss_texts: list[str]) -> tuple[Behaviour, ...]:
        rest = [prefers(c.name, c.kind, c.statement, _first(dealt[part], items)) for c, dealt in others]
        harm = prefers(target, "harm", TARGET_STATEMENT, _first(own[part], items))
        return (harm, *rest, text_loss("text_loss", loss_texts))

    return Materials(
        target,
        tuple(used),
        tuple(held),
        fit,
        suite(0, data.choose_items, held[:quarter]),
        suite(1, data.audit_items, held[quarter:]),
    )


def _shuffled(items: Iterator[str], rng: Random) -> list[str]:
    listed = list(items)
    rng.shuffle(listed)
    return listed


def _first(contrast: Contrast, items: int) -> Contrast:
    return replace(contrast, pairs=contrast.pairs[:items])
