"""The record of a lens: at each layer and position of a prompt, the tokens that it says come next."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from interp.core.display import Card, Displayed, plural
from interp.core.errors import InterpError
from interp.models.identity import ModelReference
from interp.models.sites import Site


@dataclass(frozen=True, eq=False)
class LensReading(Displayed):
    """What a lens reads in one prompt. `interp.views.plot_lens` draws it.

    Args:
        kind: The kind of lens: "logit", "tuned" or "jacobian".
        model: The model.
        sites: The sites that were read, in the order of the forward pass.
        tokens: The prompt, token by token, as text.
        top: Ids of the likeliest next tokens at each site and position, the likeliest first.
        probability: Their probabilities.
        entropy: Entropy of the next token, in nats.
        divergence: KL(model || lens) of the next token, in nats.
        words: The text of every id in `top`.

    Example:
        >>> reading = interp.attribution.Lens().read(model, "The river of", top=3)
        >>> reading.top.shape, reading.entropy.shape, len(reading.tokens)
        (torch.Size([6, 4, 3]), torch.Size([6, 4]), 4)
    """

    kind: str
    model: ModelReference
    sites: tuple[Site, ...]
    tokens: tuple[str, ...]
    top: Int[Tensor, "layer pos k"]
    probability: Float[Tensor, "layer pos k"]
    entropy: Float[Tensor, "layer pos"]
    divergence: Float[Tensor, "layer pos"]
    words: Mapping[int, str]

    def best(self, layer: int, position: int) -> list[tuple[str, float]]:
        """The likeliest next tokens and their probabilities; `layer` counts the sites, from the end if negative."""
        for name, index, count in (("layer", layer, len(self.sites)), ("position", position, len(self.tokens))):
            if not -count <= index < count:
                raise InterpError(f"{name} {index} is not in this reading; expected {-count} to {count - 1}")
        ids, chances = self.top[layer, position].tolist(), self.probability[layer, position].tolist()
        return [(self.words[token], chance) for token, chance in zip(ids, chances, strict=True)]

    def rows(self, position: int = -1) -> list[dict[str, Any]]:
        """One row per site: the likeliest tokens at a position with their probabilities, entropy and divergence.

        Args:
            position: Which token of the prompt; negative counts from the end.

        Example:
            >>> rows = interp.attribution.Lens().read(model, "The river of").rows()
            >>> list(rows[0]), len(rows), round(rows[-1]["divergence"], 6)
            (['site', 'next', 'entropy', 'divergence'], 6, 0.0)
        """
        best = [self.best(layer, position) for layer in range(len(self.sites))]
        measured = zip(best, self.entropy[:, position].tolist(), self.divergence[:, position].tolist(), strict=True)
        return [
            {"site": str(site), "next": words, "entropy": entropy, "divergence": divergence}
            for site, (words, entropy, divergence) in zip(self.sites, measured, strict=True)
        ]

    def _card(self) -> Card:
        best = [(row["site"], f"{row['next'][0][0]!r} {row['next'][0][1]:.2f}") for row in self.rows()]
        return f"{self.kind} lens, after the last of {plural(len(self.tokens), 'token')}", best
