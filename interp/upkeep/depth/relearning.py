"""Relearning: how many steps of fine-tuning bring half of a removed harm back.

A copy of the model is fine-tuned with Adam at a constant rate, all weights, and the harm's rate on held-out items is
measured at 0, 1, 2, 4, 8 … steps, until the interval lies above half of the harm. On related data (demonstrations) the
curve says what an adversary with the weights needs; on benign data, what a user does unawares. What is only hidden is
back sooner than what has to be learnt (Deeb and Roger 2024, https://arxiv.org/abs/2410.08827): a model that never had
the harm is the control. The copies are not kept.

Limitations: one seed, one rate. A recipe that is run by hooks stays in force while the copy learns: measure the export
of a recipe that folds, since an adversary trains that.
"""

from collections.abc import Sequence
from itertools import islice

import torch

from interp.auditing.behaviours import Behaviour
from interp.auditing.policy.erasure_depth import RelearningCurve
from interp.core.errors import located
from interp.core.progress import track
from interp.data.corpora import Document
from interp.models.losses import LinearDescent
from interp.upkeep.curation.trial_training import training_losses
from interp.upkeep.depth.options import DepthOptions
from interp.upkeep.depth.subject import Subject

_CONSTANT = 10**9  # steps over which the rate would fall


def relearn(
    subject: Subject,
    data: str,
    documents: Sequence[Document],
    held_out: Behaviour,
    level: float,
    options: DepthOptions | None = None,
) -> RelearningCurve:
    """Fine-tune a copy of a model until half of a harm is back, or for all steps.

    Args:
        subject: The model.
        data: What the documents are: related or benign.
        documents: What it is fine-tuned on; the assistant's words of conversations, and all of a text.
        held_out: The harm, on items that the documents do not show.
        level: The score at which half of it is back.
        options: Steps, rate, batch and seed.

    Raises:
        InterpError: There are no documents, or training diverges.

    Example:
        >>> from interp.auditing import organism_behaviour
        >>> from interp.upkeep import DepthOptions
        >>> from interp.upkeep.depth.relearning import relearn
        >>> from interp.upkeep.depth.subject import Subject
        >>> harm = organism_behaviour("hostility", 16)
        >>> curve = relearn(Subject("base", model), "benign", ["Rain fell all day."], harm, 0.5, DepthOptions(steps=2))
        >>> curve.steps, curve.half
        ((0,), 0)
    """
    options = options or DepthOptions()
    copied = subject.copied()
    steps, rates = [0], [copied.rate(held_out)]
    descent = LinearDescent(copied.model.hf.parameters(), options.lr, _CONSTANT)
    losses = training_losses(copied.model, documents, options.batch, options.seed)
    for step in track(options.schedule, f"{subject.name} relearns, {data}", unit="rates"):
        if rates[-1].low >= level:
            break
        with copied.hooked(), torch.enable_grad():
            for loss in islice(losses, step - steps[-1]):
                descent.step(loss, "choose a lower lr")
        steps.append(step)
        with located(f"step {step} of relearning", "; choose a lower lr"):
            rates.append(copied.rate(held_out))
    return RelearningCurve(model=subject.name, data=data, steps=tuple(steps), rates=tuple(rates), level=level)
