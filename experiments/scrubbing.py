"""Concept scrubbing of SmolLM2: what it costs to keep a concept from every layer, beside the concept-erasure package.

    [PYTHONPATH=DIR] python experiments/scrubbing.py [--smoke] [--text PATTERN] [--model FOLDER] [--json FILE]

Two concepts of tokens: the class of the word a token is part of (eleven classes by closed lists and endings, like parts
of speech), and a rare one, whether a word such as "however" or "therefore" comes within the next 20 characters. Erasers
are fitted site by site, each on activations already scrubbed before it (Belrose et al. 2023, "LEACE", section 5, whose
protocol this follows), on one half of the documents; the other half measures

- bits per byte of the scrubbed model,
- the largest correlation between a coordinate and a class at any of seven sites, on the tokens fitted on: 0 is the
  guarantee,
- AUROC of linear probes trained on scrubbed activations of the middle and last site, on held-out tokens, the mean over
  the classes,
- displaced: the mean squared change over the variance, the mean over the sites,

for our LEACE and SAL, for the package's LEACE with its defaults on the very same covariances, and for as many random
directions as LEACE erases. Needs the concept-erasure package on the path for its rows; without it they are left out.
"""

import argparse
import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from math import log
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import interp
from interp.core.linalg import orthonormal_rows
from interp.data.corpora import texts
from interp.directions.methods.erasure import LEVEL, Eraser, ErasureFitter
from interp.directions.methods.scrubbing import EraserFit, ScrubbedEraser, scrub
from interp.directions.scores import auroc
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.models.tokens import Tokens

MODEL = Path(__file__).parent / ".cache" / "smollm2-135m-instruct"
TEXT = Path(__file__).parents[2] / "shared" / "data" / "text_corpus" / "*.jsonl"
BATCH = 16
CLOSED = {
    "article": "a an the this that these those",
    "preposition": "of in to for with on at by from as into about after over between through under before against",
    "conjunction": "and or but nor if because while although though than whether so yet unless since until",
    "pronoun": "i you he she it we they me him her us them my your his its our their who which what whose himself",
    "auxiliary": "is are was were be been being am have has had do does did will would should can could may might",
}
ENDINGS = {"adverb": ("ly",), "gerund": ("ing",), "past": ("ed",), "noun": ("tion", "ment", "ness", "ity", "ism", "s")}
CLASSES = ("other", "mark", *CLOSED, *ENDINGS)
_TURN = re.compile(r"\b(however|therefore|moreover|nevertheless|otherwise|indeed|perhaps|furthermore)", re.IGNORECASE)
_WORD = {word: name for name, words in CLOSED.items() for word in words.split()}


@dataclass(frozen=True)
class Labelled:
    """Documents as tokens, all of one length, a label for each token, and the bytes of all but first tokens."""

    tokens: Tokens
    labels: list[list[int]]
    size: int


@dataclass(frozen=True)
class Row:
    """What one way of scrubbing did; see the module."""

    name: str
    erased: float
    bits: float
    correlation: float
    auroc: float
    displaced: float


def word_class(text: str, start: int, stop: int) -> int:
    """The class of the word that the characters from `start` to `stop` are part of."""
    while start < stop and text[start].isspace():
        start += 1
    if start == stop or not text[start].isalnum():
        return CLASSES.index("mark")
    left = re.search(r"\w*$", text[max(0, start - 30) : start])
    right = re.match(r"\w*", text[start:])
    word = ((left[0] if left else "") + (right[0] if right else "")).lower()
    if word in _WORD:
        return CLASSES.index(_WORD[word])
    return CLASSES.index(
        next((name for name, ends in ENDINGS.items() if len(word) > 4 and word.endswith(ends)), "other")
    )


def before_a_turn(text: str, start: int, stop: int) -> int:
    """Whether a word such as "however" follows within 20 characters."""
    del start
    return int(_TURN.search(text[stop : stop + 20]) is not None)


def labelled(model: HookedModel, documents: list[str], label: Callable[[str, int, int], int], length: int) -> Labelled:
    """The first `length` tokens of each document that has as many, labelled."""
    ids, labels, size = [], [], 0
    for text in documents:
        encoded = model.tokenizer(text[: 12 * length], return_offsets_mapping=True)
        if len(encoded.input_ids) < length:
            continue
        spans = encoded.offset_mapping[:length]
        ids.append(encoded.input_ids[:length])
        labels.append([label(text, *span) for span in spans])
        size += len(text[spans[0][1] : spans[-1][1]].encode())
    stacked = torch.tensor(ids)
    return Labelled(Tokens(stacked, torch.ones_like(stacked, dtype=torch.bool)), labels, size)


def packages(fitter: ErasureFitter, level: float, **options: Any) -> Eraser:
    """concept-erasure's eraser of our fitter's covariances; of two classes it is given one, as its users do."""
    del level
    from concept_erasure import LeaceFitter

    sxx, sxz, _ = fitter.covariances()
    sxz = sxz[:, 1:] if fitter.n_concepts == 2 else sxz
    leace = LeaceFitter(*sxz.shape, dtype=torch.float64, **options)
    leace.n, leace.sigma_xx_, leace.sigma_xz_ = torch.tensor(fitter.count), sxx * fitter.count, sxz * fitter.count
    read, write = leace.eraser.proj_right, leace.eraser.proj_left.T
    moved = float(((read @ sxx @ read.T) * (write @ write.T)).sum() / sxx.trace())
    mean = fitter.sal(1.0).mean
    return Eraser(read, write, mean, "concept-erasure", fitter.count, {"displaced": moved})


def at_random(fitter: ErasureFitter, level: float, rank: int) -> Eraser:
    """As many random directions projected out."""
    del level
    draw = torch.Generator().manual_seed(0)
    rows = orthonormal_rows(torch.randn(rank, fitter.d_model, generator=draw)).double()
    sxx = fitter.covariances()[0]
    moved = float((rows @ sxx * rows).sum() / sxx.trace())
    return Eraser(rows, rows, fitter.sal(1.0).mean, "random", fitter.count, {"displaced": moved})


def bits_per_byte(model: HookedModel, data: Labelled) -> float:
    """Of all but first tokens."""
    total = 0.0
    for start in range(0, len(data.tokens), BATCH):
        rows = data.tokens.rows(start, start + BATCH)
        total += float(next_token_losses(model.logits(rows), rows.ids, rows.predicted).double().sum())
    return total / log(2) / data.size


def taken_in(model: HookedModel, data: Labelled, sites: list[str]) -> dict[str, ErasureFitter]:
    """Covariances of activations and classes at the sites, over all but first tokens, as the model is hooked."""
    classes = torch.tensor(data.labels)
    fitters = {site: ErasureFitter(model.d_model, int(classes.max()) + 1) for site in sites}
    for start in range(0, len(data.tokens), BATCH):
        acts = model.capture(data.tokens.rows(start, start + BATCH), sites, batch_size=BATCH, copy=False)
        for site, fitter in fitters.items():
            fitter.update(acts[site][:, 1:].flatten(0, 1), classes[start : start + BATCH, 1:].flatten())
    return fitters


def largest_correlation(fitter: ErasureFitter) -> float:
    """Between any coordinate and any class."""
    sxx, sxz, szz = fitter.covariances()
    scale = sxx.diagonal()[:, None] * szz.diagonal()
    return float((sxz / scale.sqrt())[scale > 0].abs().max())


def probed(model: HookedModel, fitters: dict[str, ErasureFitter], test: Labelled) -> float:
    """Held-out AUROC of ridge probes at the fitters' sites, the mean over sites and classes."""
    acts = model.capture(test.tokens, list(fitters), batch_size=BATCH)
    truth, areas = torch.tensor(test.labels)[:, 1:].flatten(), []
    for site, fitter in fitters.items():
        sxx, sxz, _ = fitter.covariances()
        probe = torch.linalg.solve(sxx + 1e-3 * torch.diag(sxx.diagonal()), sxz)
        scores = acts[site][:, 1:].flatten(0, 1).double() @ probe
        classes = [c for c in range(fitter.n_concepts) if 0 < int((truth == c).sum()) < len(truth)]
        areas += [auroc(scores[truth == c, c], scores[truth != c, c]) for c in classes]
    return sum(areas) / len(areas)


def measured(
    name: str, model: HookedModel, fitted: ScrubbedEraser, fit: Labelled, test: Labelled, sites: list[str]
) -> Row:
    """A row of the table, with the erasers running."""
    with model.hooked(fitted):
        fitters, bits = taken_in(model, fit, sites[:: max(1, len(sites) // 6)] + sites[-1:]), bits_per_byte(model, test)
        read = list(fitters)[len(fitters) // 2], sites[-1]
        probe = probed(model, {site: fitters[site] for site in read}, test)
    correlation = max(largest_correlation(fitter) for fitter in fitters.values())
    count = max(1, len(fitted))
    erased = sum(len(eraser.read) for _, eraser in fitted) / count
    displaced = sum(eraser.statistics["displaced"] for _, eraser in fitted) / count
    return Row(name, erased, bits, correlation, probe, displaced)


def compared(model: HookedModel, fit: Labelled, test: Labelled, sites: list[str], level: float) -> list[Row]:
    """Every way of scrubbing on one concept; `level` is of the test whether there is anything to erase."""
    classes = 1 + max(map(max, fit.labels))
    ways: dict[str, EraserFit] = {"LEACE": ErasureFitter.leace, "SAL": ErasureFitter.sal}
    if find_spec("concept_erasure"):
        ways |= {"concept-erasure LEACE": packages}
        ways |= {"the same, svd_tol 1e-6": partial(packages, svd_tol=1e-6)}
    ways |= {f"random, {classes - 1} directions": partial(at_random, rank=classes - 1)}
    rows = [measured("unedited", model, [], fit, test, sites)]
    for name, way in ways.items():
        fitted = scrub(model, fit.tokens, fit.labels, sites, fit=way, level=level, batch_size=BATCH)
        rows.append(measured(name, model, fitted, fit, test, sites))
    return rows


def drawn_at_random(share: float, rows: int = 20_000, width: int = 64) -> Table:
    """Normal activations, moved a little by a rare concept: the largest correlation before and after each eraser."""
    draw = torch.Generator().manual_seed(0)
    z = (torch.rand(rows, generator=draw) < share).long()
    mixing = torch.randn(width, width, generator=draw, dtype=torch.float64)
    moved = torch.randn(width, generator=draw, dtype=torch.float64) * 0.3
    x = (torch.randn(rows, width, generator=draw, dtype=torch.float64) + z[:, None] * moved) @ mixing
    fitter = ErasureFitter(width, 2).update(x, z)
    table = Table("", "correlation", title=f"drawn at random: a concept of {share:.1%} of {rows:,} rows, width {width}")
    table.add_row("as drawn", f"{largest_correlation(fitter):.1e}")
    ways: dict[str, EraserFit] = {"LEACE": ErasureFitter.leace}
    if find_spec("concept_erasure"):
        ways |= {"concept-erasure LEACE": packages, "the same, svd_tol 1e-6": partial(packages, svd_tol=1e-6)}
    for name, way in ways.items():
        left = largest_correlation(ErasureFitter(width, 2).update(way(fitter, LEVEL)(x), z))
        table.add_row(name, f"{left:.1e}")
    return table


def shown(title: str, rows: list[Row]) -> Table:
    """The rows as a table."""
    table = Table("", "directions", "bits/byte", "correlation left", "probe AUROC", "displaced", title=title)
    for row in rows:
        figures = f"{row.bits:.3f}", f"{row.correlation:.1e}", f"{row.auroc:.3f}", f"{row.displaced:.2%}"
        table.add_row(row.name, f"{row.erased:.1f}", *figures)
    return table


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default=str(MODEL))
    parser.add_argument("--text", default=str(TEXT))
    parser.add_argument("--smoke", action="store_true", help="few texts and sites")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    count, length = (48, 48) if options.smoke else (160, 128)
    model = interp.load(options.model)
    sites = [f"resid_post.{n}" for n in range(model.n_layers)][-2 if options.smoke else 0 :]
    documents = [text for text in texts(options.text) if len(text) > 4 * length]
    random.Random(0).shuffle(documents)
    results = {}
    for title, label in (("word class", word_class), ("a turn ahead", before_a_turn)):
        fit, test = (labelled(model, half[:count], label, length) for half in (documents[::2], documents[1::2]))
        shares = torch.tensor(fit.labels).flatten().bincount() / torch.tensor(fit.labels).numel()
        rows = compared(model, fit, test, sites, 1.0 if options.smoke else LEVEL)
        sizes = f"{len(shares)} classes, the rarest {shares.min():.2%} of {fit.tokens.ids.numel():,} tokens"
        Console(width=120).print(shown(f"{title}: {sizes}", rows))
        results[title] = [row.__dict__ for row in rows]
    for share in (0.1,) if options.smoke else (0.1, 0.01, 0.001):
        Console(width=120).print(drawn_at_random(share))
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
