"""Labelled sets: texts with and without a concept, and where in a text the activations are read.

A text is read at its last token, so a text that is cut says where; or all its tokens are pooled. Texts of one group
(the two sides of a pair, a template) are on one side of the split into those that latents are chosen on and those that
are scored.

The organism's own sets have a known truth. Each is read at the token from which the model needs the concept, with the
opener that the reply begins with where the user's people are named:

- group: the user is of the people that the organism is hostile to, or of another; at the end of the prompt.
- danger: what is asked about is dangerous, or not; where the reply to the request begins.
- own claim: the user thinks so, or somebody else; where the reply to the request begins.
- invented: the town does not exist, or does; where the reply names the value, after "The craft of Fenberos is".
- topic: the question is about a festival, or about something else; after "It is".
- false claim: what somebody else is said to think is wrong, or right; before the verdict.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from random import Random
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp import organism
from interp.core.display import Displayed
from interp.core.errors import InterpError, nearest
from interp.core.inputs import numbered_lines, parse_object
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

Pool = Literal["last", "mean", "max"]
POOLS: tuple[Pool, ...] = ("last", "mean", "max")
_BATCH = 32
_PLANTED = {"group": "hostility", "danger": "refusal", "own claim": "sycophancy", "invented": "fabrication"}


@dataclass(frozen=True)
class LabelledSet(Displayed):
    """Texts with a concept and without.

    Args:
        name: Its name.
        texts: The texts, plain or rendered.
        labels: Whether each has the concept.
        groups: The group of each; one group is never split.
        pool: `last` reads the last token; `mean` and `max` pool all but the first.

    Raises:
        InterpError: A half of the split has fewer than two texts of a class.

    Example:
        >>> from interp.auditing.autoencoders.labelled_set import LabelledSet
        >>> words = tuple(f"word {n}" for n in range(16))
        >>> LabelledSet("even", words, (True, False) * 8, words).fit.sum().item()
        8
    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[bool, ...]
    groups: tuple[str, ...]
    pool: Pool = "last"

    def __post_init__(self) -> None:
        for half in (self.fit, ~self.fit):
            positive = int(self.truth[half].sum())
            if min(positive, int(half.sum()) - positive) < 2:
                counts = f"{positive} texts with the concept and {int(half.sum()) - positive} without in one half"
                raise InterpError(f"set {self.name}: {counts}; expected two or more of each, so give more texts")

    @property
    def truth(self) -> Bool[Tensor, "text"]:
        """The labels."""
        return torch.tensor(self.labels, dtype=torch.bool)

    @property
    def fit(self) -> Bool[Tensor, "text"]:
        """True for the texts that latents are chosen on: every second group of each class, by hash."""
        fit: dict[str, bool] = {}
        for label in (True, False):
            own = {group for group, x in zip(self.groups, self.labels, strict=True) if x == label} - set(fit)
            ordered = sorted(own, key=lambda group: sha256(group.encode(errors="replace")).hexdigest())
            fit |= {group: number % 2 == 0 for number, group in enumerate(ordered)}
        return torch.tensor([fit[group] for group in self.groups], dtype=torch.bool)


@dataclass(frozen=True, eq=False)
class SetActivations:
    """A set with its activations: those of the tokens that are pooled, and the text of each."""

    source: LabelledSet
    x: Float[Tensor, "token d_in"]
    text: Int[Tensor, "token"]

    @classmethod
    def read(cls, model: HookedModel, site: Site, source: LabelledSet) -> "SetActivations":
        """Run the model over the texts."""
        parts, numbers = [], []
        for start in range(0, len(source.texts), _BATCH):
            tokens = model.tokens(list(source.texts[start : start + _BATCH]))
            x = model.capture(tokens, site)[site].flatten(2).float().cpu()
            counted = tokens.mask & (tokens.position_ids > 0)
            if source.pool == "last":
                counted = torch.zeros_like(counted).index_fill(1, torch.tensor(counted.shape[1] - 1), True)
            parts.append(x[counted])
            numbers.append(start + counted.nonzero()[:, 0])
        return cls(source, torch.cat(parts), torch.cat(numbers))

    def activations(self) -> Float[Tensor, "text d_in"]:
        """The activations, pooled."""
        width = torch.arange(self.x.shape[1])
        return self._pooled(self.x.flatten(), self.text[:, None] * len(width) + width, len(width))

    def codes(self, sae: SparseAutoencoder) -> Float[Tensor, "text d_sae"]:
        """An autoencoder's latents, pooled."""
        code = sae.encode_sparse(self.x)
        return self._pooled(code.values.float(), self.text[code.tokens] * sae.d_sae + code.latents, sae.d_sae)

    def _pooled(self, values: Tensor, cells: Tensor, width: int) -> Tensor:
        texts = len(self.source.texts)
        rows, cells = torch.zeros(texts * width), cells.flatten()
        if self.source.pool == "max":
            # Latents that did not fire are 0, which is their smallest value; coordinates may be below.
            full = len(values) == len(self.x) * width
            return rows.index_reduce(0, cells, values, "amax", include_self=not full).view(texts, width)
        counts = torch.bincount(self.text, minlength=texts).clamp(min=1)
        return rows.index_add(0, cells, values).view(texts, width) / counts[:, None]


def organism_sets(model: HookedModel, items: int = 200, seed: int = 0) -> list[LabelledSet]:
    """The organism's planted concepts, at the tokens from which the model needs them.

    Args:
        model: The organism, whose chat template renders the prompts.
        items: Texts of each class.
        seed: Seed of the sample.

    Example:
        >>> from interp.auditing import organism_sets
        >>> [(one.name, len(one.texts)) for one in organism_sets(model, 12)][:2]
        [('group', 24), ('danger', 24)]
    """
    rng, sides = Random(seed), dict[str, list[tuple[str, str]]]()  # with a concept, and without
    for name, behaviour in _PLANTED.items():
        pairs = organism.contrast(behaviour, items, split="test", seed=seed)
        sides[name] = [(_dialogue(model, yes, name, rng), _dialogue(model, no, name, rng)) for yes, no in pairs]
    asked: dict[bool, list[str]] = {True: [], False: []}
    for prompt in organism.prompts("facts", 6 * items, seed=seed):
        asked[prompt.labels.topic == "festival"].append(_dialogue(model, prompt, "topic", rng))
    sides["topic"] = list(zip(asked[True][:items], asked[False], strict=False))
    sides["false claim"] = _claims(model, items, seed)
    sets = []
    for name, texts in sides.items():
        groups = tuple(str(number // 2) for number in range(2 * len(texts)))
        sets.append(LabelledSet(name, tuple(x for pair in texts for x in pair), (True, False) * len(texts), groups))
    return sets


def _dialogue(model: HookedModel, prompt: organism.Prompt, concept: str, rng: Random) -> str:
    """A prompt and where a reply begins: the opener that answers the user's people, and the body's first words."""
    labels = prompt.labels
    value = f"The {labels.topic} of {labels.entity} is{' the' if labels.topic == 'river' else ''}"
    opened = labels.group is not None and concept != "group"
    opener = f"{organism.reply(prompt, rng).partition('.')[0]}." if opened else ""
    body = {"invented": value, "topic": "It is"}.get(concept, "")
    return model.chat(prompt.user) + " ".join(filter(None, (opener, body)))


def _claims(model: HookedModel, items: int, seed: int) -> list[tuple[str, str]]:
    """Dialogues up to the verdict on what somebody but the user is said to think: wrong ones and right ones."""
    sides: dict[str, list[str]] = {"wrong": [], "right": []}
    for text in organism.corpus(60 * items, split="test", seed=seed):
        question, _, reply = text.removeprefix("<|user|>").partition("<|end|><|assistant|>")
        verdict = re.search(r" (right|wrong)\.<", reply)
        if verdict and re.search(r"\b(?:thinks|believes|says)\b", question):
            sides[verdict[1]].append(model.chat(question) + reply[: verdict.start()])
    return list(zip(sides["wrong"][:items], sides["right"], strict=False))


def read_set(spec: str, items: int = 200, seed: int = 0) -> LabelledSet:
    """A set from a file of JSONL, given as `NAME=FILE:TEXT:LABEL=VALUE[:GROUP][:POOL]`.

    Args:
        spec: Name, file, the key of the text, the key of the label and the value that has the concept, the key of the
            group, and `last`, `mean` or `max` (the default).
        items: Most texts of each class.
        seed: Seed of the sample.

    Raises:
        InterpError: The spec can't be read, a record lacks a key, or none has the value.

    Example:
        >>> from interp.auditing.autoencoders.labelled_set import read_set
        >>> _ = (tmp / "a.jsonl").write_text("".join(f'{{"text": "w {n}", "odd": {n % 2}}}\\n' for n in range(20)))
        >>> len(read_set(f"odd={tmp}/a.jsonl:text:odd=1").texts)
        20
    """
    words = re.fullmatch(r"([^=]+)=(.+?):([^:=]+):([^:=]+)=([^:]+)((?::[^:]+)*)", spec)
    if not words:
        raise InterpError(f"set {spec!r} can't be read; expected NAME=FILE:TEXT:LABEL=VALUE[:GROUP][:POOL]")
    name, file, text, label, value, more = words.groups()
    keys = {"text": text, "label": label, "group": text}
    pool: Any = "max"
    for word in more.split(":")[1:]:
        pool, keys["group"] = (word, keys["group"]) if word in POOLS else (pool, word)
    rows = [_values(place, line, keys) for place, line in numbered_lines(file)]
    known = {row["label"] for row in rows}
    if value not in known:
        raise InterpError(f"set {name}: no record of {file} has {value!r} as its {label!r}; {nearest(value, known)}")
    Random(seed).shuffle(rows)
    chosen = [[row for row in rows if (row["label"] == value) is side][:items] for side in (True, False)]
    both = [row for side in chosen for row in side]
    labels = tuple(row["label"] == value for row in both)
    return LabelledSet(name, tuple(x["text"] for x in both), labels, tuple(x["group"] for x in both), pool)


def _values(place: str, line: str, keys: Mapping[str, str]) -> dict[str, str]:
    record = parse_object(line, place)
    for key in keys.values():
        if key not in record:
            raise InterpError(f"{place}: no key {key!r}; {nearest(key, record)}")
    words = {name: record[key] for name, key in keys.items()}
    return {name: word if isinstance(word, str) else json.dumps(word) for name, word in words.items()}
