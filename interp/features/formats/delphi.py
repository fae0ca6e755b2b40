"""Feature books in delphi's layout, and labels from its explanations.

- `latents/NAME/START_END.safetensors`: `locations` (row, token, latent less START), `activations`, and `tokens` (ids by
  row); `config.json` beside it.
- `explanations/NAME_latentN.txt`: a JSON string.
- `scores/detection/NAME_latentN.txt` and `scores/fuzz/…`: lists of texts with what a machine said of each.

Rows are the windows of the book, padded at the end: first those of its background (`complete_rows` in the config), with
all firings, then the examples. Facts of the format: eai-delphi 0.1.3, `latents/cache.py`, `latents/loader.py`,
`__main__.py`.

Limitations: on an example's row the book knows only the latents whose example it is, so that other latents seem silent
there. Draw texts where a latent is silent from the complete rows. Rows are no neighbours in the text: give delphi an
`example_ctx_len` of the rows' length (`ctx_len` in the config), and leave `center_examples` on.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from interp.core.errors import InterpError
from interp.core.files import write_json, write_tensors
from interp.core.inputs import bounded_text, parse_json
from interp.features.book import Book
from interp.features.book_card import DESCRIPTIONS_FILE
from interp.features.descriptions.accuracy import Answer
from interp.features.descriptions.description import read_descriptions
from interp.features.formats.saedashboard import file_name
from interp.features.labels import FeatureLabel

_TESTS = {"detection": "detection", "fuzzing": "fuzz"}
_FILE = re.compile(r".*_latent(\d+)\.txt")
Record = dict[str, Any]


def write_delphi(book: Book, folder: Path, sae: str, latents: Sequence[int]) -> None:
    """Write some latents in delphi's layout, with the descriptions and scores of the machine that was last."""
    name = file_name(sae)
    background = book.query("SELECT * FROM background WHERE sae = ?", [sae])
    examples = book.query("SELECT * FROM examples WHERE sae = ? AND list_contains(?, latent)", [sae, list(latents)])
    _write_latents(book, folder / "latents" / name, sae, latents, background, examples)
    described = {x.latent: x for x in read_descriptions(book.folder / DESCRIPTIONS_FILE, sae) if x.latent in latents}
    said: dict[int, str] = {}
    for label in book.labels.current(sae):
        if label.latent in latents:
            said[label.latent] = "; ".join(filter(None, (said.get(label.latent), label.text)))
    said |= {latent: x.text for latent, x in described.items()}
    for latent, text in said.items():
        _write_text(folder / "explanations" / f"{name}_latent{latent}.txt", text)
    silent = {row["place"]: row for row in background}
    for latent, x in described.items():
        rows = {row["place"]: row for row in examples if row["latent"] == latent}
        for test, place in _TESTS.items():
            scored = [_scored(answer, rows, silent) for answer in x.answers.get(test, ())]
            _write_text(folder / "scores" / place / f"{name}_latent{latent}.txt", scored)


def _write_text(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value), encoding="utf-8")


def _scored(answer: Answer, rows: dict[int, Record], silent: dict[int, Record]) -> Record:
    row = rows[answer.place] if answer.place in rows else silent[answer.place]
    quarter = int(row["kind"][-1]) if row.get("kind", "top") != "top" else 0
    return {
        "str_tokens": row["tokens"],
        "activations": row["values"] if answer.place in rows else [0.0] * len(row["tokens"]),
        "distance": quarter if answer.fires else -1.0,
        "activating": answer.fires,
        "prediction": answer.said,
        "probability": None,
        "correct": None if answer.said is None else answer.said == answer.fires,
    }


def _write_latents(
    book: Book, folder: Path, sae: str, latents: Sequence[int], background: list[Record], examples: list[Record]
) -> None:
    wanted, width = {*latents}, book.card.options.before + 1 + book.card.options.after
    windows = {row["place"]: row["ids"] for row in (*background, *examples)}
    number = {place: row for row, place in enumerate(windows)}
    fired = [
        (number[row["place"]], token, latent, value)
        for row in background
        for latent, token, value in zip(row["latents"], row["positions"], row["values"], strict=True)
        if latent in wanted
    ]
    complete = {row["place"] for row in background}
    once = {(row["place"], row["latent"]): row for row in examples if row["place"] not in complete}
    fired += [
        (number[place], token, latent, value)
        for (place, latent), row in once.items()
        for token, value in enumerate(row["values"])
        if value > 0
    ]
    fired.sort()  # its loader takes the firings of a row to be next to each other
    places = torch.tensor([entry[:3] for entry in fired], dtype=torch.long).view(-1, 3)
    small = not len(places) or int(places.max()) < 1 << 16
    values = torch.tensor([entry[3] for entry in fired], dtype=torch.float16)
    tokens = torch.tensor([ids + [0] * (width - len(ids)) for ids in windows.values()], dtype=torch.long)
    d_sae = book.card.autoencoders[sae].d_sae
    folder.mkdir(parents=True)
    tensors = {"locations": places.to(torch.uint16 if small else torch.uint32), "activations": values, "tokens": tokens}
    write_tensors(folder / f"0_{d_sae - 1}.safetensors", tensors)
    source = {"dataset_repo": book.card.source, "dataset_split": "", "dataset_name": "", "dataset_column": "text"}
    size = {"batch_size": 1, "cache_ctx_len": width, "ctx_len": width, "n_tokens": tokens.numel(), "n_splits": 1}
    of = {"model_name": book.card.model.name, "complete_rows": len(complete)}
    write_json(folder / "config.json", source | size | of)


def delphi_labels(folder: Path, sae: str) -> list[FeatureLabel]:
    """The explanations in a folder, or in its `explanations`, as labels by delphi. Raises where there are none."""
    inside = folder / "explanations" if (folder / "explanations").is_dir() else folder
    labels = []
    for file in sorted(inside.glob("*.txt")):
        text = bounded_text(file, "an explanation").strip()
        value = parse_json(text, file) if text.startswith('"') else text
        if (name := _FILE.fullmatch(file.name)) and value:
            labels.append(FeatureLabel(sae=sae, latent=int(name[1]), text=str(value)[:500], rater="delphi"))
    if not labels:
        raise InterpError(f"{folder} has no explanations; expected files NAME_latentN.txt, as delphi writes them")
    return labels
