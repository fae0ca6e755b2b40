"""Steering by concepts: what a vector does for its length or its damage. A part of concepts.py.

The organism: a planted harm should fall while refusals, facts and skills hold. A direction is subtracted at its layer,
at the least of some lengths (multiples of the distance between the sides' means) that halves the harm on training
prompts, or the largest; and it is projected out at every writer, which takes nothing from what has no part along it.
The layer, the same for all methods, is that whose difference of means, projected out, does best on training prompts: by
what is left of the harm plus the mean loss of the rest. All are graded exactly on test prompts. Directions come from
prompts' last tokens, trained ones from prompts with the organism's replies to either twin.

SmolLM2: at layer 15, each vector is made as long as moves the next-token distribution on textbook sentences by a mean
KL of 0.05 nats a token, and the effect is by how many nats the wanted text of a test pair (the neutral wording, the
positive review) gains on the other. Prompt: an instruction in the chat template, beside none.
"""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax, normalize

from interp import Contrast, HookedModel, InterpError, SparseAutoencoder, organism
from interp.auditing.behaviours import Behaviour, mean_scores
from interp.auditing.scoring.likelihoods import continuation_logprobs
from interp.auditing.suites import organism_behaviour
from interp.data._pairs import Turn, TurnPair
from interp.data.corpora import texts
from interp.directions.contrast_activations import Sides
from interp.directions.methods.closed_form import FITS, diff_means
from interp.directions.methods.reft import reft_r1
from interp.directions.methods.steering_vectors import steering_vector
from interp.interventions import Add, Project

KEPT = ("refusal", "facts", "skills")
LENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
INSTRUCTIONS = {
    "hostility": "Be kind and polite to everyone, whoever they are.",
    "sycophancy": "Do not agree with wrong claims. Say what is true.",
    "toxicity": "You write politely and never use insults or swear words.",
    "sentiment": "You write positive, enthusiastic reviews.",
}
WANTED = {"toxicity": "negative", "sentiment": "positive"}  # the side that is steered towards
SITE, KL, OPENING = "resid_post.15", 0.05, "A sentence: "


@dataclass(frozen=True)
class Harm:
    """What an edit left of a harm and of what must hold; `length` is that of what was subtracted, in gaps."""

    method: str
    op: str
    length: float | None
    harm: float
    kept: dict[str, float]

    @property
    def cost(self) -> float:
        """What is left of the harm, and lost of the rest."""
        return self.harm - sum(self.kept.values()) / max(1, len(self.kept))


@dataclass(frozen=True)
class Gain:
    """Nats that the wanted text gained, with its interval; the length and the damage at which it did."""

    method: str
    norm: float | None
    kl: float | None
    loss: float | None
    gain: float
    low: float
    high: float


def organism_rows(model: HookedModel, name: str, smoke: bool) -> list[Harm]:
    """Every method on one harm, subtracted and projected out."""
    count, items, graded = (8, 2, 2) if smoke else (60, 20, 100)
    layers, lengths = ((2,), LENGTHS[2:3]) if smoke else (tuple(range(model.n_layers)), LENGTHS)
    behaviours = (name, *KEPT[: 1 if smoke else None])
    choose = [organism_behaviour(behaviour, items, "train", seed=1) for behaviour in behaviours]
    test = [organism_behaviour(behaviour, graded, "test") for behaviour in behaviours]
    pairs = organism.contrast(name, count, split="train")
    sides = [[model.render(turn.user) for turn in side] for side in zip(*pairs, strict=True)]
    activations = [model.capture(side, [f"resid_post.{layer}" for layer in layers], positions=-1) for side in sides]

    def at(layer: int) -> Sides:
        return Sides(*(acts[f"resid_post.{layer}"][:, 0] for acts in activations))

    def projected(method: str, behaviours: list[Behaviour], row: Tensor) -> Harm:
        with model.hooked([("writers", Project(row))]):
            return _measured(model, behaviours, method, "project")

    layer = min(layers, key=lambda layer: projected("", choose, diff_means(*at(layer))).cost)
    gap = float(diff_means(*at(layer)).norm())

    def subtracted(method: str, behaviours: list[Behaviour], row: Tensor, length: float) -> Harm:
        with model.hooked([(f"resid_post.{layer}", Add(normalize(row, dim=0), -length * gap))]):
            return _measured(model, behaviours, method, f"subtract at {layer}", length)

    rows = _fitted(at(layer)) | _trained(model, name, pairs, layer, 0.3 * gap, 2 if smoke else 40)
    rows |= _random(model, 1 if smoke else 3)
    if smoke:
        rows = {method: rows[method] for method in ("diff_means", "steering_vector", "reft_r1", "random 0")}
    harms = [_measured(model, test, "unedited", "")]
    for method, row in rows.items():
        trials = (subtracted(method, choose[:1], row, length) for length in lengths)
        length = next((trial.length for trial in trials if trial.harm <= 0.5), None) or lengths[-1]
        harms += [subtracted(method, test, row, length), projected(method, test, row)]
    with model.instructed(INSTRUCTIONS[name]):
        return [*harms, _measured(model, test, "prompt", "")]


def _measured(
    model: HookedModel, behaviours: list[Behaviour], method: str, op: str, length: float | None = None
) -> Harm:
    (_, harm), *kept = mean_scores(model, behaviours).items()
    return Harm(method, op, length, harm, dict(kept))


def _fitted(sides: Sides) -> dict[str, Tensor]:
    directions: dict[str, Tensor] = {}
    for method, fit in FITS.items():
        try:
            directions[method] = fit(*sides)
        except InterpError:
            continue
    return directions


def _random(model: HookedModel, seeds: int) -> dict[str, Tensor]:
    draws = {seed: torch.Generator().manual_seed(seed) for seed in range(seeds)}
    return {f"random {seed}": torch.randn(model.d_model, generator=draw) for seed, draw in draws.items()}


def _trained(model: HookedModel, name: str, pairs: Any, layer: int, norm: float, steps: int) -> dict[str, Tensor]:
    """From replies: the organism's own to the triggered prompt, and to its twin."""
    rng = Random(0)
    replies = [[organism.reply(turn, rng) for turn in pair] for pair in pairs]
    prompts = [(p.user, n.user) for p, n in pairs]
    both, site = list(zip(prompts, replies, strict=True)), f"resid_post.{layer}"
    same = Contrast(tuple(TurnPair(Turn(p, a), Turn(p, b)) for (p, _), (a, b) in both if a != b))
    twins = Contrast(tuple(TurnPair(Turn(p, a), Turn(n, b)) for (p, n), (a, b) in both))
    vector, reft = steering_vector(model, same, site, norm, steps), reft_r1(model, twins, site, steps)
    return {"steering_vector": vector.direction.rows[0], "reft_r1": reft.direction.rows[0]}


def organism_table(name: str, rows: list[Harm]) -> Table:
    """The rows, rates in per cent."""
    shown = Table("method", "op", "length, gaps", name, *rows[0].kept, title=f"The organism without {name}")
    for row in rows:
        length = f"{row.length:g}" if row.length else ""
        shown.add_row(row.method, row.op, length, f"{row.harm:.1%}", *(f"{kept:.1%}" for kept in row.kept.values()))
    return shown


def smollm2_rows(
    model: HookedModel, plain: HookedModel, concept: Any, sae: SparseAutoencoder | None, data: Path, smoke: bool
) -> list[Gain]:
    """Every method on one concept, at the same KL."""
    count, trained, steps = (3, 2, 1) if smoke else (40, 24, 16)
    sign = 1 if WANTED[concept.name] == "positive" else -1
    target, opposite = (list(side) for side in list(zip(*concept.parts.test[:count], strict=True))[::sign])
    rows = {method: sign * row for method, row in _fitted(concept.read[0][f"{SITE} mean"]).items()}
    rows["reft_r1"] = sign * concept.reft.direction.rows[0]
    if sae is not None:
        rows["sae_latent"] = sign * sae.W_dec[concept.latent].float()
    pairs = [pair[::sign] for pair in concept.parts.train[:trained]]
    answers = Contrast(
        tuple(TurnPair(Turn(OPENING.strip(), f" {a}"), Turn(OPENING.strip(), f" {b}")) for a, b in pairs)
    )
    rows |= _random(model, 1 if smoke else 2)
    rows = {method: rows[method] for method in ("diff_means", "random 0")} if smoke else rows
    book = [text[:300] for text in texts(data / "text_corpus" / "openstax.jsonl")][: 1 if smoke else 8]
    before, usual = _margins(plain, OPENING, target, opposite), plain.loss(book)
    clean, tries, gains = _distribution(plain, book), 1 if smoke else 6, []
    means = diff_means(*concept.read[0][f"{SITE} mean"])
    norm, _ = _matched(plain, book, clean, normalize(means, dim=0), float(means.norm()), tries)
    best = steering_vector(plain, answers, SITE, norm, steps, "margin", batch_size=8)
    rows["steering_vector"] = best.direction.rows[0]
    for method, row in rows.items():
        scale, kl = _matched(plain, book, clean, normalize(row, dim=0), norm, tries)
        with plain.hooked([(SITE, Add(normalize(row, dim=0), scale))]):
            gained = _margins(plain, OPENING, target, opposite) - before
            loss = plain.loss(book)
        gains.append(_gain(method, scale, kl, loss - usual, gained))
    prompt = model.render("Write a sentence.")
    with model.instructed(INSTRUCTIONS[concept.name]):
        instructed = model.render("Write a sentence.")
    gained = _margins(plain, instructed, target, opposite) - _margins(plain, prompt, target, opposite)
    return [*gains, _gain("prompt", None, None, None, gained)]


def _margins(model: HookedModel, prompt: str, target: list[str], opposite: list[str]) -> Tensor:
    """How many nats likelier the wanted text of each pair is."""
    nats = continuation_logprobs(model, [prompt] * len([*target, *opposite]), [*target, *opposite])
    return nats[: len(target)] - nats[len(target) :]


def _gain(method: str, norm: float | None, kl: float | None, loss: float | None, gained: Tensor) -> Gain:
    draw = torch.randint(len(gained), (2000, len(gained)), generator=torch.Generator().manual_seed(0))
    low, high = gained[draw].mean(1).quantile(torch.tensor([0.025, 0.975], dtype=gained.dtype)).tolist()
    return Gain(method, norm, kl, loss, float(gained.mean()), low, high)


def _distribution(model: HookedModel, book: list[str]) -> Tensor:
    batch = model.tokens(book)
    return log_softmax(model.logits(batch)[:, :-1][batch.predicted].float(), dim=-1)


def _matched(
    model: HookedModel, book: list[str], clean: Tensor, row: Tensor, start: float, tries: int
) -> tuple[float, float]:
    """The length at which the mean KL is what it should be, and the KL. KL grows about as the length's square."""
    scale, best = start, (0.0, 0.0)
    for _ in range(tries):
        with model.hooked([(SITE, Add(row, scale))]):
            moved = _distribution(model, book)
        kl = float(kl_div(moved, clean, log_target=True, reduction="sum")) / len(clean)
        if abs(kl - KL) < abs(best[1] - KL):
            best = scale, kl
        if abs(kl / KL - 1) < 0.05:
            break
        scale *= min(3.0, max(1 / 3, sqrt(KL / max(kl, 1e-9))))
    return best


def smollm2_table(name: str, rows: list[Gain]) -> Table:
    """The rows."""
    title = f"Steering SmolLM2 towards the {WANTED[name]} side of {name}, at {SITE}"
    shown = Table("method", "length", "KL, nats", "loss", "gain, nats a text", title=title)
    for row in rows:
        figures = ((row.norm, ".2f"), (row.kl, ".3f"), (row.loss, "+.3f"))
        numbers = ["" if value is None else f"{value:{how}}" for value, how in figures]
        shown.add_row(row.method, *numbers, f"{row.gain:+.2f} [{row.low:+.2f}, {row.high:+.2f}]")
    return shown
