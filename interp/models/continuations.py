"""Continuations: prompts with their continuations, and the likelihood of a continuation given its prompt.

Prompt and continuation are tokenised as one text. The tokens of the continuation are those after the tokens that this
text shares with the prompt alone, so a token that is merged across the border is still scored. Continuations that are
compared are all scored from one token on, the earliest that any of them needs: else one would lack the probability of
what another merges. Whitespace at the end of a plain prompt counts as the beginning of its continuations.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.models.tokens import RenderedText, Tokens, common_length


@dataclass(frozen=True, eq=False)
class Continuations(Displayed):
    """Tokenised texts. The first tokens of each row, its prompt, are not scored.

    Args:
        tokens: The left-padded batch.
        skipped: How many first tokens of each row are not scored, at least 1; (batch).

    Example:
        >>> batch = interp.models.Continuations.of(model, ["The river"], [" is the Nim."])
        >>> len(batch), int(batch.scored.sum())
        (1, 4)
    """

    tokens: Tokens
    skipped: Int[Tensor, "batch"]

    @classmethod
    def of(cls, model: HookedModel, prompts: Sequence[str], continuations: Sequence[str]) -> "Continuations":
        """Join each prompt with its continuation.

        Args:
            model: The model whose tokenizer is used.
            prompts: The prompts.
            continuations: One continuation per prompt, with its leading space if it has one.

        Raises:
            InterpError: A continuation adds no token to its prompt.
        """
        texts = [with_answers(prompt, [end]) for prompt, end in zip(prompts, continuations, strict=True)]
        whole = model.tokens([text for _, (text,) in texts])
        alone = model.tokens([prompt for prompt, _ in texts])
        pairs = zip(whole.unpadded(), alone.unpadded(), strict=True)
        shared = torch.tensor([common_length(pair) for pair in pairs])
        if (unscored := shared >= whole.lengths).any():
            raise InterpError(f"continuation {int(unscored.int().argmax())} adds no token to its prompt")
        return cls(whole, shared)

    @classmethod
    def whole(cls, tokens: Tokens) -> "Continuations":
        """Texts that are scored from their second token."""
        return cls(tokens, torch.ones(len(tokens), dtype=torch.long))

    @property
    def scored(self) -> Bool[Tensor, "batch pos"]:
        """True at the tokens that are scored."""
        width = self.tokens.ids.shape[1]
        return torch.arange(width) >= (width - self.tokens.lengths + self.skipped)[:, None]

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> "Continuations":
        """Rows `start` to `stop`, without padding columns that these rows do not need."""
        return Continuations(self.tokens.rows(start, stop), self.skipped[start:stop])

    def pick(self, rows: Int[Tensor, "n"]) -> "Continuations":
        """The rows with these indices, without padding columns that these rows do not need."""
        return Continuations(self.tokens.pick(rows), self.skipped[rows])


def with_answers(prompt: str, answers: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What stands before all the answers to a prompt, and the prompt with each of them.

    Whitespace at the end of a plain prompt belongs to its answers, so that it is of no account where it is written.
    """
    if isinstance(prompt, RenderedText):
        return prompt.answered(answers)
    return prompt.rstrip() or prompt, [prompt + answer for answer in answers]


def token_losses(model: HookedModel, part: Continuations) -> tuple[Float[Tensor, "token"], Int[Tensor, "token"]]:
    """Cross-entropy of each scored token in nats, and its row; with the graph for gradients, if enabled."""
    scored = part.scored[:, 1:]
    losses = next_token_losses(model.forward(part.tokens), part.tokens.ids, scored)
    return losses, scored.nonzero()[:, 0].to(losses.device)


def logprobs(model: HookedModel, part: Continuations) -> Float[Tensor, "batch"]:
    """log p(continuation | prompt) in nats, summed over tokens in float64; with the graph for gradients, if enabled."""
    losses, row = token_losses(model, part)
    return torch.zeros(len(part), dtype=torch.float64, device=losses.device).index_add(0, row, -losses.double())


@contextmanager
def frozen_weights(model: HookedModel) -> Iterator[None]:
    """Switch gradients of the model's weights off for as long as the block lasts.

    For training something on the model's output (a vector, an adapter, an autoencoder) without a gradient per weight.

    Args:
        model: The model.

    Example:
        >>> with interp.models.frozen_weights(model):
        ...     model.mean_loss(model.tokens("The river is the Nim.")).requires_grad
        False
    """
    trainable = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
