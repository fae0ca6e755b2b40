"""The page of a latent: when it fires, on what text, which tokens it promotes, and which latents are similar.

1. One pass over a corpus collects every token on which the latents fire; first tokens of documents are left out.
2. Top snippets come from different documents, each around its document's largest activation.
3. Promoted and suppressed tokens are the direct effect of the decoder row on the logits
   (`interp.models.architectures.unembedding`).

Limitations: a page does not say what a latent means. Top activations are extremes and can mislead about the rest; look
at the histogram, and test by intervention.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.activations.columns import parse_sites
from interp.activations.token_rows import pack_rows
from interp.core.display import Card, Displayed, displayed, heat_html
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.corpora import Source
from interp.data.packing import PackedRows
from interp.models.architectures.unembedding import logit_effect, token_text
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder
from interp.sae.similarity import nearest_rows

_BEFORE, _AFTER = 24, 8  # tokens of a snippet around its peak
_BINS, _WORDS, _NEAREST = 20, 10, 5
Words = tuple[tuple[str, float], ...]
Reader = Callable[[int], str]  # the text of a token


@dataclass(frozen=True, eq=False)
class Firings:
    """The tokens on which a latent fires, as indices into the flattened rows of a corpus, and its values."""

    places: Int[Tensor, "firing"]
    values: Float[Tensor, "firing"]

    def dense(self, packed: PackedRows) -> Float[Tensor, "batch pos"]:
        """The latent's value at every token of the corpus."""
        return torch.zeros(packed.ids.numel()).scatter(0, self.places, self.values).view_as(packed.ids)


def collect_firings(
    sae: SparseAutoencoder, model: HookedModel, packed: PackedRows, latents: list[int], batch_size: int
) -> list[Firings]:
    """The firings of each latent, all in one pass over the corpus; first tokens of documents do not count."""
    coder, context, sites = sae.to(model.device), packed.ids.shape[1], parse_sites([place.site for place in sae.reads])
    slot = torch.full((sae.d_sae,), -1)
    slot[latents] = torch.arange(len(latents))
    parts = []
    for start in track(range(0, len(packed), batch_size), "features", unit="batches"):
        batch = packed.rows(start, start + batch_size)
        activations = model.forward_to(sites, batch.model_inputs(model.device))
        x = torch.cat([activations[site].flatten(2) for site in sites], dim=2)
        code = coder.encode_sparse(x)
        slots, tokens, values = slot[code.latents.cpu()], code.tokens.cpu(), code.values.cpu()
        fires = (slots >= 0) & (values > 0) & batch.inner.flatten()[tokens]
        row, column = tokens.div(x.shape[1], rounding_mode="floor"), tokens % x.shape[1]
        parts.append((slots[fires], ((start + row) * context + column)[fires], values[fires]))
    slots, places, values = (torch.cat(part) for part in zip(*parts, strict=True))
    order = slots.argsort(stable=True)
    counts = torch.bincount(slots, minlength=len(latents)).tolist()
    return [Firings(*pair) for pair in zip(places[order].split(counts), values[order].split(counts), strict=True)]


@dataclass(frozen=True)
class Snippet(Displayed):
    """Tokens of a document around the one at index `peak`, with the latent's activation on each."""

    tokens: tuple[str, ...]
    activations: tuple[float, ...]
    peak: int
    document: int


@dataclass(frozen=True)
class Feature(Displayed):
    """A latent's page.

    Attributes:
        latent: Its number.
        site: The site that it reads.
        density: Share of tokens on which it fires.
        counts: Histogram of its values, as counts.
        edges: Edges of the histogram's bins.
        snippets: Text around its largest activations.
        promoted: Tokens with their logit effect, strongest first; empty unless it writes to the residual stream.
        suppressed: The same for the most negative effects.
        nearest: Other latents with the cosine of their decoder rows.
        label: What someone says that it means; empty if nobody does.
    """

    latent: int
    site: Site
    density: float
    counts: tuple[int, ...]
    edges: tuple[float, ...]
    snippets: tuple[Snippet, ...]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    nearest: tuple[tuple[int, float], ...]
    label: str = ""

    @property
    def top_tokens(self) -> list[tuple[str, float]]:
        """The token of each snippet with the largest activation, and that activation."""
        return [(snippet.tokens[snippet.peak], snippet.activations[snippet.peak]) for snippet in self.snippets]

    def _card(self) -> Card:
        fires = f"{self.density:.3%} of tokens" if self.density else "no token of this corpus"
        return f"{self.latent} at {self.site}", [
            ("fires on", fires),
            ("largest", self.edges[-1]),
            ("promotes", [repr(token) for token, _ in self.promoted]),
            ("suppresses", [repr(token) for token, _ in self.suppressed]),
            ("nearest latents", [f"{latent} ({cosine:.2f})" for latent, cosine in self.nearest]),
        ]

    def _repr_html_(self) -> str:
        lines = "".join(heat_html(x.tokens, x.activations, self.edges[-1], x.peak) for x in self.snippets)
        axes = f"activations from 0 to {self.edges[-1]:.3g}, and how many tokens have them (log scale)"
        return super()._repr_html_() + _histogram_html(self.counts) + f"<div>{axes}</div>" + lines


def feature_page(
    sae: SparseAutoencoder, model: HookedModel, texts: Source, latent: int, top: int = 12, **options: int
) -> Feature:
    """The page of one latent.

    Args:
        sae: The autoencoder.
        model: Its model.
        texts: A corpus, as `interp.data.documents` takes it.
        latent: The latent's number.
        top: Number of snippets.
        options: `tokens`, `context` and `batch_size`, as for `feature_pages`.

    Raises:
        InterpError: As `feature_pages` does.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, feature_page
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> page = feature_page(sae, model, ["the baker sold bread ."], latent=2, top=1)
        >>> page.latent, len(page.counts), len(page.nearest)
        (2, 20, 3)
    """
    return feature_pages(sae, model, texts, [latent], top, **options)[0]


def feature_pages(
    sae: SparseAutoencoder,
    model: HookedModel,
    texts: Source,
    latents: Sequence[int],
    top: int = 12,
    *,
    tokens: int | None = None,
    context: int = 128,
    batch_size: int = 16,
) -> list[Feature]:
    """The pages of several latents, from one pass over the corpus.

    Args:
        sae: The autoencoder.
        model: Its model.
        texts: A corpus, as `interp.data.documents` takes it.
        latents: The latents' numbers.
        top: Snippets per latent.
        tokens: Use at most this many tokens of the corpus; None for all.
        context: Tokens per row.
        batch_size: Rows per forward pass.

    Raises:
        InterpError: A latent does not exist, or the model is not the autoencoder's.

    Example:
        >>> from interp.activations import SiteColumns
        >>> from interp.sae import SparseAutoencoder, TopK, feature_pages
        >>> rows, site = torch.eye(192)[:4], SiteColumns(site="resid_post.1", model=model.reference, width=192)
        >>> sae = SparseAutoencoder(rows, torch.zeros(4), rows, torch.zeros(192), TopK(k=1), (site,), (site,))
        >>> [page.latent for page in feature_pages(sae, model, ["the baker sold bread ."], [1, 3])]
        [1, 3]
    """
    sae.require(model)
    for latent in latents:
        if not 0 <= latent < sae.d_sae:
            raise InterpError(f"latent {latent} does not exist; this autoencoder has latents 0 to {sae.d_sae - 1}")
    packed = pack_rows(model, texts, context, tokens)
    read = cache(lambda token: token_text(model.tokenizer, token))
    unique = list(dict.fromkeys(latents))
    firings = dict(zip(unique, collect_firings(sae, model, packed, unique, batch_size), strict=True))
    return displayed([_feature(sae, model, packed, latent, firings[latent], top, read) for latent in latents])


def _feature(
    sae: SparseAutoencoder, model: HookedModel, packed: PackedRows, latent: int, fired: Firings, top: int, read: Reader
) -> Feature:
    largest = float(fired.values.max()) if len(fired.values) else 0.0
    counts, edges = torch.histogram(fired.values, bins=_BINS, range=(0.0, largest or 1.0))
    promoted, suppressed = _words(sae, model, latent, read)
    return Feature(
        latent=latent,
        site=Site.parse(sae.reads[0].site),
        density=len(fired.values) / max(1, int(packed.inner.sum())),
        counts=tuple(int(count) for count in counts),
        edges=tuple(edges.tolist()) if largest else (0.0,) * (_BINS + 1),
        snippets=_snippets(packed, fired, top, read),
        promoted=promoted,
        suppressed=suppressed,
        nearest=_nearest(sae, latent),
    )


def _snippets(packed: PackedRows, fired: Firings, top: int, read: Reader) -> tuple[Snippet, ...]:
    """One snippet from each of the `top` documents with the largest activations."""
    documents = packed.document.flatten()[fired.places].tolist()
    peaks: dict[int, int] = {}
    for index in fired.values.argsort(descending=True, stable=True).tolist():
        if len(peaks) == top:
            break
        peaks.setdefault(documents[index], int(fired.places[index]))
    dense, context = fired.dense(packed), packed.ids.shape[1]
    return tuple(_snippet(packed, dense, *divmod(place, context), read) for place in peaks.values())


def _snippet(packed: PackedRows, dense: Tensor, row: int, peak: int, read: Reader) -> Snippet:
    start = peak - min(_BEFORE, int(packed.position_ids[row, peak]))
    ends = (packed.position_ids[row, peak + 1 :] == 0).nonzero()
    stop = peak + 1 + min(_AFTER, int(ends[0]) if len(ends) else packed.ids.shape[1] - peak - 1)
    return Snippet(
        tokens=tuple(read(token) for token in packed.ids[row, start:stop].tolist()),
        activations=tuple(dense[row, start:stop].tolist()),
        peak=peak - start,
        document=int(packed.document[row, peak]),
    )


def _words(sae: SparseAutoencoder, model: HookedModel, latent: int, read: Reader) -> tuple[Words, Words]:
    if len(sae.writes) > 1 or not Site.parse(sae.writes[0].site).in_residual_basis:
        return (), ()
    effect = logit_effect(model, sae.W_dec[latent][None])[0]
    promoted = tuple((read(token), value) for token, value in _largest(effect, _WORDS))
    return promoted, tuple((read(token), -value) for token, value in _largest(-effect, _WORDS))


def _nearest(sae: SparseAutoencoder, latent: int) -> tuple[tuple[int, float], ...]:
    cosines, latents = nearest_rows(sae.W_dec[latent][None], sae.W_dec, _NEAREST, torch.tensor([latent]))
    return tuple(zip(latents[0].tolist(), cosines[0].tolist(), strict=True))


def _largest(values: Float[Tensor, "n"], count: int) -> tuple[tuple[int, float], ...]:
    """Indices and values of the largest entries."""
    best = values.topk(min(count, len(values)))
    return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


def _histogram_html(counts: Sequence[int]) -> str:
    """Bars of the histogram, zero on the left, on a logarithmic scale that shows rare values."""
    heights = torch.tensor(counts).float().log1p()
    heights = 40 * heights / max(1.0, float(heights.max()))
    bars = "".join(
        f"<rect x='{8 * index}' y='{40 - height:.1f}' width='7' height='{height:.1f}'/>"
        for index, height in enumerate(heights.tolist())
    )
    return f"<svg width='{8 * len(counts)}' height='40' fill='currentColor'>{bars}</svg>"
