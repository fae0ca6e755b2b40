"""Direct logit attribution: what each writer of the residual stream adds to a logit on the direct path.

With the scale of the final norm held fixed, logits are linear in the residual stream. A logit, or the difference of
two, is therefore a sum of terms, one per writer (embeddings, attention and MLP of each layer), and a constant, times
the scale of the logits where the model has one. A cap on the logits (Gemma 2) comes after the sum. Elhage et al. 2021,
"A mathematical framework for transformer circuits".

Limitations: a writer's effect through later layers is not included. Ablate it to measure that.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.display import Card, Displayed, displayed, plural
from interp.core.errors import InterpError
from interp.models.architectures.unembedding import FinalNorm, stream_logits, token_directions
from interp.models.hooked import HookedModel
from interp.models.sites import WRITERS, Site
from interp.models.tokens import Prompts


@dataclass(frozen=True, eq=False)
class Attribution(Displayed):
    """The terms of logit(token) - logit(other) at the last token of each prompt, in nats, before any cap.

    Args:
        terms: Per writer its term for each prompt, (batch,). The token embedding's is that of all that enters the first
            block (scaled or normalised, where a model does so) but for the position embedding.
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
def direct_attribution(model: HookedModel, prompts: Prompts, token: int, other: int | None = None) -> Attribution:
    """Split logit(token) - logit(other) at the last token of each prompt into one direct term per writer.

    Args:
        model: The model.
        prompts: Texts or tokens.
        token: Id of the token whose logit counts positively.
        other: Id of the token whose logit is subtracted. Default: none; the logit of `token` itself is split.

    Returns:
        The terms, the constant and the difference, before the logits are capped.

    Raises:
        InterpError: The writes do not sum to the residual stream (Gemma 4, for example), or the logits are not those
            of the stream after the final norm.

    Example:
        >>> result = interp.attribution.direct_attribution(model, ["Who bakes?"], token=5, other=6)
        >>> bool(torch.allclose(sum(result.terms.values()) + result.constant, result.difference, atol=1e-3))
        True
    """
    norm = FinalNorm.of(model)
    direction = token_directions(model, token).double() - (0 if other is None else token_directions(model, other))
    written, stream = _written(model, prompts)
    direct, logits = stream_logits(model, norm.module(stream)), model.logits(prompts, last=1, chat=False)[:, 0]
    if not torch.allclose(direct, logits, atol=1e-3, rtol=1e-3):
        raise InterpError(
            f"{model.config.model_type} computes its logits in another way than from the stream by the final norm, the "
            "unembedding, a known scale and a known cap, so they are not a sum of direct terms"
        )

    def gap(rows: Tensor) -> Tensor:
        return rows[..., token] - (0 if other is None else rows[..., other])

    scale = norm.scale(stream).double()
    terms = {site: (x.double() @ direction / scale).float() for site, x in written.items()}
    constant = gap(stream_logits(model, norm.bias.to(stream.dtype), capped=False)).float()
    difference = gap(stream_logits(model, norm.module(stream), capped=False)).float()
    return Attribution(terms, constant.expand(len(stream)), difference)


def _written(
    model: HookedModel, prompts: Prompts
) -> tuple[dict[Site, Float[Tensor, "batch d_model"]], Float[Tensor, "batch d_model"]]:
    """What is added to the stream at the last token of each prompt, by site; and the stream after the last layer."""
    start, end = Site("resid_pre", 0), Site("resid_post", model.n_layers - 1)
    adding = [site for site in model.sites if site.kind in WRITERS]
    acts = model.capture(prompts, [*adding, start, end], positions=-1, chat=False)
    written = {site: acts[site][:, 0] for site in adding}
    written[Site("embed")] = acts[start][:, 0] - written.get(Site("pos_embed"), 0)
    stream = acts[end][:, 0]
    if not torch.allclose(sum(written.values(), torch.zeros_like(stream)), stream, atol=1e-3, rtol=1e-3):
        raise InterpError(f"{model.config.model_type}: its residual stream is not the plain sum of what is written")
    return written, stream
