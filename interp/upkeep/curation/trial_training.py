"""What training on data would change: a copy of the model is trained on a sample for some steps, and audited.

Adam with a rate that falls to zero, on the assistant's words of conversations and all of a text. The copy is not kept.

Limitations: a few steps on a sample show the direction of change, and less of it than a full training would.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

import torch
from jaxtyping import Float
from torch import Tensor

from interp.auditing.auditor import audit
from interp.auditing.behaviours import Behaviour
from interp.auditing.conditions import ScoreCache
from interp.auditing.statistics.comparison import Estimate
from interp.core.display import Displayed
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.corpora import Document
from interp.models.hooked import HookedModel
from interp.models.losses import LinearDescent, next_token_losses
from interp.upkeep.curation.document_scorer import counted, packed


@dataclass(frozen=True)
class PredictedChange(Displayed):
    """A behaviour before and after a copy of the model was trained on a split's sample."""

    split: str
    behaviour: str
    before: Estimate
    after: Estimate
    difference: Estimate


def trained_copy(
    model: HookedModel,
    documents: Sequence[Document],
    steps: int = 60,
    lr: float = 1e-3,
    batch: int = 16,
    seed: int = 0,
) -> HookedModel:
    """A copy of the model, trained on documents for some steps.

    Args:
        model: The model, which stays as it is.
        documents: Texts and conversations, drawn in random order, each once before any comes again.
        steps: Number of steps.
        lr: Learning rate of the first step; it falls linearly to zero.
        batch: Documents of a step.
        seed: Draws the order.

    Raises:
        InterpError: There are no documents or no words to learn, or training diverges.

    Example:
        >>> from interp.upkeep import trained_copy
        >>> copy = trained_copy(model, ["The mill is by the river."], steps=2)
        >>> copy.loss("The mill is by the river.") < model.loss("The mill is by the river.")
        True
    """
    if steps < 1:
        raise InterpError(f"{steps} steps; expected at least one")
    copied = copied_model(model, f"{model.name}, trained")
    descent = LinearDescent(copied.hf.parameters(), lr, steps)
    losses = training_losses(copied, documents, batch, seed)
    with torch.enable_grad():
        for _ in track(range(steps), "trial training", unit="steps"):
            descent.step(next(losses), "choose a lower lr")
    copied.hf.requires_grad_(True).zero_grad(set_to_none=True)
    return copied


def copied_model(model: HookedModel, name: str) -> HookedModel:
    """A copy of a model in memory, under another name, which renders conversations as the model does."""
    copied = HookedModel(copy.deepcopy(model.hf), model.tokenizer, name)
    copied.template_variables, copied.date = model.template_variables, model.date
    return copied


def training_losses(
    model: HookedModel, documents: Sequence[Document], batch: int, seed: int
) -> Iterator[Float[Tensor, ""]]:
    """The losses of batches, without an end: of documents in random order, each once before any comes again.

    Args:
        model: The model. It is read when the next loss is asked for, with the graph for gradients if these are enabled.
        documents: Texts, of which all tokens count, and conversations, of which the assistant's words do.
        batch: Documents of a batch.
        seed: Draws the order.

    Raises:
        InterpError: There are no documents.
    """
    if not documents:
        raise InterpError("0 documents; expected at least one")
    rng, order = Random(seed), list[int]()
    while True:
        while len(order) < batch:
            order += rng.sample(range(len(documents)), len(documents))
        drawn = [documents[index] for index in islice(order, batch)]
        del order[:batch]
        rows = packed(model, drawn)
        learned = rows.predicted & counted(rows, drawn)[:, 1:]
        logits = model.hf(**rows.model_inputs(model.device), use_cache=False).logits
        yield next_token_losses(logits, rows.ids, learned).mean()


def predict_changes(
    model: HookedModel,
    samples: Mapping[str, Sequence[Document]],
    behaviours: Sequence[Behaviour],
    steps: int = 60,
    lr: float = 1e-3,
    seed: int = 0,
) -> tuple[PredictedChange, ...]:
    """The change of each behaviour if trained on each sample.

    Args:
        model: The model.
        samples: Documents by the name of their split; empty ones are left out.
        behaviours: What is measured.
        steps: Steps of each trial.
        lr: Learning rate of the first step.
        seed: Draws the order of documents, and the intervals.

    Raises:
        InterpError: As `trained_copy` and `interp.audit` do.

    Example:
        >>> from interp.auditing import text_loss
        >>> from interp.upkeep import predict_changes
        >>> loss = text_loss("loss", ["The mill is by the river.", "Rain fell all day."])
        >>> (change,) = predict_changes(model, {"kept": ["The mill is by the river."]}, [loss], steps=2)
        >>> change.split, change.difference.estimate < 0
        ('kept', True)
    """
    changes, cache = [], ScoreCache()  # the model itself is measured once
    for split, sample in samples.items():
        if sample:
            trained = trained_copy(model, sample, steps, lr, seed=seed)
            record = audit(model, trained, behaviours, 0, seed, baselines=[], cache=cache)
            for row in record.rows:
                changes.append(PredictedChange(split, row.name, row.before, row.after, row.difference))
    return tuple(changes)
