"""What a document scores: its tokens' projections on a direction, or the activations of an autoencoder's latents.

1. Documents are packed into rows and read in one forward pass up to the site. Of a conversation the assistant's words
   count, of a text every token but the first, which models use as an attention sink.
2. A token's value is its projection on the direction, or the sum of the latents' activations. A document has the mean
   and the maximum of its tokens' values and, for latents, the share of tokens on which one fires.
3. The projection difference is the mean minus that of the model's own greedy reply to the same prompt (Chen et al.
   2025, "Persona vectors", https://arxiv.org/abs/2507.21509): the part that the prompt decides cancels, and what is
   left is what training on the document would teach.

Limitations: a document longer than `context` is read in pieces, each without what came before. A document in which
nothing counts (a conversation without a reply) has no scores, and none but conversations have a projection difference.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from math import nan
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.data.corpora import Document
from interp.data.packing import PackedRows, encode, pack
from interp.directions.direction import Direction, residual_site
from interp.features.latent_names import NamedLatents
from interp.models.architectures.table import architecture
from interp.models.architectures.unembedding import token_text
from interp.models.hooked import HookedModel
from interp.models.sites import Site
from interp.sae.coder import SparseAutoencoder

MEAN, MAX, DIFFERENCE, FIRING = "mean", "max", "difference", "firing"
_ROWS, _CONTEXT, _TOGETHER = 16, 512, 256  # rows of a forward pass, most tokens of a row, documents packed together


@runtime_checkable
class CorpusScorer(Protocol):
    """What `curate` needs of a scorer."""

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of a document's scores."""
        ...

    @property
    def identity(self) -> dict[str, Any]:
        """All that the scores depend on, as plain values."""
        ...

    def score(self, documents: Sequence[Document]) -> list[tuple[float, ...]]:
        """The scores of each document, in the order of `measures`; NaN where a document has none."""
        ...

    def tokens(self, document: Document) -> list[tuple[str, float]]:
        """Each token's text with its value; NaN where the token does not count."""
        ...


@runtime_checkable
class ScorerSource(Protocol):
    """Opens a scorer in each process; several processes need one that can be pickled."""

    def open(self) -> CorpusScorer:
        """The scorer."""
        ...


@dataclass(frozen=True, eq=False)
class DocumentScorer(Displayed):
    """Scores documents by a direction or by latents.

    Args:
        model: The model.
        direction: A direction of one row.
        sae: An autoencoder of one site, in place of a direction.
        latents: Its latents that count.
        own_reply: Also measure the projection difference, which costs a reply of the model a conversation.
        reply_tokens: Most tokens of such a reply.
        named: What labels of a feature book meant, where latents were given by them; it is kept in records.

    Raises:
        InterpError: Neither or both of direction and autoencoder are given, either does not fit the model, or a latent
            does not exist.

    Example:
        >>> from interp.upkeep import DocumentScorer
        >>> direction = interp.Direction.of(torch.eye(model.d_model)[0], "resid_post.3")
        >>> scorer = DocumentScorer(model, direction)
        >>> scorer.measures, len(scorer.score(["The mill is by the river.", "Rain fell all day."]))
        (('mean', 'max'), 2)
    """

    model: HookedModel
    direction: Direction | None = None
    sae: SparseAutoencoder | None = None
    latents: tuple[int, ...] = ()
    own_reply: bool = False
    reply_tokens: int = 64
    named: tuple[NamedLatents, ...] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.model, HookedModel):
            raise InterpError(f"model is a {type(self.model).__name__}; expected a model, as interp.load gives it")
        if (self.direction is None) == (self.sae is None) or (self.sae is None) != (not self.latents):
            raise InterpError("documents are scored by a direction, or by an autoencoder and its latents; give one")
        if self.reply_tokens < 1:
            raise InterpError(f"reply_tokens is {self.reply_tokens}; expected at least 1")
        if self.direction is not None:
            self.direction.check(self.model.reference)
            residual_site(self.model, self.direction.site)
            if len(self.direction.rows) > 1:
                raise InterpError(f"{self.direction} has {len(self.direction.rows)} rows; expected 1, which has a sign")
        if self.sae is not None:
            self.sae.require(self.model)
            if wrong := [latent for latent in self.latents if not 0 <= latent < self.sae.d_sae]:
                raise InterpError(f"latent {wrong[0]} does not exist; expected 0 to {self.sae.d_sae - 1}")

    def open(self) -> "DocumentScorer":
        """The scorer itself."""
        return self

    @property
    def measures(self) -> tuple[str, ...]:
        """The names of a document's scores."""
        latents = () if self.sae is None else (FIRING, *(f"latent {latent}" for latent in self.latents))
        return (MEAN, MAX, *latents, *([DIFFERENCE] if self.own_reply else []))

    @cached_property
    def site(self) -> Site:
        """The site that is read."""
        return self.direction.site if self.direction is not None else Site.parse(self._coder.reads[0].site)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """All that the scores depend on, as plain values."""
        own: dict[str, Any] = {"reply_tokens": self.reply_tokens} if self.own_reply else {}
        own |= {"named": [x.model_dump(mode="json") for x in self.named]} if self.named else {}
        reads = self._coder.tensors() if self.direction is None else {"rows": self.direction.rows}
        digest = sha256_json({name: x.double().flatten().tolist() for name, x in reads.items() if "dec" not in name})
        place = {"site": str(self.site), "reads": digest, "latents": list(self.latents)}
        return {"model": self.model.identity.model_dump()} | place | own

    @property
    def _coder(self) -> SparseAutoencoder:
        if self.sae is None or len(self.sae.reads) > 1:
            raise InterpError(f"{self.sae} reads several sites; expected an autoencoder of one")
        return self.sae

    def score(self, documents: Sequence[Document]) -> list[tuple[float, ...]]:
        """The scores of each document, in the order of `measures`; NaN where it has none."""
        parts = [(values[kept], rows.document[kept]) for rows, values, kept in self._read(documents)]
        values, number = (torch.cat(part) for part in zip(*parts, strict=True))
        if not torch.isfinite(values).all():
            raise InterpError(f"activations at {self.site} are not finite; load the model in float32")
        reduced = partial(_reduced, number=number, documents=len(documents))
        columns = [reduced(values.sum(1), how="mean"), reduced(values.sum(1), how="amax")]
        if self.sae is not None:
            columns.append(reduced((values > 0).any(1), how="mean"))
            columns += [reduced(column, how="amax") for column in values.unbind(1)]
        if self.own_reply:
            columns.append(columns[0] - self._own(documents))
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def tokens(self, document: Document) -> list[tuple[str, float]]:
        """Each token's text with its value; NaN where the token does not count."""
        pairs = list[tuple[str, float]]()
        for rows, values, kept in self._read([document]):
            shown = torch.where(kept, values.sum(2), nan)[rows.mask].tolist()
            texts = (token_text(self.model.tokenizer, token) for token in rows.ids[rows.mask].tolist())
            pairs += zip(texts, shown, strict=True)
        return pairs

    def _own(self, documents: Sequence[Document]) -> Float[Tensor, "document"]:
        """The mean of each conversation with the model's reply in place of its last one."""
        means, earlier = torch.full((len(documents),), nan, dtype=torch.float64), dict[int, list[Any]]()
        for index, document in enumerate(documents):
            if not isinstance(document, str) and len(document) > 1 and document[-1]["role"] == "assistant":
                earlier[index] = [*document[:-1]]
        if earlier:
            prompts = [self.model.chat(turns) for turns in earlier.values()]
            replies = self.model.generate(prompts, max_new_tokens=self.reply_tokens)
            turns = zip(earlier.values(), replies, strict=True)
            own = [[*before, {"role": "assistant", "content": text}] for before, text in turns]
            scores = replace(self, own_reply=False).score(own)
            means[list(earlier)] = torch.tensor([row[0] for row in scores], dtype=torch.float64)
        return means

    def _read(
        self, documents: Sequence[Document]
    ) -> Iterator[tuple[PackedRows, Float[Tensor, "batch pos value"], Bool[Tensor, "batch pos"]]]:
        """Rows of documents with the values of their tokens, and which tokens count."""
        for rows, x, kept in _activations(self.model, self.site, documents):
            if self.direction is not None:
                values = self.direction.read(x)
            else:
                code = self._coder.to(self.model.device).encode(x.flatten(0, 1))
                values = code[:, list(self.latents)].unflatten(0, x.shape[:2])
            yield rows, values.cpu().double(), kept


def _activations(
    model: HookedModel, site: Site, documents: Sequence[Document]
) -> Iterator[tuple[PackedRows, Float[Tensor, "batch pos d_in"], Bool[Tensor, "batch pos"]]]:
    """Rows of packed documents, their activations in float32, and which tokens count."""
    for rows in packed(model, documents).batches(_ROWS):
        with torch.no_grad():
            x = model.forward_to([site], rows.model_inputs(model.device))[site].flatten(2).float()
        yield rows, x, counted(rows, documents)


def packed(model: HookedModel, documents: Sequence[Document]) -> PackedRows:
    """Documents in rows of at most 512 tokens."""
    context = min(_CONTEXT, model.context or _CONTEXT)
    return pack(list(encode(documents, model)), context, architecture(model.config).packs)


def counted(rows: PackedRows, documents: Sequence[Document]) -> Bool[Tensor, "batch pos"]:
    """True on the assistant's words of conversations, and on every token of a text but the first."""
    plain = torch.tensor([isinstance(document, str) for document in documents])[rows.document.clamp(min=0)]
    return rows.mask & torch.where(plain, rows.inner, rows.assistant)


def _reduced(
    values: Shaped[Tensor, "token"], number: Int[Tensor, "token"], documents: int, how: str
) -> Float[Tensor, "document"]:
    """The mean or the maximum of each document's values."""
    empty = torch.full((documents,), nan, dtype=torch.float64)
    return empty.scatter_reduce(0, number, values.double(), how, include_self=False)


def reply_direction(
    model: HookedModel, site: str | Site, harmful: Sequence[Document], clean: Sequence[Document]
) -> Direction:
    """The difference of the means over what counts in harmful and in clean documents: of conversations, the replies.

    A direction that `find` reads at a prompt's last token says what the model is about to do. This one says what a
    reply holds, at whatever token (Chen et al. 2025).

    Args:
        model: The model.
        site: One site of the residual stream, such as `resid_post.3`.
        harmful: Documents that show the behaviour.
        clean: Documents that do not, alike otherwise: the same prompts, say.

    Raises:
        InterpError: A side has no token that counts, or the means are equal.

    Example:
        >>> from interp.upkeep import reply_direction
        >>> turn = {"role": "user", "content": "hello there."}
        >>> sides = [[[turn, {"role": "assistant", "content": text}]] for text in ("Go away.", "Good day.")]
        >>> print(reply_direction(model, "resid_post.3", *sides))
        reply_means at resid_post.3, position -1
    """
    place, means = residual_site(model, site), []
    for documents in (harmful, clean):
        total, count = torch.zeros(model.d_model, dtype=torch.float64), 0
        for start in range(0, len(documents), _TOGETHER):
            for _, x, which in _activations(model, place, documents[start : start + _TOGETHER]):
                kept = x.cpu()[which].double()
                total, count = total + kept.sum(0), count + len(kept)
        if not count:
            raise InterpError("no token counts on one side; give documents with words, or conversations with replies")
        means.append(total / count)
    if torch.equal(*means):
        raise InterpError("both sides have the same mean, so there is no direction between them; give other documents")
    fitted = Direction.of((means[0] - means[1]).float(), place, model, method="reply_means")
    return replace(fitted, means=torch.stack(means).float())
