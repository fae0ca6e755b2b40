"""End-to-end fine-tuning: after training on activations, an autoencoder learns what the model's output needs.

    loss = KL(plain model || model with the reconstruction)  +  fraction of variance unexplained

The second term is scaled to the size of the first at each step, so that both weigh the same. With `reconstruction=0`
only the KL is left, and nothing keeps latents faithful to the activations. A short phase of it at the end of ordinary
training gives most of the benefit of training end to end from the start (Karvonen 2025,
https://arxiv.org/abs/2503.17272; Braun et al. 2024, https://arxiv.org/abs/2405.12241). Thresholds stay as they are.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.activations.token_rows import pack_rows
from interp.core.display import Displayed
from interp.core.progress import track
from interp.data.corpora import Source
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.losses import LinearDescent, kl_divergence
from interp.sae.coder import SparseAutoencoder
from interp.sae.file_formats import unit_rows
from interp.sae.nonlinearities import TopK
from interp.sae.splice import spliced_logits, unspliced_pass

_TRAINED = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")


@dataclass(frozen=True)
class Tuning:
    """One step: KL divergence in nats per token, and the fraction of variance unexplained."""

    kl: float
    fvu: float


@dataclass(frozen=True, eq=False)
class FineTuned(Displayed):
    """The autoencoder, and the losses of each step before its update."""

    sae: SparseAutoencoder
    history: tuple[Tuning, ...]


def finetune(
    sae: SparseAutoencoder,
    model: HookedModel,
    texts: Source,
    *,
    tokens: int = 200_000,
    context: int = 128,
    batch_size: int = 8,
    lr: float = 5e-5,
    reconstruction: float = 1.0,
    seed: int = 0,
) -> FineTuned:
    """Train an autoencoder, a transcoder or a crosscoder of one model on the model's output.

    It comes after `train`, as a short phase: each step runs the model, so a token costs much more than in `train`.

    Args:
        sae: The autoencoder, trained on activations.
        model: Its model.
        texts: A corpus, as `interp.data.documents` takes it.
        tokens: Use at most this many tokens of the corpus, each once.
        context: Tokens per row.
        batch_size: Rows per step, in random order.
        lr: Adam's learning rate on standardised activations; it falls linearly to zero.
        reconstruction: Weight of the unexplained variance, relative to the KL.
        seed: Seed of the order of rows.

    Returns:
        The tuned autoencoder, without metrics, and the losses of each step.

    Raises:
        InterpError: The model is not the autoencoder's, or the loss is not finite.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, finetune
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> len(finetune(sae, model, ["the baker sold bread ."] * 8, context=16, batch_size=4).history)
        2
    """
    sae.require(model)
    packed = pack_rows(model, texts, context, tokens)
    order = torch.randperm(len(packed), generator=torch.Generator().manual_seed(seed))
    start = sae.to(model.device)
    named = {name: getattr(start, name) for name in _TRAINED if getattr(start, name) is not None}
    if sae.reads == sae.writes:
        named.pop("W_skip", None)  # it would learn to copy the input
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in named.items()}
    scale = float(unspliced_pass(start, model, packed.rows(0, batch_size)).written.std())
    # Adam's steps have the size of the learning rate: biases are as large as activations, rows are not.
    biases = [leaf for name, leaf in leaves.items() if name.startswith("b_")]
    others = [leaf for name, leaf in leaves.items() if not name.startswith("b_")]
    batches = order.split(batch_size)
    descent = LinearDescent([{"params": others}, {"params": biases, "lr": lr * scale}], lr, len(batches))
    history: list[Tuning] = []
    with frozen_weights(model):
        for numbers in track(batches, "fine-tune", size=lambda rows: len(rows) * context, unit="tokens"):
            batch = packed.part(numbers, slice(0, packed.ids.shape[1]))
            before = unspliced_pass(start, model, batch)
            with torch.enable_grad():
                reconstructed = replace(start, **leaves)(before.read)
                kl = _divergence(before.logits, spliced_logits(start, model, batch, reconstructed), batch.predicted)
                spread = (before.written - before.written.mean(0)).square().sum()
                fvu = (reconstructed - before.written).square().sum() / spread
                loss = kl + reconstruction * fvu * (kl / fvu).detach()
            descent.step(loss, f"choose a lower lr than {lr:.2g}")
            history.append(Tuning(float(kl.detach()), float(fvu.detach())))
    tensors = {name: leaf.detach().cpu() for name, leaf in leaves.items()}
    if not isinstance(sae.nonlinearity, TopK):
        assert sae.threshold is not None
        tensors = unit_rows(tensors | {"threshold": sae.threshold.cpu()})
    return FineTuned(replace(sae, **tensors, metrics=None), tuple(history))


def _divergence(clean: Tensor, changed: Tensor, predicted: Tensor) -> Tensor:
    where = predicted.to(clean.device)
    target, logits = (logits[:, :-1][where].float() for logits in (clean, changed))
    return kl_divergence(target, logits).mean()
