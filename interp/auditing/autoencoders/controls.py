"""Controls: what an autoencoder has to beat to be more than chance, as autoencoders with as many latents per token.

- random decoder: random unit rows that encode and decode; nothing is trained.
- frozen decoder: trained as the autoencoder was, except that the decoder keeps its random rows. Korznikov et al. 2026,
  "Sanity checks for sparse autoencoders" (https://arxiv.org/abs/2602.14111).
- shuffled activations: trained on activations whose coordinates are permuted between the tokens of a batch, each by
  itself: they keep their distributions and lose what they have in common. After Heap et al. 2025, "Sparse autoencoders
  can interpret randomly initialized transformers" (https://arxiv.org/abs/2501.17727).
- residual basis: the coordinates of the activations, each split into its positive and its negative part.
- PCA: the same of their principal components.

The last two need no training. Where latents are chosen one by one they keep all coordinates; for the reconstruction
they keep as many per token as the autoencoder.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from interp.activations.columns import SiteColumns, Sites
from interp.activations.stream import ActivationSource
from interp.core.moments import StreamingMoments
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeConfig
from interp.sae.file_formats import CARD
from interp.sae.nonlinearities import TopK
from interp.sae.training.bundle import TrainingPlan
from interp.sae.training.trainer import train_all

TRAINED = "autoencoder"
RANDOM, FROZEN, SHUFFLED, BASIS, PCA = (
    "random decoder", "frozen decoder", "shuffled activations", "residual basis", "PCA"
)  # fmt: skip
_ROWS, _BATCHES, _TOKENS = 4096, 16, 1_000_000


@dataclass(frozen=True)
class ShuffledSource:
    """Activations of a source, each coordinate permuted between the tokens of a batch."""

    source: ActivationSource

    @property
    def digest(self) -> str:
        """That of the source, marked."""
        return f"{self.source.digest} shuffled"

    def places(self, sites: Sites) -> tuple[SiteColumns, ...]:
        """As the source."""
        return self.source.places(sites)

    def trainable(self) -> int | None:
        """As the source."""
        return self.source.trainable()

    def batches(
        self, sites: Sites, batch_size: int, seed: int, epochs: int | None = None, first_tokens: bool = True
    ) -> Iterator[Float[Tensor, "batch d_in"]]:
        """Batches of the source, whose coordinates come from different tokens."""
        generator = torch.Generator().manual_seed(seed)
        for x in self.source.batches(sites, batch_size, seed, epochs, first_tokens):
            yield x.gather(0, torch.rand(x.shape, generator=generator).argsort(0))

    def first_not_finite(self, sites: Sites) -> str | None:
        """As the source."""
        return self.source.first_not_finite(sites)


def make_controls(
    sae: SparseAutoencoder,
    source: ActivationSource,
    l0: float,
    folder: Path,
    seeds: int = 3,
    tokens: int | None = None,
    seed: int = 0,
) -> dict[str, SparseAutoencoder]:
    """The controls of an autoencoder by name, those of several seeds as `NAME, seed N`.

    Args:
        sae: The autoencoder, of one site.
        source: Activations of its site, best those that it was trained on.
        l0: Latents that fire per token.
        folder: Where trained controls are kept; those that are there are read.
        seeds: How many of each random control.
        tokens: Tokens to train on; None for as many as the autoencoder, or 1,000,000 where that is not known.
        seed: The first seed.

    Raises:
        InterpError: The autoencoder is of several sites, or the source lacks its site.
    """
    site, k = sae.site, max(1, min(sae.d_sae, round(l0)))
    place, moments = source.places(site), StreamingMoments(joint=True)
    for x in islice(source.batches(site, _ROWS, seed, 1, first_tokens=False), _BATCHES):
        moments.update(x)
    mean = moments.mean.float()

    def tied(rows: Tensor, k: int) -> SparseAutoencoder:
        return SparseAutoencoder(rows, -rows @ mean, rows, mean, TopK(k=k), place, place)

    controls = {}
    for number in range(seeds):
        draw = torch.Generator().manual_seed(seed + number)
        controls[f"{RANDOM}, seed {number}"] = tied(normalize(torch.randn(sae.W_dec.shape, generator=draw), dim=1), k)
    config = sae.config or SaeConfig(kind="batchtopk", d_sae=sae.d_sae, k=k, tokens=_TOKENS)
    for name, read in ((FROZEN, source), (SHUFFLED, ShuffledSource(source))):
        folders = {f"{name}, seed {number}": folder / f"{name.split()[0]}-{number}" for number in range(seeds)}
        if not all((one / CARD).is_file() for one in folders.values()):
            # The autoencoder's own seed would be no other draw.
            changes = [
                {"seed": config.seed + 1 + seed + number, "frozen_decoder": name == FROZEN} for number in range(seeds)
            ]
            amount = {"tokens": tokens or config.tokens}
            plans = [TrainingPlan(site, config.model_copy(update=change | amount)) for change in changes]
            for one, result in zip(folders.values(), train_all(read, plans), strict=True):
                result.sae.save(one, overwrite=one.exists())
        controls |= {label: SparseAutoencoder.load(one) for label, one in folders.items()}
    components = torch.linalg.eigh(moments.variance).eigenvectors.T.flip(0).float()
    signed = {BASIS: torch.eye(sae.d_in), PCA: components}
    return controls | {name: tied(torch.cat([rows, -rows]), 2 * len(rows)) for name, rows in signed.items()}


def sparsified(saes: Mapping[str, SparseAutoencoder], l0: float) -> dict[str, SparseAutoencoder]:
    """The same, where those that keep all coordinates keep as many per token as the autoencoder."""
    fewer = {name: TopK(k=min(max(1, round(l0)), saes[name].d_sae)) for name in (BASIS, PCA)}
    return {name: replace(sae, nonlinearity=fewer[name]) if name in fewer else sae for name, sae in saes.items()}
