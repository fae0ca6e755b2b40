"""Next-token cross-entropy, which the model's loss, text scorers and dictionary metrics all measure alike."""

from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def next_token_losses(
    logits: Float[Tensor, "batch pos d_vocab"],
    ids: Int[Tensor, "batch pos"],
    predicted: Bool[Tensor, "batch pos-1"],
) -> Float[Tensor, "token"]:
    """Cross-entropy, in nats and float32, of each token `ids[:, 1:]` that is `predicted`, row after row.

    Logits are picked before they are cast, so that padding costs no float32 copy.
    """
    predicted = predicted.to(logits.device)
    targets = ids[:, 1:].to(logits.device)[predicted]
    return cross_entropy(logits[:, :-1][predicted].float(), targets, reduction="none")
