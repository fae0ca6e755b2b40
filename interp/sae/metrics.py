"""How well an autoencoder stands in for its site: in the activations, and in the model's predictions.

Three forward passes over held-out text are compared: the plain model, the model with the autoencoder's reconstruction
at the sites that it writes, and with zeros there. The first token of each document keeps its activations in all three.
"""

import warnings
from dataclasses import dataclass

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor

from interp.activations.stream import ActivationSource
from interp.activations.token_rows import pack_rows
from interp.core.errors import InterpError
from interp.core.moments import StreamingMoments
from interp.core.progress import track
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.sae.coder import SparseAutoencoder
from interp.sae.config import SaeMetrics
from interp.sae.splice import spliced_logits, unspliced_pass

_ROWS = 4096


@torch.no_grad()
def evaluate(
    sae: SparseAutoencoder,
    model: HookedModel,
    texts: Source,
    *,
    tokens: int | None = None,
    context: int = 128,
    batch_size: PositiveInt = 16,
) -> SaeMetrics:
    """Measure an autoencoder on its model over a corpus.

    Args:
        sae: An autoencoder, a transcoder, or a crosscoder of one model.
        model: The model that it was trained on.
        texts: A corpus, as `interp.data.documents` takes it; held-out text.
        tokens: Use at most this many tokens of it; None for all.
        context: Tokens per row.
        batch_size: Rows per forward pass.

    Returns:
        Unexplained variance, sparsity, dead latents, and next-token losses in nats.

    Raises:
        InterpError: The model is not the autoencoder's, or all documents have a single token, which predicts nothing.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, evaluate
        >>> rows = torch.cat([torch.eye(192), -torch.eye(192)])  # one latent per direction and sign: exact
        >>> site = SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(384), rows, torch.zeros(192), TopK(k=192), (site,), (site,))
        >>> metrics = evaluate(sae, model, ["the baker sold bread ."] * 4)
        >>> metrics.tokens, metrics.l0, round(metrics.fvu, 6), round(metrics.loss_recovered, 3)
        (32, 192.0, 0.0, 1.0)
    """
    sae.require(model)
    packed = pack_rows(model, texts, context, tokens)
    if not packed.predicted.any():
        raise InterpError("the corpus has no document of two tokens or more, so there is nothing to predict")
    coder, tally = sae.to(model.device), _Tally(sae.d_sae)
    losses = dict.fromkeys(("loss_clean", "loss_reconstructed", "loss_zero"), 0.0)
    batches = list(packed.batches(batch_size))
    for batch in track(batches, "evaluate", size=lambda batch: batch.ids.numel(), unit="tokens"):
        before = unspliced_pass(coder, model, batch)
        reconstruction = tally.update(coder, before.read, before.written)
        losses["loss_clean"] += _loss(before.logits, batch)
        losses["loss_reconstructed"] += _loss(spliced_logits(coder, model, batch, reconstruction), batch)
        zeros = torch.zeros_like(reconstruction)
        losses["loss_zero"] += _loss(spliced_logits(coder, model, batch, zeros), batch)
    tally.warn(str(sae))
    means = {name: total / int(packed.predicted.sum()) for name, total in losses.items()}
    return SaeMetrics(tokens=tally.moments.count, fvu=tally.fvu, l0=tally.l0, dead_share=tally.dead_share, **means)


@dataclass(frozen=True)
class Explained:
    """How much of a source's activations an autoencoder explains; `fvu` has one number per site written."""

    tokens: int
    fvu: tuple[float, ...]
    l0: float
    dead_share: float


def explained_variance(sae: SparseAutoencoder, source: ActivationSource, tokens: int, seed: int = 0) -> Explained:
    """Measure only the reconstruction, over `tokens` of a store, a stream or a pair; first tokens do not count.

    For autoencoders without a single model to run, such as a crosscoder of two models.
    """
    reads, writes = ([place.site for place in side] for side in (sae.reads, sae.writes))
    if sae.reads != source.places(list(dict.fromkeys(reads))) and sae.reads != source.places(reads):
        raise InterpError(f"{sae} does not read what {source} holds; give activations of its own models and sites")
    both = list(dict.fromkeys((*reads, *writes)))
    places = source.places(both)
    tally = _Tally(sae.d_sae)
    for x in source.batches(both, min(tokens, _ROWS), seed, first_tokens=False):
        columns = dict(zip(places, x.float().split([place.width for place in places], dim=1), strict=True))
        read, written = (torch.cat([columns[place] for place in side], 1) for side in (sae.reads, sae.writes))
        tally.update(sae, read, written)
        if tally.moments.count >= tokens:
            break
    tally.warn(str(sae))
    widths = [place.width for place in sae.writes]
    parts = zip(tally.errors.split(widths), tally.moments.squares.split(widths), strict=True)
    shares = tuple(float(error.sum() / square.sum()) for error, square in parts)
    return Explained(tally.moments.count, shares, tally.l0, tally.dead_share)


class _Tally:
    """Sums over activations: variance, squared error of the reconstruction, firings of each latent."""

    def __init__(self, d_sae: int):
        self.moments = StreamingMoments()
        self.errors = torch.zeros((), dtype=torch.double)
        self.fired = torch.zeros(d_sae, dtype=torch.long)

    def update(
        self, sae: SparseAutoencoder, read: Float[Tensor, "token d_in"], written: Float[Tensor, "token d_out"]
    ) -> Float[Tensor, "token d_out"]:
        """Take in activations and return their reconstruction."""
        code = sae.encode_sparse(read)
        reconstruction = sae.decode_sparse(code, read)
        self.moments.update(written.cpu())
        self.errors = self.errors + (reconstruction - written).double().square().sum(0).cpu()
        self.fired += torch.bincount(code.latents[code.values > 0], minlength=len(self.fired)).cpu()
        return reconstruction

    def warn(self, name: str) -> None:
        """Warn if the reconstruction is worse than the mean."""
        if self.fvu > 1:
            warnings.warn(
                f"{name} leaves {self.fvu:.3g} of the variance unexplained, more than their mean would: was it trained "
                "on other activations, or on normalised ones that are not folded into it?",
                stacklevel=3,
            )

    @property
    def fvu(self) -> float:
        return float(self.errors.sum() / self.moments.squares.sum())

    @property
    def l0(self) -> float:
        return float(self.fired.sum()) / self.moments.count

    @property
    def dead_share(self) -> float:
        return float((self.fired == 0).double().mean())


def _loss(logits: Float[Tensor, "batch pos d_vocab"], batch: PackedRows) -> float:
    """Summed cross-entropy of the batch's predicted tokens."""
    return float(next_token_losses(logits, batch.ids, batch.predicted).sum())
