"""Feature pages in Neuronpedia's JSON: one feature as its API returns it, or batches as its dashboards upload them.

A file holds one feature, a list of features, or a batch with a list under `features`. The format gives the middles of
histogram bars, so that edges are recovered only up to rounding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from interp.core.display import displayed
from interp.core.errors import InterpError
from interp.core.files import new_file, read_json, write_json
from interp.models.sites import Site
from interp.sae._settings import hook_doubts
from interp.sae.coder import SparseAutoencoder
from interp.sae.feature import Feature, Snippet


def write_feature_pages(
    features: Sequence[Feature], sae: SparseAutoencoder, file: str | Path, overwrite: bool = False
) -> None:
    """Write the pages of an autoencoder's latents, with their decoder rows, as a list in Neuronpedia's JSON.

    Args:
        features: Pages, as `feature_pages` makes them.
        sae: The autoencoder that they belong to.
        file: The new file.
        overwrite: Replace a file of such pages.

    Raises:
        InterpError: The file exists or cannot be written. It holds all pages, or what it held before.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, feature_pages, read_feature_pages, write_feature_pages
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> write_feature_pages(feature_pages(sae, model, ["the baker ."], [2]), sae, tmp / "page.json")
        >>> [(page.latent, str(page.site)) for page in read_feature_pages(tmp / "page.json")]
        [(2, 'resid_post.1')]
    """
    if overwrite and Path(file).is_file():
        read_records(file)
    with new_file(file, overwrite) as sibling:
        write_json(sibling, [_record(feature, sae) for feature in features])


def read_feature_pages(file: str | Path, site: str | Site | None = None) -> list[Feature]:
    """Read feature pages from Neuronpedia's JSON.

    Args:
        file: A feature, a list of features or a batch.
        site: The site of the features; needed only if the file names no TransformerLens hook.

    Raises:
        InterpError: The file does not hold features, or lacks a field; the field is named.

    Example:
        >>> from interp.sae import read_feature_pages
        >>> _ = (tmp / "page.json").write_text('{"index": "7", "hookName": "blocks.1.hook_resid_post"}')
        >>> read_feature_pages(tmp / "page.json")
        Traceback (most recent call last):
        interp.core.errors.InterpError: ... no field 'freq_hist_data_bar_values'; expected Neuronpedia's JSON
    """
    records = enumerate(read_records(file))
    return displayed([_feature(record, f"{file}, feature {number}", site) for number, record in records])


def read_records(file: str | Path) -> list[dict[str, Any]]:
    """The features of a file, each as plain values. Raises for a file of anything else."""
    content = read_json(file)
    records = content.get("features", [content]) if isinstance(content, dict) else content
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InterpError(f"{file}: not a feature, a list of them, or a batch; expected Neuronpedia's JSON")
    return records


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
        "explanations": [{"description": feature.label}] if feature.label else [],
    }


def _activation(snippet: Snippet) -> dict[str, Any]:
    values = list(snippet.activations)
    place = {"maxValue": values[snippet.peak], "maxValueTokenIndex": snippet.peak, "dataIndex": str(snippet.document)}
    return {"tokens": list(snippet.tokens), "values": values, **place}


def _feature(record: dict[str, Any], where: str, site: str | Site | None) -> Feature:
    hook, latent = site or record.get("hookName"), record.get("index", record.get("feature_index"))
    if hook is None:
        raise InterpError(f"{where}: names no hook; give site=, such as resid_post.3")
    at = hook if isinstance(hook, Site) else Site.parse(str(hook))
    for doubt in hook_doubts("hookName", record.get("hookName"), at).values():
        raise InterpError(f"{where}: {doubt}; leave site out, or give the pages of that site")
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
            label="; ".join(str(note["description"]) for note in record.get("explanations") or []),
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
