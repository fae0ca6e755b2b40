"""Activations that are sparse sums of known rows, the autoencoder that knows these rows, and a source of them."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

from interp.activations.columns import SiteColumns
from interp.auditing.autoencoders.labelled_set import LabelledSet, SetActivations
from interp.models.identity import ModelReference
from interp.sae import JumpReLU, SparseAutoencoder

WIDTH, FEATURES, LEVEL = 128, 160, 0.5
MODEL = ModelReference(name="planted", digest="0" * 64, model_type="none", d_model=WIDTH, n_layers=1)
PLACE = (SiteColumns(site="resid_post.0", model=MODEL, width=WIDTH),)
ROWS = normalize(torch.randn(FEATURES, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)


def draw(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Activations and the features that made them, one or two at a time."""
    generator = torch.Generator().manual_seed(seed)
    fires = torch.rand(count, FEATURES, generator=generator) < 1.5 / FEATURES
    features = fires * (1 + 0.2 * torch.rand(count, FEATURES, generator=generator))
    return features @ ROWS, features


def dictionary(rows: Tensor = ROWS, level: float = LEVEL, encoder: Tensor | None = None) -> SparseAutoencoder:
    """The autoencoder whose decoder has these rows, and its encoder too unless another is given."""
    zero, threshold = torch.zeros(len(rows)), torch.full((len(rows),), level)
    parts = {"W_enc": rows if encoder is None else encoder, "b_enc": zero, "W_dec": rows}
    return SparseAutoencoder(
        **parts,
        b_dec=torch.zeros(rows.shape[1]),
        nonlinearity=JumpReLU(),
        reads=PLACE,
        writes=PLACE,
        threshold=threshold,
    )


def labelled(x: Tensor, truth: Tensor, name: str = "planted") -> SetActivations:
    """Activations as a set of texts of one token each."""
    words = tuple(map(str, range(len(x))))
    return SetActivations(LabelledSet(name, words, tuple(truth.tolist()), words), x, torch.arange(len(x)))


class PlantedSource:
    """Such activations without end, as a store gives them."""

    digest = "planted"

    def places(self, sites: object) -> tuple[SiteColumns, ...]:
        return PLACE

    def trainable(self) -> int | None:
        return None

    def first_not_finite(self, sites: object) -> str | None:
        return None

    def batches(self, sites, batch_size, seed, epochs=None, first_tokens=True) -> Iterator[Tensor]:
        for step in range(10**6 if epochs is None else 20):
            yield draw(batch_size, seed=1000 * (seed + 1) + step)[0]
