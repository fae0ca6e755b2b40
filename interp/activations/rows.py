"""A corpus as rows of tokens for a model: what a harvest stores the activations of, and measures run on."""

from collections.abc import Iterator
from dataclasses import dataclass

from interp.core.errors import InterpError
from interp.data import corpora
from interp.data.packing import Packed, encode, pack
from interp.models.hooked import HookedModel


@dataclass(frozen=True)
class Rows:
    """Packed rows, the number of documents in them, and the digest of those documents' texts."""

    packed: Packed
    documents: int
    text_digest: str


def rows(model: HookedModel, texts: corpora.Source, context: int, tokens: int | None = None) -> Rows:
    """Read, tokenise and pack a corpus, at most `tokens` of it, into rows of `context` tokens.

    Only documents up to the last one used are read, so an endless corpus will do if `tokens` is given.
    """
    if model.context is not None and context > model.context:
        raise InterpError(
            f"context is {context} but the model's is {model.context}; pass context={model.context} or less"
        )
    seen: list[str] = []

    def noted() -> Iterator[str]:
        for text in corpora.texts(texts):
            seen.append(text)
            yield text

    documents = list(encode(noted(), model.tokenizer, tokens))
    return Rows(pack(documents, context, together=model.packs), len(documents), corpora.digest(seen[: len(documents)]))
