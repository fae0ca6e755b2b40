"""End-to-end fine-tuning: an autoencoder learns what the model's output needs, after it has learned the activations.

    loss = KL(plain model || model with the reconstruction put in)  +  fraction of variance unexplained

The second term is scaled to the size of the first at each step, so that both pull alike; with `reconstruction=0` there
is the KL alone, and nothing keeps latents faithful to the activations. A short phase of it at the end of ordinary
training gives most of what training end to end from the start does (Karvonen 2025, https://arxiv.org/abs/2503.17272;
Braun et al. 2024, https://arxiv.org/abs/2405.12241). Thresholds stay as they are.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from interp.activations.token_rows import pack_rows
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.losses import kl_divergence
from interp.sae.coder import SparseAutoencoder, unit_rows
from interp.sae.nonlinearities import TopK
from interp.sae.splice import spliced_logits, unspliced_pass

_TRAINED = ("W_enc", "b_enc", "W_dec", "b_dec", "W_skip")


@dataclass(frozen=True)
class Tuning:
    """A step: KL divergence in nats a token, and the fraction of variance unexplained."""

    kl: float
    fvu: float


@dataclass(frozen=True, eq=False)
class FineTuned:
    """The autoencoder, and each step before its update."""

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
    """Train an autoencoder, a transcoder or a crosscoder of one model on the model's own output.

    `lr` is Adam's on standardised activations, falling to zero; `batch_size` counts rows of `context` tokens, in random
    order. Raises for another model than the autoencoder's, and where the KL is not finite.
    """
    sae.require(model)
    packed = pack_rows(model, texts, context, tokens)
    order = torch.randperm(len(packed), generator=torch.Generator().manual_seed(seed))
    start = sae.to(model.device)
    named = {name: getattr(start, name) for name in _TRAINED if getattr(start, name) is not None}
    leaves = {name: tensor.clone().requires_grad_() for name, tensor in named.items()}
    scale = _scale(start, model, packed.rows(0, batch_size))
    # Adam's steps have the size of the rate: biases are as large as activations, rows are not.
    biases = [leaf for name, leaf in leaves.items() if name.startswith("b_")]
    others = [leaf for name, leaf in leaves.items() if not name.startswith("b_")]
    optimiser = torch.optim.Adam([{"params": others, "lr": lr}, {"params": biases, "lr": lr * scale}])
    chosen = order.split(batch_size)
    fall = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, total_iters=len(chosen))
    history: list[Tuning] = []
    with frozen_weights(model):
        for picked in track(chosen, "fine-tune"):
            batch = packed.part(picked, slice(0, packed.ids.shape[1]))
            before = unspliced_pass(start, model, batch)
            with torch.enable_grad():
                found = replace(start, **leaves)(before.read)
                kl = _divergence(before.logits, spliced_logits(start, model, batch, found), batch.predicted)
                spread = (before.written - before.written.mean(0)).square().sum()
                fvu = (found - before.written).square().sum() / spread
                loss = kl + reconstruction * fvu * (kl / fvu).detach()
            if not torch.isfinite(loss):
                raise InterpError(f"fine-tuning diverged at step {len(history)}; choose a lower lr than {lr:.2g}")
            history.append(Tuning(float(kl.detach()), float(fvu.detach())))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            fall.step()
    tensors = {name: leaf.detach().cpu() for name, leaf in leaves.items()}
    if not isinstance(sae.nonlinearity, TopK):
        assert sae.threshold is not None
        tensors = unit_rows(tensors | {"threshold": sae.threshold.cpu()})
    return FineTuned(replace(sae, **tensors, metrics=None), tuple(history))


def _divergence(clean: Tensor, changed: Tensor, predicted: Tensor) -> Tensor:
    where = predicted.to(clean.device)
    target, logits = (logits[:, :-1][where].float() for logits in (clean, changed))
    return kl_divergence(target, logits).mean()


@torch.no_grad()
def _scale(sae: SparseAutoencoder, model: HookedModel, batch: PackedRows) -> float:
    return float(unspliced_pass(sae, model, batch).written.std())
