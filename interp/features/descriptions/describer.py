"""Describe latents by a machine, and test what it says on held-out examples.

1. The machine sees examples of a latent with the firing tokens marked, and says in a phrase what they have in common.
2. Detection: which of some held-out texts does the latent fire on? Fuzzing: are the marked tokens the right ones? Wrong
   marks are the right ones moved along the same text to tokens where the latent is silent.
3. Control: the same questions with another latent's description. A machine that does no better with the right one has
   not said what the latent means, whatever the accuracy.

After Paulo et al. 2024, arXiv:2410.13928; there, wrong marks are on texts where the latent is silent.

Limitations: the machine that describes also answers. What it says is not tested by intervention.
"""

import json
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest
from typing import TypeVar

from interp.core.errors import located
from interp.core.progress import track
from interp.features.book import Book
from interp.features.book_card import DESCRIPTIONS_FILE, REPLIES_FILE
from interp.features.descriptions.accuracy import Answer
from interp.features.descriptions.description import CONTROL, TESTS, DescribedLatents, Description, read_descriptions
from interp.features.descriptions.example_split import ExampleSplit, firing_tokens, silent_tokens
from interp.features.descriptions.options import DescribeOptions
from interp.features.descriptions.questions import (
    description_question,
    marked_text,
    read_answers,
    read_description,
    score_question,
)
from interp.features.descriptions.replies import Cost, Machine, Replies, machine_name
from interp.features.labels import FeatureLabel
from interp.features.line_file import append_lines
from interp.models.hooked import HookedModel

Result = TypeVar("Result")
Text = tuple[int, bool, str]  # the place of a text, whether the latent fires there, and the text


def describe(
    book: Book,
    machine: Machine,
    options: DescribeOptions | None = None,
    *,
    sae: str | None = None,
    latents: Sequence[int] | None = None,
) -> DescribedLatents:
    """Describe latents of a book, test the descriptions, and add them to the book's labels.

    Args:
        book: The book. What is said is added to its labels, with the machine's name as the rater, the verdict `unsure`
            and the scores; what was said in the tests to `descriptions.jsonl`, and all replies to `replies.jsonl`.
        machine: An endpoint, or a model that `interp.load` loaded.
        options: What is shown and tested.
        sae: The autoencoder's name; needed where the book has several.
        latents: The latents; by default all that fire.

    Raises:
        InterpError: A latent does not exist, or an endpoint does not reply. What it replied before is kept: the same
            call continues, and asks nothing twice.

    Example:
        >>> from interp.features import Book, describe
        >>> from interp.data import ChatEndpoint
        >>> describe(Book.open("no/such"), ChatEndpoint("http://localhost:8000/v1", "small"))
        Traceback (most recent call last):
        interp.core.errors.InterpError: no/such is no feature book ...
    """
    file = book.folder / DESCRIPTIONS_FILE
    described = read_descriptions(file)
    job = _Job(book, Replies(machine, book.folder / REPLIES_FILE), options or DescribeOptions(), sae, latents)
    with located("describing", "; replies so far are kept, and the same command continues"):
        result = job.run()
    new = [json.dumps(x.model_dump()) for x in result.descriptions if x not in described]
    if new:
        append_lines(file, new)
    labels = [
        FeatureLabel(sae=x.sae, latent=x.latent, text=x.text, rater=x.rater, scores=x.scores)
        for x in result.descriptions
    ]
    known = {x.model_copy(update={"date": "", "digest": ""}).model_dump_json() for x in book.labels.current()}
    book.labels.add(label for label in labels if label.model_dump_json() not in known)
    return result


def estimate_cost(
    book: Book,
    machine: Machine,
    options: DescribeOptions | None = None,
    *,
    sae: str | None = None,
    latents: Sequence[int] | None = None,
) -> Cost:
    """What `describe` would ask with these arguments that it has not asked before. Nothing is sent or written.

    >>> from interp.features import Book, estimate_cost
    >>> from interp.data import ChatEndpoint
    >>> estimate_cost(Book.open("no/such"), ChatEndpoint("http://localhost:8000/v1", "small"))
    Traceback (most recent call last):
    interp.core.errors.InterpError: no/such is no feature book ...
    """
    replies = Replies(machine, book.folder / REPLIES_FILE, ask=False)
    _Job(book, replies, options or DescribeOptions(), sae, latents).run()
    return replies.cost


class _Job:
    """Descriptions of some latents."""

    def __init__(
        self, book: Book, replies: Replies, options: DescribeOptions, sae: str | None, latents: Sequence[int] | None
    ):
        self.book, self.replies, self.options, self.sae = book, replies, options, book.card.name(sae)
        if latents is None:
            latents = [row["latent"] for row in book.latents("sae = ? AND count > 0", [self.sae])]
        for latent in latents:
            book.card.require_latent(self.sae, latent)
        splits = {x: ExampleSplit.of(book, self.sae, x, options) for x in dict.fromkeys(latents)}
        self.splits = {latent: split for latent, split in splits.items() if split}
        self.few = tuple(latent for latent, split in splits.items() if not split)

    def run(self) -> DescribedLatents:
        """Describe and test."""
        said = dict(zip(self.splits, self._each(self._description, list(self.splits), "describing"), strict=True))
        texts = {latent: text for latent, text in said.items() if text is not None}
        others = _others(list(texts), self.options.seed) if self.options.control else {}
        kinds = [("", {latent: latent for latent in texts}), (CONTROL, others)]
        asked = [(x, test, kind, texts[of[x]]) for kind, of in kinds for test in TESTS for x in of]
        answers = self._each(lambda question: self._answers(*question), asked, "testing")
        tests: dict[int, dict[str, list[Answer]]] = {latent: {} for latent in texts}
        for (latent, test, kind, _), answer in zip(asked, answers, strict=True):
            tests[latent][test + kind] = answer
        name, digest = machine_name(self.replies.machine)[:100], self.book.card.autoencoders[self.sae].digest
        described = [
            Description(sae=self.sae, latent=latent, rater=name, text=text, digest=digest, answers=tests[latent])
            for latent, text in texts.items()
        ]
        undescribed = tuple(latent for latent, text in said.items() if text is None)
        return DescribedLatents(tuple(described), self.few, undescribed)

    def _each(self, function: Callable[..., Result], items: Sequence[object], title: str) -> list[Result]:
        """A function of each item, some at a time."""
        at_a_time = 1 if isinstance(self.replies.machine, HookedModel) else self.options.parallel
        with ThreadPoolExecutor(at_a_time) as pool:
            return list(track(pool.map(function, items), title, len(items)))

    def _description(self, latent: int) -> str | None:
        texts = [marked_text(row["tokens"], firing_tokens(row)) for row in self.splits[latent].shown]
        question, size = description_question(texts), self.options.max_tokens
        return read_description(self.replies.reply(question, lambda said: read_description(said) is not None, size))

    def _answers(self, latent: int, test: str, kind: str, description: str) -> list[Answer]:
        """What the machine says of the texts of a test, with a description."""
        rng, split = random.Random(f"{self.options.seed} {latent} {test}"), self.splits[latent]
        texts = _detection(split) if test == "detection" else _fuzzing(split, rng)
        answers = []
        for part in _questions(texts, self.options.per_request, rng):
            question, count = score_question(test, description, [text for *_, text in part]), len(part)
            reply = self.replies.reply(question, partial(_readable, count), self.options.max_tokens, count)
            said: Sequence[bool | None] = read_answers(reply, count) or [None] * count
            answers += [Answer(place=x[0], fires=x[1], said=y) for x, y in zip(part, said, strict=True)]
        return answers


def _readable(count: int, reply: str) -> bool:
    return read_answers(reply, count) is not None


def _detection(split: ExampleSplit) -> list[list[Text]]:
    sides = ((True, split.held_out), (False, split.silent))
    return [[(row["place"], side, marked_text(row["tokens"])) for row in rows] for side, rows in sides]


def _fuzzing(split: ExampleSplit, rng: random.Random) -> list[list[Text]]:
    """The held-out examples with the right marks, and with wrong ones those that have room for them."""
    marks = [(True, [firing_tokens(row) for row in split.held_out])]
    marks += [(False, [silent_tokens(row, rng) for row in split.held_out])]
    return [
        [(row["place"], side, marked_text(row["tokens"], x)) for row, x in zip(split.held_out, each, strict=True) if x]
        for side, each in marks
    ]


def _questions(sides: list[list[Text]], size: int, rng: random.Random) -> list[list[Text]]:
    """Texts of both sides in groups, each in random order; what the sides have in common is put far apart."""
    right, wrong = sides
    half = len(wrong) // 2
    texts = [x for turn in zip_longest(right, wrong[half:] + wrong[:half]) for x in turn if x]
    groups = [texts[start : start + size] for start in range(0, len(texts), size)]
    return [rng.sample(group, len(group)) for group in groups]


def _others(latents: list[int], seed: int) -> dict[int, int]:
    """For each latent another one, each once; none for a single latent."""
    mixed = random.Random(seed).sample(latents, len(latents))
    return dict(zip(mixed, mixed[1:] + mixed[:1], strict=True)) if len(mixed) > 1 else {}
