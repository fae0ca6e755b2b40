"""How well a machine's descriptions of latents predict where they fire: the autoencoder's and those of its controls.

All dictionaries are scanned in one pass into a feature book, which is kept and can be browsed. Of each as many latents
are drawn, among those with enough examples, and `interp.features.describe` lets the machine describe and test them. A
latent's score is its balanced accuracy; 0.5 is chance. One more control is the autoencoder's latents with one another's
descriptions. Dictionaries have different latents, so that differences are of independent means.

As in the reconstruction, the residual basis and PCA keep as many coordinates per token as the autoencoder.

After the automated interpretability score of SAEBench (Karvonen et al. 2025, arXiv:2503.09532), which is detection.
There texts that the describer sees and texts that are tested may be of one document; here they are of different ones.
"""

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from interp.auditing.autoencoders.controls import TRAINED
from interp.auditing.autoencoders.options import BenchOptions
from interp.core.errors import InterpError, note
from interp.data.corpora import Document
from interp.features.book import Book
from interp.features.descriptions.describer import describe, estimate_cost
from interp.features.descriptions.description import CONTROL, TESTS
from interp.features.descriptions.example_split import ExampleSplit
from interp.features.descriptions.options import DescribeOptions
from interp.features.descriptions.replies import Machine, machine_name
from interp.features.scanning.options import ScanOptions
from interp.features.scanning.scanner import scan
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder

SHUFFLED_DESCRIPTIONS = "shuffled descriptions"
_TIMES = 10  # how much more text is scanned than losses are measured on, where there is as much


def description_scores(
    saes: Mapping[str, SparseAutoencoder],
    model: HookedModel,
    texts: Sequence[Document],
    folder: Path,
    machine: Machine,
    options: BenchOptions,
    context: int = 128,
) -> dict[str, dict[str, list[float]]]:
    """For each dictionary and test the scores of its latents; a dictionary without describable latents has none.

    Args:
        saes: The dictionaries by name.
        model: Their model.
        texts: Documents that are scanned.
        folder: The feature book of all of them. What is there is read, and what was asked is not asked again.
        machine: What describes and answers: an endpoint, or a loaded model.
        options: How many latents of each are described.
        context: Tokens per row of text.

    Raises:
        InterpError: No latent of the autoencoder has enough examples, or the endpoint does not reply.
    """
    if not folder.exists():
        scan(saes, model, folder, ScanOptions(tokens=_TIMES * options.tokens, context=context), texts=texts)
    book, settings = Book.open(folder), DescribeOptions(seed=options.seed)
    chosen = {name: _describable(book, name, options, settings) for name in saes}
    if not chosen[TRAINED]:
        raise InterpError(
            f"no latent of the autoencoder has more than {settings.shown} examples that can be tested; give more text"
        )
    costs = [estimate_cost(book, machine, settings, sae=name, latents=chosen[name]) for name in saes]
    requests, size = (sum(getattr(cost, key) for cost in costs) for key in ("requests", "tokens_in"))
    note(f"descriptions: {requests:,} requests to {machine_name(machine)}, of about {size:,} tokens together")
    scores: dict[str, dict[str, list[float]]] = {}
    for name, latents in chosen.items():
        described = describe(book, machine, settings, sae=name, latents=latents).descriptions
        for label, kind in ((name, ""), (SHUFFLED_DESCRIPTIONS, CONTROL))[: 1 + (name == TRAINED)]:
            scores[label] = {
                test: [x.scores[test + kind][0] for x in described if test + kind in x.scores] for test in TESTS
            }
    return scores


def _describable(book: Book, sae: str, options: BenchOptions, settings: DescribeOptions) -> list[int]:
    """Some latents that have examples to show and to hold out, drawn at random."""
    rows = book.query("SELECT latent FROM latents WHERE sae = ? AND count > ? ORDER BY latent", [sae, settings.shown])
    latents, chosen = [row["latent"] for row in rows], list[int]()
    for latent in random.Random(options.seed).sample(latents, len(latents)):
        if len(chosen) < options.described and ExampleSplit.of(book, sae, latent, settings):
            chosen.append(latent)
    return sorted(chosen)
