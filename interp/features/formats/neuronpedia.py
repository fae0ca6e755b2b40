"""Feature books as Neuronpedia's exports, and labels from its files.

An export has `release.jsonl`, `model.jsonl`, `sourceset.jsonl` and `source.jsonl`, and batches of rows under
`features/`, `activations/` and `explanations/` (`batch-N.jsonl.gz`). Rows keep SAEDashboard's names. Facts of the
format: neuronpedia-utils, `convert-saedashboard-to-neuronpedia-export.py`, `export-data.py` and `db_models`.

Read are such exports, lists of explanations or features as its API returns them, and batches of features.
"""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError
from interp.core.files import read_json, sha256_json
from interp.core.inputs import bound, over_bound, parse_object
from interp.features.book import Book
from interp.features.formats.saedashboard import dashboard_batches, file_name
from interp.features.labels import FeatureLabel
from interp.models.sites import Site

_CREATOR = "interp"
_OF_RUN = ("feature_index", "activations", "n_prompts_total", "n_tokens_in_prompt", "dataset")
Record = dict[str, Any]


def write_neuronpedia(book: Book, folder: Path, sae: str, latents: Sequence[int]) -> None:
    """Write an export of some latents into a folder, with all raters' labels as explanations."""
    site = Site.parse(book.card.autoencoders[sae].site)
    model, group = file_name(book.card.model.name), file_name(sae)
    source, by = f"{site.layer or 0}-{group}", {"creatorId": _CREATOR}
    texts = {"description": f"Latents of {sae} at {site}", "creatorName": _CREATOR}
    size = {"num_prompts": None, "num_tokens_in_prompt": None, "dataset": book.card.source}
    instruct = bool(book.card.model.template)
    _write(folder / "release.jsonl", [{"name": group, "descriptionShort": group} | texts | by])
    _write(folder / "model.jsonl", [{"id": model, "instruct": instruct, "displayName": model} | by])
    _write(folder / "sourceset.jsonl", [{"modelId": model, "name": group, "releaseName": group} | texts | by])
    _write(folder / "source.jsonl", [{"id": source, "modelId": model, "setName": group} | size | by])
    labels = book.labels.current(sae)
    for number, features in enumerate(dashboard_batches(book, sae, latents)):
        keys = [{"modelId": model, "layer": source, "index": str(x["feature_index"])} for x in features]
        near = {row["latent"]: row["nearest_decoder"] for row in book.latents("sae = ?", [sae])}
        rows = [_feature(x, near[x["feature_index"]], site) | key | by for x, key in zip(features, keys, strict=True)]
        shown = [(x, key) for feature, key in zip(features, keys, strict=True) for x in feature["activations"]]
        held = {x["feature_index"]: key for x, key in zip(features, keys, strict=True)}
        said = [_explanation(x, held[x.latent]) for x in labels if x.latent in held]
        parts = {"features": rows, "activations": [_activation(x, key) | by for x, key in shown], "explanations": said}
        for name, part in parts.items():
            _write(folder / name / f"batch-{number}.jsonl.gz", part)


def _write(file: Path, rows: Iterable[Record]) -> None:
    """Rows as lines of JSON; the same rows give the same bytes."""
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(gzip.compress(data, 5, mtime=0) if file.suffix == ".gz" else data)


def _feature(feature: Record, near: list[Record], site: Site) -> Record:
    largest = max((x["bin_max"] for x in feature["activations"]), default=0.0)
    return {name: value for name, value in feature.items() if name not in _OF_RUN} | {
        "maxActApprox": largest,
        "hasVector": bool(feature["vector"]),
        "vectorLabel": None,
        "vectorDefaultSteerStrength": largest,
        "hookName": site.hook_name,
        "topkCosSimIndices": [row["latent"] for row in near],
        "topkCosSimValues": [row["share"] for row in near],
    }


def _activation(activation: Record, key: Record) -> Record:
    values = activation["values"]
    row = {"tokens": activation["tokens"], "values": values, "maxValue": max(values), "minValue": min(values)}
    row |= {
        "maxValueTokenIndex": values.index(max(values)),
        "qualifyingTokenIndex": activation["qualifying_token_index"],
    }
    row |= {"binMin": activation["bin_min"], "binMax": activation["bin_max"], "binContains": activation["bin_contains"]}
    return {"id": sha256_json([key, row])[:25]} | key | row


def _explanation(label: FeatureLabel, key: Record) -> Record:
    kind = {"typeName": "interp_describe" if label.scores else None, "explanationModelName": label.rater or None}
    row = {"description": label.text, "authorId": _CREATOR, "notes": label.note, "createdAt": label.date} | kind
    return {"id": sha256_json([key, row])[:25]} | key | row


def neuronpedia_labels(path: Path, sae: str) -> list[FeatureLabel]:
    """The explanations in a file or export as labels, with the model that explained as the rater.

    Raises where there are none, or one names no latent.
    """
    labels = []
    for record in read_records(path):
        for row in record.get("explanations") or ([record] if record.get("description") else []):
            index, text = (
                str(row.get("index", record.get("index", record.get("feature_index")))),
                row.get("description"),
            )
            if not index.isdigit():
                raise InterpError(f"{path}: {str(text)!r} belongs to latent {index}; expected its number under index")
            rater = str(row.get("explanationModelName") or row.get("typeName") or "neuronpedia")[:100]
            said, note = str(text or "")[:500], str(row.get("notes") or "")[:5000]
            labels += [FeatureLabel(sae=sae, latent=int(index), text=said, rater=rater, note=note)] if said else []
    if not labels:
        raise InterpError(f"{path} has no explanation; expected Neuronpedia's JSON, with a description at least")
    return labels


def read_records(path: str | Path) -> list[Record]:
    """The rows of Neuronpedia's files: a file of JSON or of lines of JSON, packed or not, or the folder of an export.

    Raises for a file of anything else.
    """
    place = Path(path)
    if place.is_dir():
        inside = place / "explanations" if (place / "explanations").is_dir() else place
        files = sorted(inside.glob("*.jsonl*"))
        return [record for file in files for record in read_records(file)]
    if ".jsonl" in place.suffixes:
        lines = _text(place).splitlines()
        return [parse_object(line, f"{place}, line {n}") for n, line in enumerate(lines, 1) if line.strip()]
    content = read_json(place)
    records = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InterpError(f"{place}: not a feature, a list of them, or a batch; expected Neuronpedia's JSON")
    return records


def _text(file: Path) -> str:
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as opened:
            data = opened.read(bound("file") + 1)
        if len(data) > bound("file"):
            raise over_bound(file, "longer", "file")
        return data.decode()
    except (OSError, EOFError, UnicodeDecodeError) as problem:
        raise InterpError(f"{file}: cannot be read ({problem}); expected lines of JSON") from None
