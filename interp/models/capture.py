"""Activations: the tensors that a model computes at some sites on a batch of prompts."""

from collections.abc import Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.core.calls import checked_class
from interp.core.display import Card, Displayed, html_table, plural
from interp.core.errors import InterpError, nearest
from interp.models.sites import Site
from interp.models.tokens import Tokens


@checked_class("model.capture(prompts, sites) makes them")
@dataclass(frozen=True, eq=False)
class Activations(Displayed, Mapping[str | Site, Tensor]):
    """Captured tensors, a mapping from sites: `activations["resid_post.3"]` is (batch, pos, d_model).

    A key is a short name, TransformerLens' name, a `Site`, or kind and layer, `("resid_post", 3)`; `keys`, `items` and
    iteration give short names, in the order of the forward pass. `q`, `k`, `v` and `z` have a head axis: (batch, pos,
    head, d_head). Rows are left-padded as in `tokens`; where positions were chosen, the pos axis runs over those: after
    `positions=-1` its length is 1.

    Args:
        tensors: The activations by site, in the order of the forward pass.
        tokens: The batch of tokens.
        positions: The chosen positions of each prompt; None if all were kept.

    Raises:
        InterpError: The site of an index was not captured; the message has the nearest one.

    Example:
        >>> activations = model.capture("The river of", ["z.3", "resid_post.3"])
        >>> activations["resid_post.3"].shape, activations["z.3"].shape
        (torch.Size([1, 4, 192]), torch.Size([1, 4, 6, 32]))
        >>> activations.at_tokens("resid_post.3").shape
        torch.Size([4, 192])
        >>> list(activations), "blocks.3.hook_resid_post" in activations
        (['z.3', 'resid_post.3'], True)
    """

    __eq__, __hash__ = object.__eq__, object.__hash__  # two mappings of tensors have no single truth value

    tensors: dict[Site, Float[Tensor, "batch pos *features"]]
    tokens: Tokens
    positions: tuple[int, ...] | None = None

    def __getitem__(self, site: str | Site | tuple[str, int]) -> Float[Tensor, "batch pos *features"]:
        site = Site(*site) if isinstance(site, tuple) else site if isinstance(site, Site) else Site.parse(site)
        if site not in self.tensors:
            raise InterpError(f"site {str(site)!r} was not captured; {nearest(str(site), map(str, self.tensors))}")
        return self.tensors[site]

    def __contains__(self, site: object) -> bool:
        return isinstance(site, str | Site | tuple) and self.get(site) is not None

    def get(self, site: str | Site | tuple[str, int], default: Any = None) -> Any:
        """The activations at a site, or the default where it was not captured."""
        try:
            return self[site]
        except InterpError:
            return default

    def keys(self) -> KeysView[str | Site]:
        """The short names of the sites."""
        return _Names(self)

    _ipython_key_completions_ = keys

    def __iter__(self) -> Iterator[str]:
        return map(str, self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def sites(self) -> list[Site]:
        """The captured sites in the order of the forward pass."""
        return list(self.tensors)

    def at_tokens(self, site: str | Site) -> Float[Tensor, "token *features"]:
        """The activations at real tokens only, (token, d_model): padding removed, prompts one after another."""
        x = self[site]
        return x[self.tokens.mask] if self.positions is None else x.flatten(0, 1)

    def _card(self) -> Card:
        shapes = [(site, str(tuple(x.shape))) for site, x in self.tensors.items()]
        return plural(len(self.tokens), "prompt"), shapes

    def _repr_html_(self) -> str:
        rows = [[site, str(tuple(x.shape)), x.float().norm(dim=-1).mean().item()] for site, x in self.tensors.items()]
        return html_table(f"Activations: {plural(len(self.tokens), 'prompt')}", ["site", "shape", "mean norm"], rows)


class _Names(KeysView[str | Site]):
    def __repr__(self) -> str:
        return f"keys({list(self)})"


def position_columns(tokens: Tokens, positions: int | Sequence[int] | None) -> Int[Tensor, "batch chosen"] | None:
    """The columns of the batch at which each prompt has the chosen positions; None for all.

    Args:
        tokens: The left-padded batch.
        positions: Positions in each prompt: from its first token, or from its end if negative. Padding does not count.

    Raises:
        InterpError: The list is empty, or a position is outside a prompt.
    """
    if positions is None:
        return None
    chosen = torch.tensor([positions] if isinstance(positions, int) else list(positions))
    if not len(chosen):
        raise InterpError("the list of positions is empty; expected at least one, such as -1, or None for every token")
    lengths, width = tokens.lengths[:, None], tokens.ids.shape[1]
    index = torch.where(chosen < 0, width + chosen, width - lengths + chosen)
    outside = (index >= width) | (index < width - lengths)
    if outside.any():
        row = int(outside.any(1).nonzero()[0])
        length = plural(int(tokens.lengths[row]), "token")
        raise InterpError(f"positions {chosen.tolist()} are outside prompt {row}, which has {length}")
    return index
