"""Next-token losses: cross-entropy with the text, and KL divergence from another model's predictions."""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax


def next_token_losses(
    logits: Float[Tensor, "batch pos d_vocab"],
    ids: Int[Tensor, "batch pos"],
    predicted: Bool[Tensor, "batch pos-1"],
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
