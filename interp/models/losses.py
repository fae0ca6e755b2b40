"""Next-token losses, cross-entropy with a text and KL divergence from another model, and descent on any loss."""

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from interp.core.errors import InterpError


def next_token_losses(
    logits: Float[Tensor, "batch pos d_vocab"], ids: Int[Tensor, "batch pos"], predicted: Bool[Tensor, "batch pos-1"]
) -> Float[Tensor, "token"]:
    """Cross-entropy of each predicted token, in nats and float32, row after row.

    The logits are selected before they are cast, so padding costs no float32 copy.

    Args:
        logits: Next-token logits at every position.
        ids: The token ids.
        predicted: True where the token `ids[:, 1:]` counts, as `Tokens.predicted`.

    Example:
        >>> batch = model.tokens("The river is")
        >>> interp.models.next_token_losses(model.logits(batch), batch.ids, batch.predicted).shape
        torch.Size([3])
    """
    predicted = predicted.to(logits.device)
    targets = ids[:, 1:].to(logits.device)[predicted]
    return cross_entropy(logits[:, :-1][predicted].float(), targets, reduction="none")


def kl_divergence(
    logits: Float[Tensor, "*batch d_vocab"], other: Float[Tensor, "*batch d_vocab"]
) -> Float[Tensor, "*batch"]:
    """KL(logits || other) of the next token in nats, per position.

    Args:
        logits: Logits of the reference model.
        other: Logits of the model that is compared with it, of the same shape and type.

    Returns:
        One divergence per position, in the type of the logits; pass float64 to resolve values below about 1e-7.
        Gradients flow into both arguments.

    Example:
        >>> from interp.models.losses import kl_divergence
        >>> logits = torch.tensor([[0.0, 0.0], [2.0, 1.0]])
        >>> [round(nats, 3) for nats in kl_divergence(logits, torch.tensor([[1.0, 0.0], [2.0, 1.0]])).tolist()]
        [0.12, 0.0]
    """
    log_p, log_q = log_softmax(logits, -1), log_softmax(other, -1)
    return kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)


class LinearDescent:
    """Adam with a learning rate that falls linearly to zero over a known number of steps.

    Args:
        parameters: Tensors, or groups of them as torch's optimisers take them.
        lr: Learning rate of the first step.
        steps: Number of steps.
        betas: Adam's.

    Example:
        >>> from interp.models.losses import LinearDescent
        >>> x = torch.tensor(1.0, requires_grad=True)
        >>> descent = LinearDescent([x], lr=0.1, steps=60)
        >>> for _ in range(60):
        ...     descent.step(x.square(), "choose a lower lr")
        >>> abs(x.item()) < 0.1
        True
    """

    def __init__(self, parameters: Iterable[Any], lr: float, steps: int, betas: tuple[float, float] = (0.9, 0.999)):
        self._adam = torch.optim.Adam(parameters, lr=lr, betas=betas)
        self._decay = torch.optim.lr_scheduler.LinearLR(self._adam, 1.0, 0.0, total_iters=max(1, steps))
        self._steps = 0

    def step(self, loss: Float[Tensor, ""], hint: str) -> None:
        """Descend along the gradient of a loss. Raises, with the hint, if the loss is not finite."""
        self._steps += 1
        if not torch.isfinite(loss):
            raise InterpError(f"training diverged at step {self._steps} (loss {float(loss.detach())}); {hint}")
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        self._decay.step()
