"""Sites: where in the network. `resid_post.12` is the short form of TransformerLens' `blocks.12.hook_resid_post`.

Both forms are read everywhere and name the same site. A pattern such as `resid_post.*` or `mlp_out.4-8` names many, and
`writers` names every site that writes into the residual stream (token and position embeddings, attention and MLP
outputs): the sites at which an edit can be folded into the weights. Where a model multiplies what attention
and MLP compute before adding it (Granite), the site is what is added. `mlp_input` is what the MLP reads: behind its
norm, where it has one (TransformerLens' `hook_mlp_in` is before it).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.core.errors import InterpError, nearest

_GLOBAL = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
_LAYERED = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_out": "hook_attn_out",
    "mlp_out": "hook_mlp_out",
    "mlp_input": "mlp.hook_in",
    "mlp_post": "mlp.hook_post",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
}
KINDS = tuple(_GLOBAL) + tuple(_LAYERED)
WRITERS = ("embed", "pos_embed", "attn_out", "mlp_out")
RESIDUAL = (*WRITERS, "resid_pre", "resid_mid", "resid_post")
_ATTENTION = ("q", "k", "v", "z", "attn_out")
_PASS = (*_GLOBAL, "resid_pre", *_ATTENTION, "resid_mid", "mlp_input", "mlp_post", "mlp_out", "resid_post")
_SHORT_OF_HOOK = {hook: kind for kind, hook in (_GLOBAL | _LAYERED).items()}


@dataclass(frozen=True, order=True)
class Site:
    """A kind of activation and, unless it is global, a layer.

    >>> site = Site.parse("blocks.3.hook_mlp_out")
    >>> str(site), site.hook_name
    ('mlp_out.3', 'blocks.3.hook_mlp_out')
    """

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @property
    def order(self) -> tuple[int, int]:
        """Sorts sites as a forward pass gets to them, up to the order within a block."""
        return (-1 if self.layer is None else self.layer, _PASS.index(self.kind))

    @property
    def in_residual_basis(self) -> bool:
        """Whether its vectors are in the residual stream's basis: those of the stream and of what writes into it."""
        return self.kind in RESIDUAL

    @property
    def hook_name(self) -> str:
        """TransformerLens' name."""
        return _GLOBAL[self.kind] if self.layer is None else f"blocks.{self.layer}.{_LAYERED[self.kind]}"

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Read either form. Raises for a kind that does not exist, with the nearest ones."""
        if name in _GLOBAL:
            return cls(name)
        if _SHORT_OF_HOOK.get(name) in _GLOBAL:
            return cls(_SHORT_OF_HOOK[name])
        hook = re.fullmatch(r"blocks\.(\d+)\.(.+)", name)
        if hook and hook[2] in _SHORT_OF_HOOK:
            return cls(_SHORT_OF_HOOK[hook[2]], int(hook[1]))
        short = re.fullmatch(r"(\w+)\.(\d+)", name)
        if short and short[1] in _LAYERED:
            return cls(short[1], int(short[2]))
        examples = [f"{kind}.0" for kind in _LAYERED] + list(_GLOBAL)
        raise InterpError(f"unknown site {name!r}; {nearest(name, examples)}; a site is written resid_post.12")


def resolve(patterns: str | Site | Iterable[str | Site], known: Sequence[Site]) -> list[Site]:
    """The known sites that the patterns name, in the order of `known`, each once.

    Raises for a pattern that names none, with the nearest known sites: a hook that would never fire is an error.
    """
    if isinstance(patterns, str | Site):
        patterns = [patterns]
    wanted: set[Site] = set()
    for pattern in patterns:
        found = [site for site in known if _matches(pattern, site)]
        if not found:
            raise InterpError(f"unknown site {str(pattern)!r}; {nearest(_short(pattern), map(str, known))}")
        wanted.update(found)
    if not wanted:
        raise InterpError("no sites named; expected at least one, for instance resid_post.3 or writers")
    return [site for site in known if site in wanted]


def _matches(pattern: str | Site, site: Site) -> bool:
    if isinstance(pattern, Site):
        return pattern == site
    if pattern == "writers":
        return site.kind in WRITERS
    if pattern in (str(site), site.hook_name):
        return True
    band = re.fullmatch(r"(\w+)\.(?:\*|(\d+)-(\d+))", pattern)
    if not band or band[1] != site.kind or site.layer is None:
        return False
    return band[2] is None or int(band[2]) <= site.layer <= int(band[3])


def _short(pattern: str | Site) -> str:
    hook = re.fullmatch(r"blocks\.(\d+)\.(.+)", str(pattern))
    return f"{_SHORT_OF_HOOK.get(hook[2], hook[2])}.{hook[1]}" if hook else str(pattern)
