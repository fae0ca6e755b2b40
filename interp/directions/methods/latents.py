"""Latents of a sparse autoencoder that have to do with a contrast: by separation, by attribution, by label.

- By separation: the latent whose activation tells the two sides apart best. It may be one that the model never uses.
- By attribution: each latent's share in the margin log p(positive answer) - log p(negative answer). To first order it
  is the margin's gradient along the decoder row times the activation, summed over the prompt's tokens, the
  autoencoder's error held as it is. Syed et al. 2023, "Attribution patching outperforms automated circuit discovery";
  Marks et al. 2024, "Sparse feature circuits". With several `points` the gradient is averaged along the way from all
  latents at zero to where they are (Sundararajan et al. 2017, "Axiomatic attribution for deep networks"), and the
  shares sum to what the latents do together.
- By label: the latents whose label in a feature book has the words that are looked for.

What they do not know: what a latent does when it is held at another value; `Clamp` it to see. Attribution is a first
order estimate at one point, labels are somebody's guess from top activations.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError, nearest
from interp.core.files import read_json
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import Sides
from interp.directions.direction import Direction
from interp.directions.methods._answers import Answers, answer_continuations
from interp.directions.scores import auroc
from interp.models.continuations import Continuations, frozen_weights, logprobs
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform
from interp.models.sites import Site

if TYPE_CHECKING:
    from interp.sae.coder import SparseAutoencoder

SAE_LATENT = "sae_latent"
_RANKED = 32


@dataclass(frozen=True)
class Latent:
    """A latent and its score: nats of the margin by attribution, words found by label, the rarer the more."""

    latent: int
    score: float
    method: str

    def direction(self, sae: "SparseAutoencoder", data: str = "") -> Direction:
        """Its decoder row, at the autoencoder's site; `data` is the digest of what it was chosen on."""
        return Direction(sae.W_dec[self.latent][None].float(), sae.site, -1, self.method, sae.model, data)


@dataclass(frozen=True)
class BySeparation:
    """Chooses a latent as the other fits choose a row: its own is the decoder's."""

    sae: "SparseAutoencoder"

    def latent(self, sides: Sides) -> int:
        """The latent whose activation best separates the sides; ties go to the larger gap of means."""
        return separating(sides.read(self.sae.encode))

    def __call__(self, positive: Float[Tensor, "n d_in"], negative: Float[Tensor, "m d_in"]) -> Tensor:
        """Its decoder row."""
        return self.sae.W_dec[self.latent(Sides(positive, negative))].float()


def separating(codes: Sides) -> int:
    """The latent whose value best separates two sets of codes, of the 32 with the largest gap of means."""
    positive, negative = codes
    gap = positive.mean(0) - negative.mean(0)
    candidates = gap.topk(min(_RANKED, len(gap))).indices.tolist()
    return max(candidates, key=lambda i: (auroc(positive[:, i], negative[:, i]), float(gap[i])))


def attributions(
    model: HookedModel, sae: "SparseAutoencoder", contrast: Contrast, points: int = 1, batch_size: int = 16
) -> Float[Tensor, "d_sae"]:
    """Each latent's share in the margin, in nats, the mean over the pairs; above 0 where it speaks for the positive.

    Only the prompt's tokens count, and of them not the first, which is outside the autoencoder's knowledge. Raises for
    another model than the autoencoder's, and for pairs without two answers to one prompt.
    """
    sae.require(model)
    if points < 1 or batch_size < 1:
        raise InterpError(f"points is {points} and batch_size {batch_size}; expected at least 1 of both")
    pairs, site = answer_continuations(model, contrast), sae.site
    total = torch.zeros(sae.d_sae, dtype=torch.float64)
    with frozen_weights(model):
        for part in torch.arange(len(contrast)).split(batch_size):
            picked = pairs.pick(part)
            total += sum(sign * _shares(model, sae, site, side, points) for sign, side in _signed(picked))
    if not torch.isfinite(total).all():
        raise InterpError(f"gradients at {site} are not finite; check that the model is finite on these texts")
    return (total / len(contrast)).float()


def by_attribution(
    model: HookedModel,
    sae: "SparseAutoencoder",
    contrast: Contrast,
    count: int = 10,
    points: int = 1,
    batch_size: int = 16,
) -> tuple[Latent, ...]:
    """The latents with the largest shares in size, whichever answer they speak for; see `attributions`."""
    shares = attributions(model, sae, contrast, points, batch_size)
    best = shares.abs().topk(min(count, len(shares))).indices.tolist()
    return tuple(Latent(latent, float(shares[latent]), f"{SAE_LATENT}_attribution") for latent in best)


def by_label(labels: Mapping[int, str], query: str, count: int = 10) -> tuple[Latent, ...]:
    """The latents whose labels have words of the query, best first.

    Whole words count, in any case, with or without an s. A word that fewer labels have counts for more.
    Raises where no label has any, with the nearest words.
    """
    wanted = set(_words(query))
    if not wanted or not labels:
        raise InterpError(f"query {query!r} on {len(labels)} labels; expected words to look for, and labels")
    words = {latent: set(_words(label)) for latent, label in labels.items()}
    known = Counter(word for label in words.values() for word in label)
    weight = {word: log(1 + len(words) / known[word]) for word in wanted & set(known)}
    if not weight:
        raise InterpError(f"no label has {query!r}; {nearest(query, known)}")
    scores = {latent: sum(weight[word] for word in wanted & label) for latent, label in words.items()}
    best = sorted((latent for latent in scores if scores[latent]), key=lambda latent: (-scores[latent], latent))
    return tuple(Latent(latent, scores[latent], f"{SAE_LATENT}_label") for latent in best[:count])


def read_labels(file: str | Path) -> dict[int, str]:
    """Labels by latent from Neuronpedia's JSON: a list of explanations, of features with theirs, or a batch of those.

    Several labels of a latent are joined. Raises where the file has none.
    """
    where, found = Path(file), read_json(Path(file))
    records = found.get("features", [found]) if isinstance(found, dict) else found
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise InterpError(f"{where}: not a feature, a list of them, or a batch; expected Neuronpedia's JSON")
    labels: dict[int, str] = {}
    for record in records:
        explained = record.get("explanations") or ([record] if record.get("description") else [])
        texts = [str(entry["description"]) for entry in explained if entry.get("description")]
        if not texts:
            continue
        index = str(record.get("index", record.get("feature_index")))
        if not index.isdigit():
            raise InterpError(f"{where}: {texts[0]!r} is of latent {index}; expected its number under index")
        known = [labels[int(index)]] if int(index) in labels else []
        labels[int(index)] = "; ".join(known + texts)
    if not labels:
        raise InterpError(f"{where}: none of {len(records)} features has an explanation; expected some to look in")
    return labels


def _signed(pairs: Answers) -> list[tuple[int, Continuations]]:
    return [(1, pairs.positive), (-1, pairs.negative)]


def _shares(model: HookedModel, sae: "SparseAutoencoder", site: Site, side: Continuations, points: int) -> Tensor:
    """For log p of one side: the sum over prompts and their tokens of activation times gradient along the row."""
    batch = side.tokens
    x = model.capture(batch, site)[site]
    asked = (batch.mask & ~side.scored & (batch.position_ids > 0)).to(x.device)
    coder = sae.to(x.device)
    latents = coder.encode(x[asked].float())
    whole = latents @ coder.W_dec.float()
    gradients = torch.zeros_like(whole)
    # One point is where the latents are; several are the middles of as many equal parts of the way from zero.
    for share in [1.0] if points == 1 else [(number + 0.5) / points for number in range(points)]:
        moved = x.clone()
        moved[asked] = x[asked] - ((1 - share) * whole).to(x.dtype)
        leaf = moved.requires_grad_()
        with torch.enable_grad(), model.hooked([(site, _put(leaf))]):
            total = logprobs(model, side).sum()
        gradients += torch.autograd.grad(total, leaf)[0][asked].float() / points
    return (latents * (gradients @ coder.W_dec.float().T)).double().sum(0).cpu()


def _put(values: Tensor) -> Transform:
    return lambda x: values


def _words(text: str) -> list[str]:
    """Words of a text in lower case, without a final s, so that a plural is its singular."""
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in re.findall(r"\w+", text.casefold())]
