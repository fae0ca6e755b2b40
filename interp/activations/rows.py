"""A corpus as rows of tokens for a model: what a harvest stores the activations of, and measures run on."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from interp.core.errors import InterpError
from interp.data import corpora
from interp.data.packing import Packed, encode, laid_out, pack, placed
from interp.models.hooked import HookedModel


@dataclass
class Reading:
    """How far a corpus has been read: the documents used so far, and the digest of their texts."""

    documents: int = 0
    digest: corpora.Digest = field(default_factory=corpora.Digest)


def rows(model: HookedModel, texts: corpora.Source, context: int, tokens: int | None = None) -> Packed:
    """Read, tokenise and pack a corpus, at most `tokens` of it, into rows of `context` tokens, all held in memory."""
    _require_room(model, context)
    return pack(encode(corpora.texts(texts), model.tokenizer, tokens), context, together=model.packs)


def groups(
    model: HookedModel,
    texts: corpora.Source,
    size: int,
    reading: Reading,
    *,
    context: int,
    tokens: int | None = None,
    bos_first: bool = True,
    skip_bad: bool = False,
) -> Iterator[Packed]:
    """The same in groups of `size` rows, made as they are asked for; `reading` says what went into them so far.

    Only documents up to the last one used count, so an endless corpus will do if `tokens` is given. A corpus without a
    token raises with the first group.
    """
    _require_room(model, context)
    ahead: deque[str] = deque()

    def noted() -> Iterator[str]:
        for text in corpora.texts(texts, skip_bad=skip_bad):
            ahead.append(text)
            yield text

    def numbered() -> Iterator[tuple[int, list[int]]]:
        for number, ids in enumerate(encode(noted(), model.tokenizer, tokens, bos_first)):
            reading.digest.update(ahead.popleft())
            reading.documents = number + 1
            yield number, ids

    found = False
    for group in _batched(placed(numbered(), context, model.packs), size):
        found = True
        yield laid_out(group, context)
    if not found:
        raise InterpError("the corpus has no tokens; expected at least one document with text")


def _batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(rows, size)):
        yield group


def _require_room(model: HookedModel, context: int) -> None:
    if model.context is not None and context > model.context:
        raise InterpError(
            f"context is {context} but the model's is {model.context}; pass context={model.context} or less"
        )
