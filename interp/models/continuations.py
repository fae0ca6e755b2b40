"""Continuations: prompts with what follows them, and how likely the model finds that.

Prompt and continuation are tokenised as one text; the continuation's tokens are those past the tokens that this text
shares with the prompt alone, so that a token merged across the border is still scored.

A model whose weights take no gradients for a while, so that what is trained on its output leaves them alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.core.errors import InterpError
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.models.tokens import Tokens, common_length


@dataclass(frozen=True, eq=False)
class Continuations:
    """Texts as tokens, of which the first `skipped` of each row (at least 1) are not scored."""

    tokens: Tokens
    skipped: Int[Tensor, "batch"]

    @classmethod
    def of(cls, model: HookedModel, prompts: Sequence[str], continuations: Sequence[str]) -> "Continuations":
        """Each prompt with its continuation. Raises where one adds no token, by its number."""
        whole = model.tokens([prompt + end for prompt, end in zip(prompts, continuations, strict=True)])
        alone = model.tokens(list(prompts))
        shared = torch.tensor([_shared(whole, alone, row) for row in range(len(whole))])
        if (shared >= whole.lengths).any():
            raise InterpError(
                f"continuation {int((shared >= whole.lengths).int().argmax())} adds no token to its prompt"
            )
        return cls(whole, shared)

    @classmethod
    def whole(cls, tokens: Tokens) -> "Continuations":
        """Texts that are scored from their second token on."""
        return cls(tokens, torch.ones(len(tokens), dtype=torch.long))

    @property
    def scored(self) -> Bool[Tensor, "batch pos"]:
        """Which columns hold tokens that are scored."""
        width = self.tokens.ids.shape[1]
        return torch.arange(width) >= (width - self.tokens.lengths + self.skipped)[:, None]

    def __len__(self) -> int:
        return len(self.tokens)

    def rows(self, start: int, stop: int) -> "Continuations":
        """A part, without the padding that this part does not need."""
        return Continuations(self.tokens.rows(start, stop), self.skipped[start:stop])

    def pick(self, rows: Int[Tensor, "n"]) -> "Continuations":
        """The rows of these numbers, without the padding that they do not need."""
        return Continuations(self.tokens.pick(rows), self.skipped[rows])


def token_losses(model: HookedModel, part: Continuations) -> tuple[Float[Tensor, "token"], Int[Tensor, "token"]]:
    """Cross-entropy of each scored token, and the row it is in; with the graph that gradients need, if enabled."""
    keep = part.scored[:, 1:]
    losses = next_token_losses(model.forward(part.tokens), part.tokens.ids, keep)
    return losses, keep.nonzero()[:, 0].to(losses.device)


def logprobs(model: HookedModel, part: Continuations) -> Float[Tensor, "batch"]:
    """log p(continuation | prompt) in nats, summed over its tokens in float64; with the graph, if enabled."""
    losses, row = token_losses(model, part)
    return torch.zeros(len(part), dtype=torch.float64, device=losses.device).index_add(0, row, -losses.double())


def _shared(whole: Tokens, alone: Tokens, row: int) -> int:
    return common_length([tokens.ids[row][tokens.mask[row]].tolist() for tokens in (whole, alone)])


@contextmanager
def frozen_weights(model: HookedModel) -> Iterator[None]:
    """No gradients for the model's own weights within the block."""
    wanted = [parameter for parameter in model.hf.parameters() if parameter.requires_grad]
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)
