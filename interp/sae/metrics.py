"""How well autoencoders stand in for their site: in the activations, and in the model's predictions.

Forward passes over held-out text are compared: the plain model, the model with each autoencoder's reconstruction at the
sites that it writes, and with constants there (`spliced_sums`). The first token of each document keeps its activations
in all of them. `evaluate` takes the means of one autoencoder beside zeros; the bench (`interp.auditing.autoencoders`)
compares several, row by row.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Real
from pydantic import PositiveInt
from torch import Tensor
from torch.nn.functional import cosine_similarity

from interp.activations.stream import ActivationSource
from interp.activations.token_rows import pack_rows
from interp.core.errors import InterpError
from interp.core.moments import StreamingMoments
from interp.core.progress import track
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence, next_token_losses
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
    zeros = torch.zeros(sum(place.width for place in sae.writes))
    sums = spliced_sums({"": sae}, model, packed, {"zero": zeros}, batch_size)
    own, predicted = sums.saes[""], int(packed.predicted.sum())
    fvu = float(own.error.sum()) / sums.variance
    _warn(str(sae), fvu)
    losses = {"clean": sums.clean, "reconstructed": own.loss, "zero": sums.constants["zero"]}
    return SaeMetrics(
        tokens=sums.tokens,
        fvu=fvu,
        l0=float(own.fired.sum()) / sums.tokens,
        dead_share=float((own.fired == 0).double().mean()),
        **{f"loss_{name}": float(loss.sum()) / predicted for name, loss in losses.items()},
    )


@dataclass(frozen=True, eq=False)
class StandIn:
    """Sums over the tokens of each row with one autoencoder's reconstruction at the sites that it writes.

    Attributes:
        loss: Next-token losses, in nats.
        kl: Divergences from the plain model's predictions to these, in nats.
        error: Squared errors of the reconstruction.
        cosine: Cosines of activation and reconstruction.
        l0: Latents that fire.
        fired: Tokens on which each latent fires.
    """

    loss: Float[Tensor, "row"]
    kl: Float[Tensor, "row"]
    error: Float[Tensor, "row"]
    cosine: Float[Tensor, "row"]
    l0: Float[Tensor, "row"]
    fired: Float[Tensor, "d_sae"]


@dataclass(frozen=True, eq=False)
class SplicedSums:
    """Sums over the tokens of each row: of the plain model, with constants, and with each autoencoder.

    Attributes:
        tokens: Tokens whose activations are replaced.
        variance: Squared distances of their activations from the mean, summed.
        clean: Next-token losses of the plain model, in nats.
        constants: The same with each constant in place of the activations.
        saes: With each autoencoder's reconstruction.
    """

    tokens: int
    variance: float
    clean: Float[Tensor, "row"]
    constants: dict[str, Float[Tensor, "row"]]
    saes: dict[str, StandIn]


@torch.no_grad()
def spliced_sums(
    saes: Mapping[str, SparseAutoencoder],
    model: HookedModel,
    packed: PackedRows,
    constants: Mapping[str, Float[Tensor, "d_out"]],
    batch_size: int,
) -> SplicedSums:
    """Run rows of text with each reconstruction, and with constants, in place of the activations.

    Args:
        saes: Autoencoders by name, all of the same sites.
        model: Their model.
        packed: Rows of held-out text.
        constants: What else takes the activations' place, by name.
        batch_size: Rows per forward pass.
    """
    coders, first = {name: sae.to(model.device) for name, sae in saes.items()}, next(iter(saes.values()))
    moments, clean = StreamingMoments(), list[Tensor]()
    fixed: dict[str, list[Tensor]] = {name: [] for name in constants}
    sums: dict[str, dict[str, list[Tensor]]] = {name: {} for name in saes}
    fired = {name: torch.zeros(sae.d_sae, dtype=torch.double) for name, sae in saes.items()}
    for batch in track(
        list(packed.batches(batch_size)), "evaluate", size=lambda batch: batch.ids.numel(), unit="tokens"
    ):
        plain, predicted = unspliced_pass(first, model, batch), batch.predicted.to(model.device)
        x = plain.written
        moments.update(x.cpu())
        clean.append(_by_row(next_token_losses(plain.logits, batch.ids, predicted), predicted))
        for name, value in constants.items():
            logits = spliced_logits(first, model, batch, value.to(x).expand_as(x))
            fixed[name].append(_by_row(next_token_losses(logits, batch.ids, predicted), predicted))
        for name, sae in coders.items():
            code = sae.encode_sparse(plain.read)
            values = sae.decode_sparse(code, plain.read)
            logits = spliced_logits(sae, model, batch, values)
            active = code.values > 0
            fired[name] += torch.bincount(code.latents[active], minlength=sae.d_sae).cpu()
            divergence = kl_divergence(plain.logits[:, :-1][predicted].float(), logits[:, :-1][predicted].float())
            rows = {
                "loss": _by_row(next_token_losses(logits, batch.ids, predicted), predicted),
                "kl": _by_row(divergence, predicted),
                "error": _by_row((values - x).square().sum(1), batch.inner),
                "cosine": _by_row(cosine_similarity(values, x, dim=1), batch.inner),
                "l0": _by_row(torch.bincount(code.tokens[active], minlength=code.count), batch.inner),
            }
            for key, row in rows.items():
                sums[name].setdefault(key, []).append(row)
    return SplicedSums(
        tokens=moments.count,
        variance=float(moments.squares.sum()),
        clean=torch.cat(clean),
        constants={name: torch.cat(parts) for name, parts in fixed.items()},
        saes={
            name: StandIn(**{key: torch.cat(x) for key, x in parts.items()}, fired=fired[name])
            for name, parts in sums.items()
        },
    )


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
    moments, errors, fired = StreamingMoments(), torch.zeros((), dtype=torch.double), torch.zeros(sae.d_sae)
    for x in source.batches(both, min(tokens, _ROWS), seed, first_tokens=False):
        columns = dict(zip(places, x.float().split([place.width for place in places], dim=1), strict=True))
        read, written = (torch.cat([columns[place] for place in side], 1) for side in (sae.reads, sae.writes))
        code = sae.encode_sparse(read)
        errors = errors + (sae.decode_sparse(code, read) - written).double().square().sum(0)
        fired += torch.bincount(code.latents[code.values > 0], minlength=sae.d_sae)
        moments.update(written)
        if moments.count >= tokens:
            break
    _warn(str(sae), float(errors.sum() / moments.squares.sum()))
    widths = [place.width for place in sae.writes]
    parts = zip(errors.split(widths), moments.squares.split(widths), strict=True)
    shares = tuple(float(error.sum() / square.sum()) for error, square in parts)
    return Explained(moments.count, shares, float(fired.sum()) / moments.count, float((fired == 0).double().mean()))


def _by_row(values: Real[Tensor, "token"], where: Bool[Tensor, "batch pos"]) -> Float[Tensor, "batch"]:
    """Sums of one value per token that counts, row by row."""
    row = where.nonzero()[:, 0].cpu()
    return torch.zeros(len(where), dtype=torch.double).index_add(0, row, values.double().cpu())


def _warn(name: str, fvu: float) -> None:
    """Warn if the reconstruction is worse than the mean."""
    if fvu > 1:
        warnings.warn(
            f"{name} leaves {fvu:.3g} of the variance unexplained, more than their mean would: was it trained "
            "on other activations, or on normalised ones that are not folded into it?",
            stacklevel=3,
        )
