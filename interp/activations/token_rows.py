"""A corpus as rows of tokens for a model, and the model's activations on these rows."""

import sys
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, starmap
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from interp.core.errors import InterpError, located, note
from interp.data import corpora
from interp.data.conversations import render_conversation
from interp.data.packing import PackedRows, Piece, assign_rows, encode, lay_out
from interp.models.architectures.table import architecture
from interp.models.hooked import HookedModel
from interp.models.identity import ModelReference
from interp.models.loading import load
from interp.models.sites import Site


@dataclass
class CorpusProgress:
    """How far a corpus has been read: number of documents, how many had to be split, and their digest."""

    documents: int = 0
    split: int = 0
    digest: corpora.Digest = field(default_factory=corpora.Digest)


def pack_rows(model: HookedModel, texts: corpora.Source, context: int, tokens: int | None = None) -> PackedRows:
    """Read, tokenise and pack a corpus into rows, all in memory.

    Args:
        model: The model whose tokenizer is used.
        texts: A corpus, as `interp.data.documents` takes it.
        context: Tokens per row.
        tokens: Read at most this many tokens; None for all.

    Raises:
        InterpError: The context exceeds the model's, or the corpus has no tokens.

    Example:
        >>> from interp.activations import pack_rows
        >>> pack_rows(model, ["the baker .", "the doctor ."], context=16).ids.shape
        torch.Size([1, 16])
    """
    return next(pack_groups(model, texts, sys.maxsize, context=context, tokens=tokens))


def pack_groups(
    model: HookedModel,
    texts: corpora.Source,
    size: int,
    *,
    context: int,
    reading: CorpusProgress | None = None,
    tokens: int | None = None,
    bos_first: bool = True,
    skip_bad: bool = False,
    text_field: str = "text",
) -> Iterator[PackedRows]:
    """Read, tokenise and pack a corpus lazily, in groups of `size` rows.

    Args:
        model: The model whose tokenizer is used; its architecture decides whether documents share rows.
        texts: A corpus. It may be endless if `tokens` is given.
        size: Rows per group.
        context: Tokens per row.
        reading: Updated with the number and digest of the documents in the groups so far.
        tokens: Read at most this many tokens.
        bos_first: Begin each text with what began a document of pretraining; see `interp.data.encode`.
        skip_bad: Ignore broken records.
        text_field: The key or column of the document in a record.

    Raises:
        InterpError: The context exceeds the model's; or, with the first group, the corpus has no tokens.

    Example:
        >>> from interp.activations import pack_groups
        >>> [len(group) for group in pack_groups(model, ["the baker ."] * 9, 2, context=16)]
        [2, 2, 1]
    """
    if model.context is not None and context > model.context:
        raise InterpError(f"context is {context} but the model's is {model.context}; pass {model.context} or less")
    reading = CorpusProgress() if reading is None else reading
    ahead: deque[corpora.Document] = deque()

    def check_renders(document: corpora.Document) -> None:
        if not isinstance(document, str):
            render_conversation(document, model)

    def read() -> Iterator[corpora.Document]:
        for document in corpora.documents(texts, text_field, skip_bad, accept=check_renders):
            ahead.append(document)
            yield document

    def numbered() -> Iterator[Piece]:
        for number, encoded in enumerate(encode(read(), model, tokens, bos_first)):
            reading.digest.update(ahead.popleft())
            reading.documents = number + 1
            reading.split += len(encoded) > context
            yield number, encoded

    rows, empty = assign_rows(numbered(), context, architecture(model.config).packs), True
    while group := list(islice(rows, size)):
        empty = False
        yield lay_out(group, context)
    if empty:
        raise InterpError("the corpus has no tokens; expected at least one document with text")


class CorpusPasses:
    """Forward passes over batches of rows; the batch size is halved when a batch does not fit into memory.

    From a device, activations are copied into pinned memory while it computes the next batch. `ahead` is how many
    batches are computed before one is handed out: 1 on a device, 0 on the CPU, where it would only take memory.
    """

    def __init__(self, model: HookedModel, sites: list[Site], batch_size: int):
        # Activations under a recipe would be recorded as the plain model's.
        if model.is_hooked:
            raise InterpError("activations are harvested from the plain model; leave the hooked block first")
        self.model, self.sites, self.batch_size = model, sites, batch_size
        self.ahead = int(model.device.type != "cpu")

    def over(
        self, packed: PackedRows, start: int = 0
    ) -> Iterator[tuple[PackedRows, dict[Site, Float[Tensor, "batch pos d_in"]]]]:
        """Batches of the rows from `start` on with their activations at the sites, heads side by side, on the CPU."""
        computed = deque[tuple[PackedRows, _HostCopies]]()
        while start < len(packed):
            batch = packed.rows(start, start + self.batch_size)
            if (copies := self._try(batch)) is not None:
                computed.append((batch, copies))
                start += len(batch)
                del copies  # no batch is held here while the next one is computed
                if len(computed) > self.ahead:
                    yield _arrived(*computed.popleft())
            elif self.batch_size == 1:
                raise InterpError("one row does not fit into memory; pass a shorter context, or a smaller dtype")
            else:
                note(f"{len(batch)} rows do not fit into memory; trying {len(batch) // 2}")
                self.batch_size = max(1, len(batch) // 2)
        yield from starmap(_arrived, computed)

    def widths(self, sample: PackedRows) -> dict[str, int]:
        """Width of each site, heads side by side, from a forward pass over two tokens."""
        activations = self._run(sample.part(slice(0, 1), slice(0, 2)))
        return {str(site): x.shape[-1] for site, x in activations.items()}

    def _try(self, batch: PackedRows) -> "_HostCopies | None":
        try:
            return _HostCopies(self._run(batch))
        except RuntimeError as problem:
            # The CPU's allocator has no exception type of its own.
            if isinstance(problem, torch.OutOfMemoryError) or "can't allocate memory" in str(problem):
                return None
            raise

    def _run(self, batch: PackedRows) -> dict[Site, Tensor]:
        activations = self.model.forward_to(self.sites, batch.model_inputs(self.model.device))
        return {site: x.flatten(2) for site, x in activations.items()}


def _arrived(batch: PackedRows, copies: "_HostCopies") -> tuple[PackedRows, dict[Site, Tensor]]:
    return batch, copies.wait()


class _HostCopies:
    """Activations on their way to the CPU; the device goes on meanwhile."""

    def __init__(self, activations: dict[Site, Tensor]):
        self._copies = {site: _start_copy(x) for site, x in activations.items()}
        self._events = list[torch.Event]()
        for device in {x.device for x in activations.values()}:  # the layers of a model may be on several
            if device.type != "cpu":
                self._events.append(torch.Event(device))
                self._events[-1].record(torch.accelerator.current_stream(device))

    def wait(self) -> dict[Site, Tensor]:
        """The activations, once they are here."""
        for event in self._events:
            event.synchronize()
        return self._copies


def _start_copy(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return x
    return torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)


def reloader(model: HookedModel) -> Callable[[], HookedModel]:
    """What loads the same model in another process, from its files: same weights, dtype, device and chat options.

    Raises:
        InterpError: The model is inside a `hooked` block, which other processes know nothing of.
    """
    if model.is_hooked:
        raise InterpError("the model is inside a hooked block, and workers load it without hooks; leave the block")
    options: dict[str, Any] = {"model": model.source or model.name, "dtype": model.dtype, "device": model.device}
    if model.tokenizer is not None:
        options |= {"template": model.template_variables or None, "date": model.date}
    return partial(_reload, model.reference, options | model.load_options)


def _reload(reference: ModelReference, options: dict[str, Any]) -> HookedModel:
    if options["device"].type == "cuda" and (options["device"].index or 0) >= torch.cuda.device_count():
        options = options | {"device": "cuda"}  # the one GPU of an actor
    with located("a worker loads the model from its files", "; save a model that was changed in memory first"):
        model = load(**options)
        reference.check(model.reference, "this work")
    return model
