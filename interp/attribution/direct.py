"""Direct logit attribution: what each writer of the residual stream adds to a logit on the direct path.

With the scale of the final norm held fixed, logits are linear in the residual stream. The difference of two tokens'
logits is therefore a sum of terms, one per writer (embeddings, attention and MLP of each layer), and a constant. Elhage
et al. 2021, "A mathematical framework for transformer circuits".

Limitations: a writer's effect through later layers is not included. Ablate it to measure that.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError
from interp.models.architectures.unembedding import final_norm, norm_gain
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.models.tokens import Prompts


@dataclass(frozen=True, eq=False)
class Attribution(Displayed):
    """The terms of logit(token) - logit(other) at the last token of each prompt, in nats.

    Args:
        terms: Per writer its term for each prompt, (batch,).
        constant: The part of the biases of the norm and of the unembedding, (batch,).
        difference: The difference of the two logits, (batch,): the sum of all terms and the constant.

    Example:
        >>> site, one = interp.models.Site("mlp_out", 0), torch.ones(2)
        >>> interp.attribution.Attribution({site: 2 * one}, constant=one, difference=3 * one).top()
        [(Site(kind='mlp_out', layer=0), 2.0)]
    """

    terms: dict[Site, Float[Tensor, "batch"]]
    constant: Float[Tensor, "batch"]
    difference: Float[Tensor, "batch"]

    def top(self, count: int = 10) -> list[tuple[Site, float]]:
        """The `count` writers with the largest mean term in absolute value, and that mean."""
        means = [(site, float(term.mean())) for site, term in self.terms.items()]
        return displayed(sorted(means, key=lambda item: -abs(item[1]))[:count])

    def _card(self) -> Card:
        difference = f"{self.difference.mean():+.3f} nats, mean of {plural(len(self.difference), 'prompt')}"
        return difference, [(site, f"{value:+.3f}") for site, value in self.top()]


@torch.no_grad()
def direct_attribution(model: HookedModel, prompts: Prompts, token: int, other: int) -> Attribution:
    """Split logit(token) - logit(other) at the last token of each prompt into one direct term per writer.

    Args:
        model: The model.
        prompts: Texts or tokens.
        token: Id of the token whose logit counts positively.
        other: Id of the token whose logit is subtracted.

    Returns:
        The terms, the constant and the difference.

    Raises:
        InterpError: The writes do not sum to the residual stream (scaled residuals, for example), or the logits are
            capped or scaled.

    Example:
        >>> result = interp.attribution.direct_attribution(model, ["Who bakes?"], token=5, other=6)
        >>> bool(torch.allclose(sum(result.terms.values()) + result.constant, result.difference, atol=1e-3))
        True
    """
    norm, unembed = final_norm(model), model.hf.get_output_embeddings()
    if wrong := [number for number in (token, other) if not 0 <= number < len(unembed.weight)]:
        raise InterpError(
            f"token {wrong[0]} is not in the vocabulary; expected an id from 0 to {len(unembed.weight) - 1}"
        )
    last = f"resid_post.{model.n_layers - 1}"
    acts = model.capture(prompts, ["writers", last], positions=-1, chat=False)
    stream = acts[last][:, 0]
    written = {site: x[:, 0] for site, x in acts.tensors.items() if str(site) != last}
    if not torch.allclose(sum(written.values(), torch.zeros_like(stream)), stream, atol=1e-3, rtol=1e-3):
        raise InterpError(f"{model.config.model_type}: its residual stream is not the plain sum of what is written")
    reader = unembed.weight[token] - unembed.weight[other]
    logits = model.logits(prompts, last=1, chat=False)[:, 0]
    difference = logits[:, token] - logits[:, other]
    reader = norm_gain(norm, model) * reader / _scale(norm, model, stream)[:, None]
    terms = {site: (_centred(norm, x) * reader).sum(1) for site, x in written.items()}
    constant = _constant(norm, unembed, stream, token, other)
    total = sum(terms.values(), constant)
    if not torch.allclose(total, difference, atol=1e-3, rtol=1e-3):
        raise InterpError(f"{model.config.model_type} caps or scales its logits, so they are not a sum of direct terms")
    return Attribution(terms, constant, difference)


def _constant(
    norm: nn.Module, unembed: Any, stream: Float[Tensor, "batch d_model"], token: int, other: int
) -> Float[Tensor, "batch"]:
    """The contribution of the biases of the norm and of the unembedding, the same for every prompt."""
    by_norm = norm(torch.zeros_like(stream)) @ (unembed.weight[token] - unembed.weight[other])
    return by_norm if unembed.bias is None else by_norm + unembed.bias[token] - unembed.bias[other]


def _centred(norm: nn.Module, x: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch d_model"]:
    return x - x.mean(-1, keepdim=True) if isinstance(norm, nn.LayerNorm) else x


def _scale(norm: nn.Module, model: HookedModel, stream: Float[Tensor, "batch d_model"]) -> Float[Tensor, "batch"]:
    """The divisor of the norm, per prompt."""
    unscaled = _centred(norm, stream) * norm_gain(norm, model)
    return unscaled.norm(dim=1) / (norm(stream) - norm(torch.zeros_like(stream))).norm(dim=1)
