"""Feature pages in Neuronpedia's JSON: what its API gives for a feature, and what its dashboards upload in batches.

A file holds one feature, a list of them, or a batch with a list under `features`. Histogram bars are given there by
their middles, so that reading gives edges to a rounding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.core.errors import InterpError
from interp.core.files import read_json, require_free, write_json
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.feature import Feature, Snippet


def write_feature_pages(features: Sequence[Feature], sae: SparseAutoencoder, file: str | Path) -> None:
    """Write the pages of an autoencoder's latents as a list of features, decoder rows included, into a new file."""
    require_free(file)
    write_json(Path(file), [_record(feature, sae) for feature in features])


def read_feature_pages(file: str | Path, site: str | Site | None = None) -> list[Feature]:
    """The pages in a file. `site` is theirs, where the file names no TransformerLens hook.

    Raises for files that are no features, by the name of the field that is missing.
    """
    where = Path(file)
    found = read_json(where)
    if isinstance(found, dict):
        found = found.get("features", [found])
    if not isinstance(found, list) or not all(isinstance(record, dict) for record in found):
        raise InterpError(f"{where}: not a feature, a list of them, or a batch; expected Neuronpedia's JSON")
    return [_feature(record, f"{where}, feature {number}", site) for number, record in enumerate(found)]


def _record(feature: Feature, sae: SparseAutoencoder) -> dict[str, Any]:
    middles = [(low + high) / 2 for low, high in zip(feature.edges, feature.edges[1:], strict=False)]
    return {
        "modelId": sae.reads[0].model.name,
        "layer": f"{feature.site.layer}-{feature.site.kind.replace('_', '-')}",
        "index": str(feature.latent),
        "hookName": feature.site.hook_name,
        "maxActApprox": feature.edges[-1],
        "frac_nonzero": feature.density,
        "freq_hist_data_bar_heights": list(feature.counts),
        "freq_hist_data_bar_values": middles,
        "pos_str": [token for token, _ in feature.promoted],
        "pos_values": [value for _, value in feature.promoted],
        "neg_str": [token for token, _ in feature.suppressed],
        "neg_values": [value for _, value in feature.suppressed],
        "topkCosSimIndices": [latent for latent, _ in feature.nearest],
        "topkCosSimValues": [cosine for _, cosine in feature.nearest],
        "vector": sae.W_dec[feature.latent].tolist(),
        "activations": [_activation(snippet) for snippet in feature.snippets],
    }


def _activation(snippet: Snippet) -> dict[str, Any]:
    values = list(snippet.activations)
    place = {"maxValue": values[snippet.peak], "maxValueTokenIndex": snippet.peak, "dataIndex": str(snippet.document)}
    return {"tokens": list(snippet.tokens), "values": values, **place}


def _feature(record: dict[str, Any], where: str, site: str | Site | None) -> Feature:
    hook, latent = site or record.get("hookName"), record.get("index", record.get("feature_index"))
    if hook is None:
        raise InterpError(f"{where}: names no hook; give site=, say resid_post.3")
    at = hook if isinstance(hook, Site) else Site.parse(str(hook))
    try:
        middles = record["freq_hist_data_bar_values"]
        half = (middles[1] - middles[0]) / 2 if len(middles) > 1 else 0.0
        counts = tuple(int(count) for count in record["freq_hist_data_bar_heights"])
        return Feature(
            latent=int(str(latent)),
            site=at,
            density=float(record["frac_nonzero"]),
            counts=counts,
            edges=tuple(middle - half for middle in middles) + ((middles[-1] + half,) if middles else (0.0,)),
            snippets=tuple(_snippet(activation) for activation in record["activations"]),
            promoted=tuple(zip(record["pos_str"], record["pos_values"], strict=True)),
            suppressed=tuple(zip(record["neg_str"], record["neg_values"], strict=True)),
            nearest=tuple(zip(record.get("topkCosSimIndices", []), record.get("topkCosSimValues", []), strict=True)),
        )
    except KeyError as missing:
        raise InterpError(f"{where}: no field {missing}; expected Neuronpedia's JSON") from None
    except (TypeError, ValueError) as problem:
        raise InterpError(f"{where}: not Neuronpedia's JSON ({problem})") from None


def _snippet(record: dict[str, Any]) -> Snippet:
    values = tuple(float(value) for value in record["values"])
    peak = max(range(len(values)), key=values.__getitem__)
    document = str(record.get("dataIndex", "0"))
    return Snippet(tuple(record["tokens"]), values, peak, int(document) if document.isdigit() else 0)
