"""Feature books as SAEDashboard's batches: `batch-N.json`, `skipped_indexes.json` and `run_settings.json`.

Facts of the format: sae-dashboard 0.8.0, `neuronpedia_dashboard.py` and `neuronpedia_runner.py`. A book has no
alignment and correlation of neurons, correlation of latents and histogram of logits; their lists are empty.
"""

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError, note
from interp.core.files import write_json
from interp.features.book import Book
from interp.features.scanning.latent_statistics import bin_edges
from interp.models.sites import Site

_AT_A_TIME, _BARS = 128, 40
_UNKNOWN = (
    "neuron_alignment_indices", "neuron_alignment_values", "neuron_alignment_l1",
    "correlated_neurons_indices", "correlated_neurons_l1", "correlated_neurons_pearson",
    "correlated_features_indices", "correlated_features_l1", "correlated_features_pearson",
    "logits_hist_data_bar_heights", "logits_hist_data_bar_values", "decoder_weights_dist",
)  # fmt: skip
Record = dict[str, Any]


def file_name(name: str) -> str:
    """A name of letters, digits, points, underscores and hyphens, as identifiers and files have it.

    >>> file_name("org/Model 7B")
    'org-Model-7B'
    """
    return re.sub(r"[^\w.-]+", "-", name, flags=re.ASCII).strip("-.") or "unnamed"


def write_dashboard(book: Book, folder: Path, sae: str, latents: Sequence[int]) -> None:
    """Write SAEDashboard's files of some latents into a folder."""
    place = book.card.autoencoders[sae]
    of = {"model_id": file_name(book.card.model.name), "layer": Site.parse(place.site).layer or 0}
    of |= {"sae_set": file_name(sae)}
    for number, features in enumerate(dashboard_batches(book, sae, latents)):
        write_json(folder / f"batch-{number}.json", of | {"sae_id_suffix": None, "features": features})
    skipped = sorted({*range(place.d_sae)} - {*latents})
    write_json(folder / "skipped_indexes.json", of | {"skipped_indexes": skipped})
    write_json(folder / "run_settings.json", of | _size(book) | {"n_features_at_a_time": _AT_A_TIME})


def dashboard_batches(book: Book, sae: str, latents: Sequence[int]) -> Iterator[list[Record]]:
    """The features of some latents with SAEDashboard's names, a batch at a time."""
    vectors, size = _vectors(book, sae), _size(book)
    for start in range(0, len(latents), _AT_A_TIME):
        part = list(latents[start : start + _AT_A_TIME])
        examples: dict[int, list[Record]] = {latent: [] for latent in part}
        for row in book.query("SELECT * FROM examples WHERE sae = ? AND list_contains(?, latent)", [sae, part]):
            examples[row["latent"]].append(row)
        rows = book.latents("sae = ? AND list_contains(?, latent)", [sae, part], "latent")
        yield [
            _feature(row, examples[row["latent"]])
            | {"vector": [] if vectors is None else vectors[row["latent"]].tolist()}
            | size
            for row in rows
        ]


def _size(book: Book) -> Record:
    """How much text there was, in windows of the examples' length."""
    width = book.card.options.before + 1 + book.card.options.after
    return {"n_prompts_total": book.card.tokens // width, "n_tokens_in_prompt": width, "dataset": book.card.source}


def _vectors(book: Book, sae: str) -> Float[Tensor, "d_sae d"] | None:
    """The decoder rows; None, with a note, where the autoencoder is not where it was scanned."""
    try:
        return book.card.load(sae).W_dec
    except InterpError as problem:
        note(f"features have no vectors: {problem}")
        return None


def _feature(row: Record, examples: list[Record]) -> Record:
    largest, counts = row["largest"], np.concatenate([[0], np.cumsum(row["histogram"])])
    edges = np.linspace(0, largest, _BARS + 1)
    heights = np.diff(np.interp(np.append(edges[:-1], np.inf), bin_edges().numpy(), counts)) if largest else []
    words = {
        f"{short}_{name}": [word[key] for word in row[side]]
        for short, side in (("neg", "suppressed"), ("pos", "promoted"))
        for name, key in (("str", "token"), ("values", "effect"))
    }
    return {
        "feature_index": row["latent"],
        **{name: [] for name in _UNKNOWN},
        **words,
        "frac_nonzero": row["density"],
        "freq_hist_data_bar_heights": [float(height) for height in heights],
        "freq_hist_data_bar_values": ((edges[:-1] + edges[1:]) / 2).tolist() if largest else [],
        "activations": [_activation(example, row) for example in sorted(examples, key=lambda x: x["kind"] != "top")],
    }


def _activation(example: Record, row: Record) -> Record:
    """An example with its bin: of a top example -1 to the largest value, of no share; else a quarter of the values."""
    low, high, share = -1.0, row["largest"], -1.0
    if example["kind"] != "top":
        ends = [0.0, *row["quantiles"][2:5], row["largest"]]
        quarter = bisect_right(ends[1:-1], example["value"])
        low, high, share = ends[quarter], ends[quarter + 1], 0.25
    place = {"bin_min": low, "bin_max": high, "bin_contains": share, "qualifying_token_index": example["peak"]}
    return {"tokens": example["tokens"], "values": example["values"]} | place
