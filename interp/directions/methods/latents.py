"""Latents of a sparse autoencoder that relate to a contrast: by separation, by attribution, by label.

- By separation: the latent whose activation separates the two sides best. The model may never use it.
- By attribution: each latent's share in the margin log p(positive answer) - log p(negative answer). To first order this
  is the margin's gradient along the decoder row times the activation, summed over the prompt's tokens, with the
  autoencoder's error held fixed. Syed et al. 2023, "Attribution patching outperforms automated circuit discovery";
  Marks et al. 2024, "Sparse feature circuits". With several `points` the gradient is averaged along the straight path
  from all latents at zero to their values (integrated gradients: Sundararajan et al. 2017, "Axiomatic attribution for
  deep networks"), and the shares sum to the joint effect of the latents.
- By label: the latents whose label in a feature book contains the words of a query.

Limitations: none of these shows what a latent does when it is held at another value; `Clamp` it to see. Attribution is
a first-order estimate at one point, and labels are guesses from top activations.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from math import log
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from interp.core.display import Displayed, displayed
from interp.core.errors import InterpError, nearest
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import Sides
from interp.directions.direction import Direction
from interp.directions.methods._answers import answer_continuations
from interp.directions.scores import auroc
from interp.features.formats.neuronpedia import read_records
from interp.models.continuations import Continuations, frozen_weights, logprobs
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

SAE_LATENT = "sae_latent"
_RANKED = 32


@dataclass(frozen=True)
class Latent(Displayed):
    """A latent and its score.

    Args:
        latent: Its index in the autoencoder.
        score: Nats of the margin by attribution; by label the weight of the query's words that the label has.
        method: How it was chosen.
    """

    latent: int
    score: float
    method: str

    def direction(self, sae: SparseAutoencoder, data: str = "") -> Direction:
        """The decoder row, at the autoencoder's site; `data` is the digest of what the latent was chosen on."""
        return Direction(sae.W_dec[self.latent][None].float(), sae.site, -1, self.method, sae.model, data)


@dataclass(frozen=True)
class BySeparation(Displayed):
    """A fit whose row is the decoder row of the latent that separates the two sides best."""

    sae: SparseAutoencoder

    def latent(self, sides: Sides) -> int:
        """Index of the latent."""
        return separating_latent(sides.read(self.sae.encode))

    def row(self, latent: int) -> Float[Tensor, "d_in"]:
        """The decoder row of a latent."""
        return self.sae.W_dec[latent].float()

    def __call__(self, positive: Float[Tensor, "n d_in"], negative: Float[Tensor, "m d_in"]) -> Tensor:
        """The row, from the activations of two sides."""
        return self.row(self.latent(Sides(positive, negative)))


def separating_latent(codes: Sides) -> int:
    """The latent whose activation separates two sides best.

    Args:
        codes: Latents of the two sides, (pairs, d_sae) each.

    Returns:
        Of the 32 latents with the largest difference of means, the index of the one with the highest AUROC; ties go to
        the larger difference.

    Example:
        >>> codes = interp.directions.Sides(torch.tensor([[0.0, 1, 5]] * 4), torch.tensor([[0.0, 1, 2]] * 4))
        >>> interp.directions.separating_latent(codes)
        2
    """
    positive, negative = codes
    gap = positive.mean(0) - negative.mean(0)
    candidates = gap.topk(min(_RANKED, len(gap))).indices.tolist()
    return max(candidates, key=lambda i: (auroc(positive[:, i], negative[:, i]), float(gap[i])))


def attributions(
    model: HookedModel, sae: SparseAutoencoder, contrast: Contrast, points: int = 1, batch_size: int = 16
) -> Float[Tensor, "d_sae"]:
    """Each latent's share in the margin in nats, averaged over pairs; above 0 where it favours the positive answer.

    Only the prompt's tokens count, without the first, on which autoencoders are not trained. Arguments and errors are
    those of `by_attribution`.
    """
    sae.require(model)
    if points < 1 or batch_size < 1:
        raise InterpError(f"points is {points} and batch_size {batch_size}; expected at least 1 of both")
    pairs, site = answer_continuations(model, contrast), sae.site
    total = torch.zeros(sae.d_sae, dtype=torch.float64)
    with frozen_weights(model):
        for part in torch.arange(len(contrast)).split(batch_size):
            positive, negative = (_shares(model, sae, site, side, points) for side in pairs.pick(part))
            total += positive - negative
    if not torch.isfinite(total).all():
        raise InterpError(f"gradients at {site} are not finite; check that the model is finite on these texts")
    return (total / len(contrast)).float()


def by_attribution(
    model: HookedModel,
    sae: SparseAutoencoder,
    contrast: Contrast,
    count: PositiveInt = 10,
    points: int = 1,
    batch_size: int = 16,
) -> tuple[Latent, ...]:
    """The latents with the largest shares in the margin between two answers, in absolute value.

    Args:
        model: The model that the autoencoder was trained on.
        sae: The autoencoder.
        contrast: Pairs of one prompt with two answers.
        count: How many latents to return.
        points: 1 for the gradient where the latents are; more for integrated gradients.
        batch_size: Pairs per forward and backward pass.

    Returns:
        The latents, the largest share first. A positive score favours the positive answer.

    Raises:
        InterpError: The autoencoder belongs to another model, a pair does not have two answers to one prompt, or a
            gradient is not finite.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.data import Turn, TurnPair
        >>> from interp.sae import TopK
        >>> rows, zero = torch.eye(model.d_model), torch.zeros(model.d_model)
        >>> site = (SiteColumns(site="resid_post.1", model=model.reference, width=model.d_model),)
        >>> sae = interp.SparseAutoencoder(rows, zero, rows, zero, TopK(k=8), reads=site, writes=site)
        >>> answers = interp.Contrast((TurnPair(Turn("Who bakes?", "The baker"), Turn("Who bakes?", "Nobody")),))
        >>> len(interp.directions.by_attribution(model, sae, answers, count=3))
        3
    """
    shares = attributions(model, sae, contrast, points, batch_size)
    best = shares.abs().topk(min(count, len(shares))).indices.tolist()
    return displayed(tuple(Latent(latent, float(shares[latent]), f"{SAE_LATENT}_attribution") for latent in best))


def by_label(labels: Mapping[int, str] | str | Path, query: str, count: PositiveInt = 10) -> tuple[Latent, ...]:
    """The latents whose labels contain words of a query.

    Args:
        labels: The label of each latent, or a file of Neuronpedia's JSON.
        query: Words to look for. Whole words match, in any case, with or without a final s.
        count: How many latents to return at most.

    Returns:
        The latents, best first. A word that fewer labels contain weighs more.

    Raises:
        InterpError: No label contains any of the words (the nearest words are named), or there are no labels.

    Example:
        >>> labels = {3: "names of towns", 8: "insults aimed at people", 9: "lists of towns"}
        >>> [found.latent for found in interp.directions.by_label(labels, "insult")]
        [8]
    """
    labels = read_labels(labels) if isinstance(labels, str | Path) else labels
    query_words = set(_words(query))
    if not query_words or not labels:
        raise InterpError(f"query {query!r} on {len(labels)} labels; expected words to look for, and labels")
    words = {latent: set(_words(label)) for latent, label in labels.items()}
    known = Counter(word for label in words.values() for word in label)
    weight = {word: log(1 + len(words) / known[word]) for word in query_words & set(known)}
    if not weight:
        raise InterpError(f"no label has {query!r}; {nearest(query, known)}")
    scores = {latent: sum(weight[word] for word in query_words & label) for latent, label in words.items()}
    best = sorted((latent for latent in scores if scores[latent]), key=lambda latent: (-scores[latent], latent))
    return displayed(tuple(Latent(latent, scores[latent], f"{SAE_LATENT}_label") for latent in best[:count]))


def read_labels(file: str | Path) -> dict[int, str]:
    """Labels by latent from Neuronpedia's JSON: a list of explanations or of features, or a batch of features.

    Several labels of one latent are joined. Raises where the file has none.
    """
    records = read_records(file)
    labels: dict[int, str] = {}
    for record in records:
        explained = record.get("explanations") or ([record] if record.get("description") else [])
        texts = [str(entry["description"]) for entry in explained if entry.get("description")]
        if not texts:
            continue
        index = str(record.get("index", record.get("feature_index")))
        if not index.isdigit():
            raise InterpError(f"{file}: {texts[0]!r} belongs to latent {index}; expected its number under index")
        known = [labels[int(index)]] if int(index) in labels else []
        labels[int(index)] = "; ".join(known + texts)
    if not labels:
        raise InterpError(f"{file}: none of {len(records)} features has an explanation; expected at least one label")
    return labels


def _shares(model: HookedModel, sae: SparseAutoencoder, site: Site, side: Continuations, points: int) -> Tensor:
    """For log p of one side: activation times gradient along the decoder row, summed over prompts and tokens."""
    batch = side.tokens
    x = model.capture(batch, site)[site]
    counted = (batch.mask & ~side.scored & (batch.position_ids > 0)).to(x.device)
    coder = sae.to(x.device)
    latents = coder.encode(x[counted].float())
    reconstruction = latents @ coder.W_dec.float()
    gradients = torch.zeros_like(reconstruction)
    # One point is the latents themselves; several are the midpoints of equal parts of the path from zero.
    for share in [1.0] if points == 1 else [(number + 0.5) / points for number in range(points)]:
        moved = x.clone()
        moved[counted] = x[counted] - ((1 - share) * reconstruction).to(x.dtype)
        leaf = moved.requires_grad_()
        with torch.enable_grad(), model.hooked([(site, _replacing(leaf))]):
            total = logprobs(model, side).sum()
        gradients += torch.autograd.grad(total, leaf)[0][counted].float() / points
    return (latents * (gradients @ coder.W_dec.float().T)).double().sum(0).cpu()


def _replacing(values: Tensor) -> Transform:
    return lambda x: values


def _words(text: str) -> list[str]:
    """Words of a text in lower case, without a final s, so that a plural matches its singular."""
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word for word in re.findall(r"\w+", text.casefold())]
