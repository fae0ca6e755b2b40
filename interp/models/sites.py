"""Sites: named places in the network. `resid_post.12` is short for TransformerLens' `blocks.12.hook_resid_post`.

Both forms are read everywhere and name the same site. A pattern such as `resid_post.*` or `mlp_out.4-8` names many, and
`writers` names every site that writes into the residual stream (token and position embeddings, attention and MLP
outputs): the sites at which an edit can be folded into the weights. Where a model multiplies the outputs of attention
and MLP before it adds them (Granite), the site is the product. `mlp_input` is the input of the MLP after its norm
(TransformerLens' `hook_mlp_in` is before it).

Some models normalise what attention and MLP write before they add it (Gemma 2 and 3, OLMo 2 and 3, GLM-4, EXAONE 4).
There `attn_out` and `mlp_out` are after that norm, as in TransformerLens, and `attn_raw` and `mlp_raw` before it. The
weights write the raw outputs, so `writers` names these.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from interp.core.display import Displayed
from interp.core.errors import InterpError, nearest

_GLOBAL = {"embed": "hook_embed", "pos_embed": "hook_pos_embed"}
_LAYERED = {
    "resid_pre": "hook_resid_pre",
    "resid_mid": "hook_resid_mid",
    "resid_post": "hook_resid_post",
    "attn_raw": "attn.hook_out",
    "attn_out": "hook_attn_out",
    "mlp_raw": "mlp.hook_out",
    "mlp_out": "hook_mlp_out",
    "mlp_input": "mlp.hook_in",
    "mlp_post": "mlp.hook_post",
    "q": "attn.hook_q",
    "k": "attn.hook_k",
    "v": "attn.hook_v",
    "z": "attn.hook_z",
}
KINDS = (*_GLOBAL, *_LAYERED)
WRITERS = ("embed", "pos_embed", "attn_out", "mlp_out")
RESIDUAL = (*WRITERS, "resid_pre", "resid_mid", "resid_post")
_NORMED = {"attn_raw": "attn_out", "mlp_raw": "mlp_out"}
_ATTENTION = ("q", "k", "v", "z", "attn_raw", "attn_out")
_MLP = ("mlp_input", "mlp_post", "mlp_raw", "mlp_out")
_PASS = (*_GLOBAL, "resid_pre", *_ATTENTION, "resid_mid", *_MLP, "resid_post")
_SHORT_OF_HOOK = {hook: kind for kind, hook in (_GLOBAL | _LAYERED).items()}


@dataclass(frozen=True, order=True)
class Site(Displayed):
    """A kind of activation and, unless it is global (`embed`, `pos_embed`), a layer.

    Args:
        kind: One of `KINDS`, such as `resid_post`.
        layer: The block, counted from 0; None for a global site.

    Example:
        >>> site = interp.models.Site.parse("blocks.3.hook_mlp_out")
        >>> str(site), site.hook_name
        ('mlp_out.3', 'blocks.3.hook_mlp_out')
    """

    kind: str
    layer: int | None = None

    def __post_init__(self) -> None:
        if self.kind not in (_GLOBAL if self.layer is None else _LAYERED):
            hint = "Site.parse reads a name" if "." in self.kind else nearest(self.kind, KINDS)
            raise InterpError(f"{str(self)!r} is not a site; {hint}")

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}.{self.layer}"

    @property
    def order(self) -> tuple[int, int]:
        """A sort key: the order in which a forward pass computes the sites, approximately within a block."""
        return (-1 if self.layer is None else self.layer, _PASS.index(self.kind))

    @property
    def in_residual_basis(self) -> bool:
        """Whether its vectors are in the basis of the residual stream: the stream itself and what is added to it."""
        return self.kind in RESIDUAL

    @property
    def is_raw(self) -> bool:
        """Whether it is what attention or MLP write before a norm."""
        return self.kind in _NORMED

    @property
    def normed(self) -> "Site":
        """What is added to the stream: of a raw output, the site after the norm; of any other site, itself."""
        return Site(_NORMED[self.kind], self.layer) if self.is_raw else self

    @property
    def hook_name(self) -> str:
        """TransformerLens' name."""
        return _GLOBAL[self.kind] if self.layer is None else f"blocks.{self.layer}.{_LAYERED[self.kind]}"

    @classmethod
    def parse(cls, name: str) -> "Site":
        """Read a site from its short name or its TransformerLens name.

        Args:
            name: `resid_post.3`, `blocks.3.hook_resid_post`, `embed` or `hook_embed`.

        Raises:
            InterpError: There is no such kind of site; the message has the nearest ones.
        """
        kind = _SHORT_OF_HOOK.get(name, name)
        if kind in _GLOBAL:
            return cls(kind)
        short = re.fullmatch(r"(\w+)\.(\d+)", _short_name(name))
        if short and short[1] in _LAYERED:
            return cls(short[1], int(short[2]))
        examples = [f"{kind}.0" for kind in _LAYERED] + list(_GLOBAL)
        raise InterpError(f"unknown site {name!r}; a site is written resid_post.12; {nearest(name, examples)}")


def resolve(patterns: str | Site | Iterable[str | Site], known: Sequence[Site]) -> list[Site]:
    """The known sites that patterns name, in the order of `known`, each once.

    Args:
        patterns: Sites, names, patterns over layers (`resid_post.*`, `mlp_out.2-4`) or `writers`: the embeddings and
            the outputs of attention and MLP, before the norm where one follows.
        known: The sites of a model.

    Raises:
        InterpError: A pattern names no known site: a hook there would never fire. The message has the nearest site.
    """
    if isinstance(patterns, str | Site):
        patterns = [patterns]
    sites: set[Site] = set()
    for pattern in patterns:
        matches = _written(known) if pattern == "writers" else [site for site in known if _matches(pattern, site)]
        if not matches:
            raise InterpError(f"unknown site {str(pattern)!r}; {_hint(_short_name(pattern), known)}")
        sites.update(matches)
    if not sites:
        raise InterpError("no sites named; expected at least one, for instance resid_post.3 or writers")
    return [site for site in known if site in sites]


def _written(known: Sequence[Site]) -> list[Site]:
    """What weights write to the stream."""
    behind_norms = {site.normed for site in known if site.is_raw}
    return [site for site in known if site.normed.kind in WRITERS and site not in behind_norms]


def _matches(pattern: str | Site, site: Site) -> bool:
    if isinstance(pattern, Site):
        return pattern == site
    if pattern == site.hook_name or (pattern := _short_name(pattern)) == str(site):
        return True
    layers = re.fullmatch(r"(\w+)\.(?:\*|(\d+)-(\d+))", pattern)
    if not layers or layers[1] != site.kind or site.layer is None:
        return False
    return layers[2] is None or int(layers[2]) <= site.layer <= int(layers[3])


def _hint(name: str, known: Iterable[Site]) -> str:
    kind = name.removeprefix("attn.hook_").partition(".")[0]
    if kind in ("pattern", "attn_scores", "rot_q", "rot_k", "result"):
        return f"run_with_cache has it, as blocks.0.attn.hook_{kind}"
    return f"did you mean {name}.*?" if name in _LAYERED else nearest(name, map(str, known))


def _short_name(pattern: str | Site) -> str:
    hook = re.fullmatch(r"blocks\.(\*|\d+|\d+-\d+)\.(.+)", str(pattern))
    return f"{_SHORT_OF_HOOK.get(hook[2], hook[2])}.{hook[1]}" if hook else str(pattern)
