"""The rows of a feature book from what a scan counted, and how they are laid out in Parquet."""

from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.features.scanning.latent_statistics import LatentStatistics
from interp.models.architectures.unembedding import logit_effect
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.similarity import nearest_rows

QUANTILES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99)
STRATA = 4
_BLOCK, _NEAREST, _WORDS = 256, 5, 10
_NEIGHBOURS = pa.list_(pa.struct({"latent": pa.int32(), "share": pa.float32()}))
_TOKENS = pa.list_(pa.struct({"token": pa.string(), "id": pa.int32(), "effect": pa.float32()}))
LATENTS = pa.schema(
    {
        "sae": pa.string(),
        "latent": pa.int32(),
        "density": pa.float64(),
        "count": pa.int64(),
        "mean": pa.float32(),
        "largest": pa.float32(),
        "quantiles": pa.list_(pa.float32()),
        "histogram": pa.list_(pa.int32()),
        "nearest_decoder": _NEIGHBOURS,
        "nearest_encoder": _NEIGHBOURS,
        "cofiring": _NEIGHBOURS,
        "promoted": _TOKENS,
        "suppressed": _TOKENS,
        "lens": pa.float32(),
        "ablation": pa.float32(),
    }
)
EXAMPLES = pa.schema(
    {
        "sae": pa.string(),
        "latent": pa.int32(),
        "kind": pa.string(),
        "value": pa.float32(),
        "place": pa.int64(),
        "document": pa.int64(),
        "peak": pa.int16(),
        "tokens": pa.list_(pa.string()),
        "ids": pa.list_(pa.int32()),
        "values": pa.list_(pa.float32()),
        "text": pa.string(),
    }
)
Rows = list[dict[str, Any]]
Reader = Callable[[int], str]


def latent_rows(
    name: str,
    sae: SparseAutoencoder,
    statistics: LatentStatistics,
    read: Reader,
    unigrams: Float[Tensor, "vocab"],
    model: HookedModel | None,
    ablations: dict[int, float | None],
) -> Iterator[tuple[Rows, Rows]]:
    """The rows of latents and of examples, for a few hundred latents at a time.

    Args:
        name: The autoencoder's name in the book.
        sae: The autoencoder.
        statistics: What was counted.
        read: The text of a token.
        unigrams: How often each token comes in the text.
        model: Its model; without one, promoted tokens and the lens are left out.
        ablations: Measured effects, by latent.
    """
    quantiles, effects = statistics.quantiles(list(QUANTILES)), _Effects.of(sae, model, unigrams)
    encoder, own = sae.W_enc if len(sae.W_enc) == sae.d_sae else sae.W_dec, torch.arange(sae.d_sae)
    near_decoder, near_encoder = (nearest_rows(rows, rows, _NEAREST, own) for rows in (sae.W_dec, encoder))
    for start in range(0, sae.d_sae, _BLOCK):
        block = range(start, min(start + _BLOCK, sae.d_sae))
        part = slice(block.start, block.stop)
        shares, others = statistics.partners(part, _NEAREST)
        direct = effects.rows(sae, part) if effects else None
        latents, examples = [], []
        for latent in block:
            slot, count = latent - start, int(statistics.count[latent])
            latents.append(
                {
                    "sae": name,
                    "latent": latent,
                    "density": count / max(1, statistics.counted),
                    "count": count,
                    "mean": float(statistics.total[latent]) / count if count else None,
                    "largest": float(statistics.largest[latent]),
                    "quantiles": quantiles[latent].tolist() if count else [],
                    "histogram": statistics.histogram[latent].tolist(),
                    "nearest_decoder": _pairs(*near_decoder, latent),
                    "nearest_encoder": _pairs(*near_encoder, latent),
                    "cofiring": [row for row in _pairs(shares, others, slot) if row["share"] > 0],
                    "promoted": _words(direct[slot], read) if direct is not None else [],
                    "suppressed": _words(-direct[slot], read, -1) if direct is not None else [],
                    "lens": effects.agreement(direct[slot], _next_tokens(statistics, latent))
                    if effects and direct is not None
                    else None,
                    "ablation": ablations.get(latent),
                }
            )
            examples += _examples(name, latent, statistics, read)
        yield latents, examples


class _Effects:
    """Direct effects of decoder rows on the logits, and how they compare with the tokens that follow."""

    def __init__(self, model: HookedModel, unigrams: Float[Tensor, "vocab"]):
        counts = torch.zeros(len(model.hf.get_output_embeddings().weight)).double()
        counts[: len(unigrams)] = unigrams[: len(counts)]
        self.model, self.shares = model, (counts / counts.sum().clamp(min=1)).float()

    @classmethod
    def of(cls, sae: SparseAutoencoder, model: HookedModel | None, unigrams: Tensor) -> "_Effects | None":
        """None without a model, and for autoencoders that do not write to the residual stream at one site."""
        if model is None or len(sae.writes) > 1 or not Site.parse(sae.writes[0].site).in_residual_basis:
            return None
        return cls(model, unigrams)

    def rows(self, sae: SparseAutoencoder, part: slice) -> Float[Tensor, "latent vocab"]:
        """The effect of each latent on each token's logit."""
        return logit_effect(self.model, sae.W_dec[part]).cpu()

    def agreement(self, effect: Float[Tensor, "vocab"], following: Int[Tensor, "n"]) -> float | None:
        """Mean effect on the tokens that follow, less that on tokens of the text, in the latter's deviations."""
        if not len(following):
            return None
        mean = (self.shares * effect).sum()
        deviation = (self.shares * (effect - mean).square()).sum().sqrt()
        return float((effect[following].mean() - mean) / deviation) if deviation > 0 else None


def _next_tokens(statistics: LatentStatistics, latent: int) -> Int[Tensor, "n"]:
    """The token after each sampled example, where its piece goes on."""
    following = statistics.sample["ids"][latent, statistics.sample["score"][latent] > -torch.inf, statistics.before + 1]
    return following[following >= 0].long()


def _examples(name: str, latent: int, statistics: LatentStatistics, read: Reader) -> Rows:
    """The top examples, largest first, and the sampled ones by quarters of their values, lowest first."""
    rows, width = [], statistics.before + 1 + statistics.after
    for kind, table in (("top", statistics.top), ("sample", statistics.sample)):
        held = (table["score"][latent] > -torch.inf).nonzero().flatten()
        if kind == "sample":
            held = held[table["value"][latent, held].argsort(stable=True)]
        inside = table["ids"][latent, held, :width] >= 0  # a run: the piece's part of the window
        starts, counts = inside.int().argmax(1), inside.sum(1)
        columns = [table[column][latent, held] for column in ("value", "place", "document", "ids", "values")]
        cells = zip(*(x.tolist() for x in (starts, starts + counts, *columns)), strict=True)
        for number, (start, stop, value, place, document, ids, values) in enumerate(cells):
            tokens = [read(token) for token in ids[start:stop]]
            rows.append(
                {
                    "sae": name,
                    "latent": latent,
                    "kind": kind if kind == "top" else f"quarter{1 + number * STRATA // len(held)}",
                    "value": value,
                    "place": place,
                    "document": document,
                    "peak": statistics.before - start,
                    "tokens": tokens,
                    "ids": ids[start:stop],
                    "values": values[start:stop],
                    "text": "".join(tokens),
                }
            )
    return rows


def _pairs(shares: Tensor, latents: Tensor, slot: int) -> Rows:
    columns = zip(latents[slot].tolist(), shares[slot].tolist(), strict=True)
    return [{"latent": latent, "share": share} for latent, share in columns]


def _words(effect: Float[Tensor, "vocab"], read: Reader, sign: int = 1) -> Rows:
    best = effect.topk(min(_WORDS, len(effect)))
    columns = zip(best.indices.tolist(), best.values.tolist(), strict=True)
    return [{"token": read(token), "id": token, "effect": sign * value} for token, value in columns]
