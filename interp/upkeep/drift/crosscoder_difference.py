"""A crosscoder of two models: latents that both share, latents of one alone, and which of these are real.

1. A BatchTopK crosscoder is trained on one site of both models side by side (`interp.train` on a `PairedStore`).
   BatchTopK has no penalty on decoder norms, which splits shared concepts (Minder et al. 2025,
   https://arxiv.org/abs/2504.02922).
2. A latent is of one model alone by its norms if the other model's decoder row is less than a tenth as long.
3. Latent scaling (the same paper) checks that. With f the latent's values and d its decoder row in its own model, beta
   is the factor with which f d best fits a target: the error of a model's reconstruction, to which the latent's own
   part is added back; or the reconstruction. A latent is confirmed if beta in the other model is less than 0.2 of beta
   in its own for the error (its information is not simply left out of the other's reconstruction), and less than 0.5
   for the reconstruction (no other latents carry it there).

Limitations: a small crosscoder on little text finds large differences only. The limits of latent scaling are those of
common use, not of a theorem.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.harvester import harvest
from interp.activations.paired_store import PairedStore
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.data.corpora import Source
from interp.models.architectures.unembedding import logit_effect
from interp.models.hooked import HookedModel
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.metrics import explained_variance
from interp.sae.training.trainer import train
from interp.upkeep.drift.site_changes import Words, promoted_tokens

ALONE, ERROR, RECONSTRUCTION = 0.1, 0.2, 0.5
_BATCH, _EPOCHS = 512, 10


@dataclass(frozen=True)
class ExclusiveLatent(Displayed):
    """A latent of one model alone, by its norms.

    Attributes:
        latent: Its number.
        model: "first" or "second", the model it belongs to.
        firing: Share of tokens on which it fires.
        norms: Length of the other model's decoder row over its own.
        error, reconstruction: Beta in the other model over beta in its own.
        confirmed: Whether latent scaling confirms it.
        promoted: Tokens that its decoder row promotes.
    """

    latent: int
    model: str
    firing: float
    norms: float
    error: float
    reconstruction: float
    confirmed: bool
    promoted: Words


@dataclass(frozen=True)
class CrosscoderDifference(Displayed):
    """Latents of a crosscoder of two models.

    Attributes:
        site: The site.
        latents: How many fire at all; those that are not exclusive are shared.
        unexplained: Share of the variance of each model's activations that it leaves unexplained.
        exclusive: The latents of one model alone, confirmed ones first, and those that fire most.
    """

    site: str
    latents: int
    unexplained: tuple[float, ...]
    exclusive: tuple[ExclusiveLatent, ...]


def crosscoder_difference(
    first: HookedModel, second: HookedModel, texts: Source, site: str, config: SaeConfig, **options: Any
) -> CrosscoderDifference:
    """Train a crosscoder of two models on a text, and sort its latents.

    Args:
        first: A model.
        second: A model of the same shape and tokenizer.
        texts: A corpus, as `interp.data.documents` takes it.
        site: One site, such as `resid_post.3`.
        config: How it is trained.
        options: How the corpus is read, as options of `harvest`, such as `tokens`.

    Raises:
        InterpError: As `harvest` and `train` do, such as for too little text.

    Example:
        >>> from interp.sae import SaeConfig
        >>> from interp.upkeep.drift.crosscoder_difference import crosscoder_difference
        >>> config = SaeConfig(kind="batchtopk", d_sae=32, k=2, batch_size=64, tokens=640)
        >>> texts = ["The baker sold bread to the doctor."] * 40
        >>> crosscoder_difference(model, model, texts, "resid_post.1", config).exclusive
        ()
    """
    with TemporaryDirectory() as folder:
        named = {"first": first, "second": second}
        pair = PairedStore(*(harvest(x, texts, site, Path(folder) / name, **options) for name, x in named.items()))
        sae = train(pair, site, config).sae
        batches = pair.batches(site, _BATCH, 0, epochs=1, first_tokens=False)
        firing, exclusive = exclusive_latents(sae, batches, (first, second))
        unexplained = explained_variance(sae, pair, pair.trainable()).fvu
    return CrosscoderDifference(site, firing, unexplained, exclusive)


def crosscoder_config(latents: int, tokens: int, seed: int) -> SaeConfig:
    """How a crosscoder of two models is trained on so many tokens: ten times through, an eighth of latents firing."""
    if tokens < _BATCH:
        raise InterpError(f"the corpus has {tokens} tokens; a crosscoder needs {_BATCH}: give more, or --crosscoder 0")
    sizes: dict[str, Any] = {"k": max(1, min(32, latents // 8)), "batch_size": _BATCH, "tokens": _EPOCHS * tokens}
    return SaeConfig(kind="batchtopk", d_sae=latents, seed=seed, dead_limit=1.0, **sizes)


def exclusive_latents(
    sae: SparseAutoencoder, batches: Iterable[Float[Tensor, "token d_in"]], models: tuple[HookedModel, HookedModel]
) -> tuple[int, tuple[ExclusiveLatent, ...]]:
    """How many latents of a crosscoder of two models fire, and those of one model alone.

    Args:
        sae: The crosscoder.
        batches: Activations of both models, side by side.
        models: The models.
    """
    rows = torch.stack(sae.W_dec.double().chunk(2, 1))  # (model, latent, d_model), as the sums
    built, errors = torch.zeros_like(rows), torch.zeros_like(rows)
    squares, fired = torch.zeros(2, len(sae.W_dec), dtype=torch.float64)
    count = 0
    for x in batches:
        f, target, written = (values.double() for values in (sae.encode(x), x, sae(x)))
        squares, fired, count = squares + f.square().sum(0), fired + (f > 0).sum(0), count + len(x)
        for side, part, whole in zip((0, 1), written.chunk(2, 1), target.chunk(2, 1), strict=True):
            built[side] += f.T @ part
            errors[side] += f.T @ (whole - part)
    norms = rows.norm(dim=2)
    power = squares * norms.square()
    # beta[own, side]: of a latent's row in its own model, fitted to the targets of either
    error, whole = (
        torch.einsum("slw,olw->osl", sums, rows) / power.clamp(min=1e-30)[:, None]
        for sums in (errors + squares[:, None] * rows, built)
    )
    exclusive = list[ExclusiveLatent]()
    for own, name in enumerate(("first", "second")):
        ratios = (
            norms.flip(0)[own] / norms[own].clamp(min=1e-12),
            *(x[own, 1 - own] / x[own, own] for x in (error, whole)),
        )
        for latent in ((fired > 0) & (ratios[0] < ALONE)).nonzero().flatten().tolist():
            length, missing, carried = (float(ratio[latent]) for ratio in ratios)
            sure = abs(missing) < ERROR and abs(carried) < RECONSTRUCTION
            (effect,) = logit_effect(models[own], rows[own, [latent]].float())
            figures = float(fired[latent]) / count, length, missing, carried, sure, promoted_tokens(models[own], effect)
            exclusive.append(ExclusiveLatent(latent, name, *figures))
    return int((fired > 0).sum()), tuple(sorted(exclusive, key=lambda x: (not x.confirmed, -x.firing)))
