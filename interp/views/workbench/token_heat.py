"""Token heat: a text whose tokens are shaded by what is read on each of them, as HTML that needs no kernel.

What a reading is `by`:

| by | value of a token |
|---|---|
| a `Direction` (of any method, such as a probe, or of a token's lens) | its coordinate; the norm for several rows |
| `(autoencoder, latent)` | the latent's activation |
| `(Lens(), site)` | the probability that the lens at this site gives to the token, from the one before it |
| `"loss"` | the model's loss on the token in nats |
| a site, such as `resid_post.3` | the norm of the activations there |
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from interp.activations.columns import parse_sites
from interp.attribution.lens import Lens
from interp.core.display import Card, Displayed, clipped, escaped, heat_html
from interp.core.errors import InterpError, located
from interp.directions.direction import Direction
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.losses import next_token_losses
from interp.models.sites import Site
from interp.models.tokens import Chat, Prompts, Tokens
from interp.sae.coder import SparseAutoencoder

By = Direction | Site | str | tuple[SparseAutoencoder, int] | tuple[Lens, str | Site]


@dataclass(frozen=True, eq=False)
class TokenHeat(Displayed):
    """Tokens with a value for each.

    Args:
        name: What was read.
        tokens: The tokens, as text.
        values: Their values; NaN where there is none, as for the loss of the first token.

    Example:
        >>> from interp.views import TokenHeat
        >>> TokenHeat("loss", ("a", " b"), torch.tensor([float("nan"), 2.0])).largest(1)
        [(' b', 2.0)]
    """

    name: str
    tokens: tuple[str, ...]
    values: Float[Tensor, "pos"]

    def largest(self, count: int = 5) -> list[tuple[str, float]]:
        """The tokens of the largest values, by their size."""
        order = self.values.nan_to_num().abs().argsort(descending=True, stable=True)[:count].tolist()
        return [(self.tokens[place], float(self.values[place])) for place in order]

    @property
    def top(self) -> float:
        """The largest value, by its size, other than the first token's: models use it as an attention sink."""
        sizes = self.values.nan_to_num().abs()
        return float(sizes[min(1, len(sizes) - 1) :].max()) if len(sizes) else 0.0

    def _card(self) -> Card:
        return self.name, [(clipped(repr(token), 30), value) for token, value in self.largest()]

    def _repr_html_(self) -> str:
        title = f"<strong>{escaped(self.name)}</strong>, up to {self.top:.3g}"
        return f"<div>{title}</div>{heat_html(self.tokens, self.values.tolist(), self.top)}"


def tokens(model: HookedModel, text: Prompts, by: By = "loss", chat: Chat = None) -> TokenHeat:
    """A text whose tokens are shaded by a value, as a notebook shows it, also without a kernel.

    Args:
        model: The model. Hooks of an open `hooked` block apply.
        text: One text, or the token ids of one.
        by: What is read, as the table of `interp.views.workbench.token_heat` lists it.
        chat: Render the text as a user's message, as in `HookedModel.capture`.

    Raises:
        InterpError: There is not one text, `by` is unknown or of another model, or a latent does not exist.

    Example:
        >>> from interp.views import tokens
        >>> heat = tokens(model, "The river is the Nim.", by="resid_post.3")
        >>> heat.name, len(heat.tokens), bool((heat.values > 0).all())
        ('norm at resid_post.3', 7, True)
    """
    batch = model.tokens(text, chat=chat)
    if len(batch) != 1:
        raise InterpError(f"token heat is of one text, not {len(batch)}; call it for each of them")
    name, values = token_values(model, batch, by)
    return TokenHeat(name, tuple(token_text(model.tokenizer, token) for token in batch.unpadded()[0]), values)


@torch.no_grad()
def token_values(model: HookedModel, batch: Tokens, by: By) -> tuple[str, Float[Tensor, "pos"]]:
    """What a reading is called, and its value at each token of a batch of one row. Raises as `tokens` does."""
    if by == "loss":
        losses = next_token_losses(model.logits(batch), batch.ids, batch.predicted)
        return "loss", _after_the_first(losses)
    if isinstance(by, Direction):
        by.check(model.reference)
        read = by.read(_stream(model, batch, [by.site]))
        return str(by), (read[:, 0] if read.shape[1] == 1 else read.norm(dim=1)).cpu()
    if isinstance(by, str | Site):
        with located("by is neither 'loss' nor a site"):
            sites = model.resolve(by)
        if len(sites) > 1:
            raise InterpError(f"by is {by}, which names {len(sites)} sites; give one, such as {sites[-1]}")
        site = sites[0]
        return f"norm at {site}", _stream(model, batch, [site]).norm(dim=1).cpu()
    what, place = by if isinstance(by, tuple) and len(by) == 2 else (None, None)
    if isinstance(what, SparseAutoencoder) and isinstance(place, int):
        what.require(model)
        if not 0 <= place < what.d_sae:
            raise InterpError(f"latent {place} does not exist; {what} has latents 0 to {what.d_sae - 1}")
        x = _stream(model, batch, parse_sites([column.site for column in what.reads]))
        return f"latent {place} of {what}", what.to(x.device).encode(x)[:, place].cpu()
    if isinstance(what, Lens) and isinstance(place, str | Site):
        (site,) = what.sites(model, place)
        chances = what.logits(model, _stream(model, batch, [site]), site).softmax(-1)[:-1].cpu()
        following = batch.ids[0, batch.mask[0]][1:, None]
        return f"probability by the {what.kind} lens at {site}", _after_the_first(chances.gather(1, following)[:, 0])
    raise InterpError(
        f"by is {clipped(repr(by), 80)}; expected 'loss', a site such as resid_post.3, a Direction, "
        "(autoencoder, latent) or (Lens(), site)"
    )


def _stream(model: HookedModel, batch: Tokens, sites: list[Site]) -> Float[Tensor, "pos width"]:
    """The activations of the only row at sites, side by side, in float32."""
    activations, real = model.capture(batch, sites), batch.mask[0]
    return torch.cat([activations[site][0, real].flatten(1).float() for site in sites], dim=1)


def _after_the_first(values: Float[Tensor, "token"]) -> Float[Tensor, "pos"]:
    """Values of predicted tokens, behind NaN for the first one, which nothing predicts."""
    return torch.cat([torch.full((1,), torch.nan), values.float().cpu()])
