"""A corpus as rows of tokens for a model: what a harvest stores the activations of, and measures run on."""

import sys
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError
from interp.data import corpora
from interp.data.packing import Packed, Piece, encode, laid_out, pack, placed
from interp.models.hooked import HookedModel
from interp.models.sites import Site


@dataclass
class Reading:
    """How far a corpus has been read: documents used so far, the digest of them, and how many had to be split."""

    documents: int = 0
    split: int = 0
    digest: corpora.Digest = field(default_factory=corpora.Digest)


def rows(model: HookedModel, texts: corpora.Source, context: int, tokens: int | None = None) -> Packed:
    """Read, tokenise and pack a corpus, at most `tokens` of it, into rows of `context` tokens, all held in memory."""
    _require_room(model, context)
    return pack(encode(corpora.documents(texts), model.tokenizer, tokens), context, together=model.packs)


def groups(
    model: HookedModel,
    texts: corpora.Source,
    size: int,
    *,
    context: int,
    reading: Reading | None = None,
    tokens: int | None = None,
    bos_first: bool = True,
    skip_bad: bool = False,
    text_field: str = "text",
) -> Iterator[Packed]:
    """The same in groups of `size` rows, made as they are asked for; `reading` says what went into them so far.

    Only documents up to the last one used count, so an endless corpus will do if `tokens` is given. A corpus without a
    token raises with the first group.
    """
    _require_room(model, context)
    reading = Reading() if reading is None else reading
    ahead: deque[corpora.Document] = deque()

    def noted() -> Iterator[corpora.Document]:
        for document in corpora.documents(texts, text_field, skip_bad):
            ahead.append(document)
            yield document

    def numbered() -> Iterator[Piece]:
        for number, encoded in enumerate(encode(noted(), model.tokenizer, tokens, bos_first)):
            reading.digest.update(ahead.popleft())
            reading.documents = number + 1
            reading.split += len(encoded) > context
            yield number, encoded

    found = False
    for group in _batched(placed(numbered(), context, model.packs), size):
        found = True
        yield laid_out(group, context)
    if not found:
        raise InterpError("the corpus has no tokens; expected at least one document with text")


def activations(model: HookedModel, batch: Packed, wanted: list[Site]) -> dict[Site, Float[Tensor, "batch pos d_in"]]:
    """The activations at sites, heads side by side, on the CPU. A batch that does not fit into memory is halved."""
    with suppress(torch.OutOfMemoryError):
        found = model.forward_to(wanted, batch.model_inputs(model.device))
        return {site: x.flatten(2).cpu() for site, x in found.items()}
    # Behind the exception, which would keep the failed pass's tensors alive.
    half = len(batch) // 2
    if not half:
        raise InterpError("one row does not fit into memory; pass a shorter context, or a smaller dtype")
    print(f"interp: {len(batch)} rows do not fit into memory; trying {half}", file=sys.stderr)
    parts = [activations(model, part, wanted) for part in (batch.rows(0, half), batch.rows(half, len(batch)))]
    width = batch.ids.shape[1]
    return {site: torch.cat([_widened(part[site], width) for part in parts]) for site in wanted}


def widths(model: HookedModel, sample: Packed, wanted: list[Site]) -> dict[str, int]:
    """Number of features at each site, heads side by side, found by running two tokens of the sample."""
    found = activations(model, sample.part(slice(0, 1), slice(0, 2)), wanted)
    return {str(site): x.shape[-1] for site, x in found.items()}


def _widened(x: Float[Tensor, "batch pos d_in"], width: int) -> Float[Tensor, "batch width d_in"]:
    return torch.nn.functional.pad(x, (0, 0, 0, width - x.shape[1]))


def _batched(rows: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while group := list(islice(rows, size)):
        yield group


def _require_room(model: HookedModel, context: int) -> None:
    if model.context is not None and context > model.context:
        raise InterpError(
            f"context is {context} but the model's is {model.context}; pass context={model.context} or less"
        )
