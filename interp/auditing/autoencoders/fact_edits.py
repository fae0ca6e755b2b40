"""Facts edited through latents: one attribute of a town apart from its others, or the facts of one topic.

In questions about the organism's facts some latents take other values, at one site:

- disentangling: at the tokens of the town's name, the values that they have for another town's, as in RAVEL (Huang et
  al. 2024, https://arxiv.org/abs/2402.17700); the answers that are compared are the two towns';
- unlearning: zero on all tokens but the first, as in SAEBench (after Farrell et al. 2024,
  https://arxiv.org/abs/2410.19278); the right answer is compared with a wrong one.

The margin is log p(right answer) - log p(the other one). `cause` (`forgotten`) is the share of the margin that is lost
in questions about the topic that the latents are chosen for, 1 where the other answer is as likely; `isolation`
(`kept`) the share that is kept in as many questions about other topics; the score their mean. Only questions that the
model answers right count.

Latents are chosen on the questions about half of the towns: those that would lower the margins about the topic most, to
first order, less what they would change the others. Of 16, 64 and 256 of them those with the best score there are
taken. RAVEL and SAEBench train a mask, or choose by where latents fire, and count answers; here all dictionaries are
treated alike, and nothing is trained.

Limitations: answers are compared by the first token in which they differ. At later layers the model has read the town
already, and nothing at its name causes anything: swapping the whole activations there (`cause, whole activation`) shows
how much could be.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from random import Random

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp import organism
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.tokens import Tokens, common_length
from interp.organism import world
from interp.sae.coder import SparseAutoencoder

EDITS = DISENTANGLING, UNLEARNING = "disentangling", "unlearning"
WHOLE = "cause, whole activation"
_COUNTS, _BATCH, _LEAST = (16, 64, 256), 32, 16
Moved = Callable[[Tensor, Tensor], Tensor]  # activations at places, their numbers, and what takes their place


@dataclass(frozen=True)
class FactQuestion:
    """A question about a town.

    Attributes:
        text: The dialogue up to the answer.
        topic: What is asked.
        town: About which town.
        answer: The right answer.
        other: A wrong one; that of the source, if there is one.
        source: A question of the same topic about another town, whose name has as many tokens.
    """

    text: str
    topic: str
    town: str
    answer: str
    other: str = ""
    source: "FactQuestion | None" = None

    @property
    def fit(self) -> bool:
        """Whether latents are chosen on it; all questions about one town are on one side."""
        return world.world_digest("half", self.town) % 2 == 0

    def name(self, model: HookedModel) -> tuple[int, int]:
        """The numbers of the first token of the town's name and of that after it."""
        start = self.text.index(self.town)
        # A space before a word is part of its first token.
        before, after = self.text[:start].removesuffix(" "), self.text[: start + len(self.town)]
        begin, end = model.tokens([before, after]).lengths.tolist()
        return begin, end


def is_organism(model: HookedModel) -> bool:
    """Whether a model has the organism's chat markers, so that its facts and concepts are known."""
    return set(organism.MARKERS.values()) <= set(model.tokenizer.get_vocab())


def fact_questions(model: HookedModel, items: int, swapped: bool, seed: int = 0) -> list[FactQuestion]:
    """Questions about the facts of the organism's towns.

    Args:
        model: The organism.
        items: Questions of each topic.
        swapped: Compare with the value of another town, whose question is the `source`.
        seed: Seed of the sample.

    Example:
        >>> from interp.auditing.autoencoders.fact_edits import fact_questions
        >>> question = fact_questions(model, 4, swapped=False)[0]
        >>> question.text.endswith("It is"), question.other == question.answer
        (True, False)
    """
    rng, by_topic = Random(seed), dict[str, list[FactQuestion]]()
    for prompt in organism.prompts("facts", 8 * items, seed=seed):
        topic, town = prompt.labels.topic, str(prompt.labels.entity)
        if prompt.labels.group is None and len(side := by_topic.setdefault(topic, [])) < items:
            side.append(FactQuestion(model.chat(prompt.user) + "It is", topic, town, f" {world.fact(topic, town)}"))
    questions = []
    size = cache(lambda one: one.name(model)[1] - one.name(model)[0])
    for one in (question for side in by_topic.values() for question in side):
        wrong = [f" {value}" for value in world.RELATIONS[one.topic] if f" {value}" != one.answer]
        sources = [
            x for x in by_topic[one.topic] if x.answer != one.answer and x.fit == one.fit and size(x) == size(one)
        ]
        if not swapped:
            questions.append(replace(one, other=rng.choice(wrong)))
        elif sources:
            source = rng.choice(sources)
            questions.append(replace(one, other=source.answer, source=source))
    return questions


def edit_scores(
    saes: Mapping[str, SparseAutoencoder], model: HookedModel, questions: Sequence[FactQuestion]
) -> tuple[dict[str, dict[str, list[float]]], dict[str, list[str]]]:
    """How well each dictionary edits the facts of one topic and leaves the others, on held-out questions of all topics.

    Questions about one town are alike, and one comes back under other topics, so that the towns are the clusters.

    Args:
        saes: Dictionaries of one site of the organism.
        model: The organism.
        questions: Questions of several topics, all with a source or none.

    Returns:
        For each dictionary and measure one score per item; and for each measure the town of each item.

    Raises:
        InterpError: The model answers too few questions right.
    """
    first, swapped = next(iter(saes.values())), questions[0].source is not None
    asked = _AskedFacts(model, first, questions)
    right = asked.plain > 0
    fit = torch.tensor([x.fit for x in questions])
    if min(int((right & half).sum()) for half in (fit, ~fit)) < _LEAST:
        raise InterpError(f"the model answers {int(right.sum())} of {len(right)} questions right; give more items")
    topics = [x.topic for x in questions]
    names = ("cause", "isolation", "score") if swapped else ("forgotten", "kept", "score")
    scores: dict[str, dict[str, list[float]]] = {name: {key: [] for key in names} for name in saes}
    towns: dict[str, list[str]] = {key: [] for key in (*names, WHOLE)}

    def towns_of(rows: Bool[Tensor, "question"]) -> list[str]:
        return [questions[number].town for number in rows.nonzero()[:, 0].tolist()]

    towns[WHOLE] = towns_of(right & ~fit)
    whole = (1 - asked.margins(right & ~fit, asked.whole) / asked.plain)[right & ~fit].clamp(0, 1)
    for name, sae in track(saes.items(), "fact edits", unit="dictionaries"):
        shares = asked.shares(sae)
        for topic in dict.fromkeys(topics):
            own = torch.tensor([x == topic for x in topics])
            halves = [_matched(own & half & right, ~own & half & right) for half in (fit, ~fit)]
            drop = shares[own & fit & right].mean(0) - shares[~own & fit & right].abs().mean(0)
            ranked = drop.argsort(descending=True)
            tried = [ranked[:count] for count in _COUNTS]
            best = max(tried, key=lambda latents: float(torch.cat(asked.hits(sae, latents, *halves[0])).mean()))
            gone, kept = asked.hits(sae, best, *halves[1])
            for key, values in zip(names, (gone, kept, torch.cat([gone, kept])), strict=True):
                scores[name][key] += values.tolist()
            if sae is first:  # the same items for all
                sides = [towns_of(rows) for rows in halves[1]]
                for key, of in zip(names, (*sides, sides[0] + sides[1]), strict=True):
                    towns[key] += of
        if swapped:
            scores[name][WHOLE] = whole.tolist()
    return scores, towns


def _matched(own: Bool[Tensor, "question"], rest: Bool[Tensor, "question"]) -> tuple[Tensor, Tensor]:
    """Questions about a topic, and as many of the others."""
    others = rest.nonzero()[:, 0]
    chosen = others[torch.linspace(0, len(others) - 1, min(int(own.sum()), len(others))).long()]
    return own, torch.zeros_like(own).index_fill(0, chosen, True)


class _AskedFacts:
    """Questions up to the first token in which two answers differ, and the places whose activations are edited."""

    def __init__(self, model: HookedModel, sae: SparseAutoencoder, questions: Sequence[FactQuestion]):
        self._model, self._site = model, sae.site
        texts = [x.text + x.answer for x in questions], [x.text + x.other for x in questions]
        sides = [model.tokens(side).unpadded() for side in texts]
        shared = [common_length(pair) for pair in zip(*sides, strict=True)]
        self._tokens = model.tokens([ids[:n] for ids, n in zip(sides[0], shared, strict=True)])
        self._answers = torch.tensor([[side[row][n] for side in sides] for row, n in enumerate(shared)])
        self._edited, self._source = self._tokens.mask & (self._tokens.position_ids > 0), None
        if sources := [x.source for x in questions if x.source]:
            self._edited = _names(model, self._tokens, questions)
            tokens = model.tokens([x.text for x in sources])
            self._source = model.capture(tokens, sae.site)[sae.site][_names(model, tokens, sources)].float()
        # Places are numbered through all questions.
        self._number = (self._edited.flatten().cumsum(0) - 1).view_as(self._edited)
        self._question = self._edited.nonzero()[:, 0]

    def _batches(self, rows: Bool[Tensor, "question"]) -> Iterator[tuple[Tensor, Tokens, Tensor, Tensor]]:
        """Questions, their tokens, the places that are edited, and their numbers."""
        for part in rows.nonzero()[:, 0].split(_BATCH):
            tokens = self._tokens.pick(part)
            edited, number = (x[part][:, -tokens.ids.shape[1] :] for x in (self._edited, self._number))
            yield part, tokens, edited, number[edited]

    def _margins(self, part: Tensor, tokens: Tokens) -> Float[Tensor, "question"]:
        logits = self._model.forward(tokens, last=1)[:, -1].float().cpu()
        return logits.gather(1, self._answers[part]) @ torch.tensor([1.0, -1.0])

    @torch.no_grad()
    def margins(self, rows: Bool[Tensor, "question"] | None = None, moved: Moved | None = None) -> Tensor:
        """log p(answer) - log p(the other answer), with activations that are moved; NaN for other rows."""
        rows = torch.ones(len(self._tokens), dtype=torch.bool) if rows is None else rows
        found = torch.full((len(rows),), float("nan"))
        for part, tokens, edited, place in self._batches(rows):

            def change(x: Tensor, edited: Tensor = edited, place: Tensor = place) -> Tensor:
                x = x.clone()
                x[edited] = x[edited] if moved is None else moved(x[edited].float(), place).to(x.dtype)
                return x

            with self._model.hooked([(self._site, change)]):
                found[part] = self._margins(part, tokens)
        return found

    @cached_property
    def plain(self) -> Float[Tensor, "question"]:
        """The margins of the plain model."""
        return self.margins()

    def whole(self, x: Tensor, place: Tensor) -> Tensor:
        """The activations at the names of the sources, for `margins`."""
        return torch.zeros_like(x) if self._source is None else self._source[place]

    def _changes(self, sae: SparseAutoencoder, x: Tensor, place: Tensor) -> Float[Tensor, "place d_sae"]:
        """By how much latents change: to zero, or to what they are at the names of the sources."""
        return (0 if self._source is None else sae.encode(self._source[place])) - sae.encode(x)

    def hits(self, sae: SparseAutoencoder, latents: Tensor, own: Tensor, rest: Tensor) -> tuple[Tensor, Tensor]:
        """How much of the margins about the topic is lost, and of the others kept, where latents are edited."""

        def moved(x: Tensor, place: Tensor) -> Tensor:
            return x + self._changes(sae, x, place)[:, latents] @ sae.W_dec[latents]

        lost = (1 - self.margins(own | rest, moved) / self.plain).clamp(0, 1).double()
        return lost[own], 1 - lost[rest]

    def shares(self, sae: SparseAutoencoder) -> Float[Tensor, "question d_sae"]:
        """By how much editing each latent would lower each question's margin, to first order."""
        shares = torch.zeros(len(self._tokens), sae.d_sae)
        for x, place, gradient in self._gradients:
            change = self._changes(sae, x, place) * (gradient @ sae.W_dec.T)
            shares.index_add_(0, self._question[place], -change)
        return shares

    @cached_property
    def _gradients(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each batch the activations that are edited, their numbers, and the margin's gradients there."""
        found = []
        with frozen_weights(self._model):
            for part, tokens, edited, place in self._batches(torch.ones(len(self._tokens), dtype=torch.bool)):
                leaf = self._model.capture(tokens, self._site)[self._site].clone().requires_grad_()
                with torch.enable_grad(), self._model.hooked([(self._site, lambda x, leaf=leaf: leaf)]):
                    (gradient,) = torch.autograd.grad(self._margins(part, tokens).sum(), leaf)
                found.append((leaf.detach()[edited].float(), place, gradient[edited].float()))
        return found


def _names(model: HookedModel, tokens: Tokens, questions: Sequence[FactQuestion]) -> Bool[Tensor, "question pos"]:
    """The tokens of the towns' names in a left-padded batch."""
    spans = torch.tensor([one.name(model) for one in questions])
    return (tokens.position_ids >= spans[:, :1]) & (tokens.position_ids < spans[:, 1:]) & tokens.mask
