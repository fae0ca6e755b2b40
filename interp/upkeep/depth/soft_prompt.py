"""Soft prompt: whether a few learned embeddings before the prompt bring a removed harm back (Lester et al. 2021).

The prefix is trained by gradient on demonstrations with all weights frozen, within a budget of tokens and steps, and
the harm is measured behind it on held-out items. It stands where an instruction would (`HookedModel.instructed`), so
that every scorer reads it. It exists for the time of the measurement, is not returned, and is not written anywhere.

Limitations: a failed prefix shows that this budget did not suffice. In a model that never had the harm, a prefix that
succeeds has taught it: compare with the control.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from interp.auditing.behaviours import Behaviour, render_prompts
from interp.auditing.statistics.comparison import Estimate
from interp.core.progress import track
from interp.models.continuations import Continuations, frozen_weights, token_losses
from interp.models.losses import LinearDescent
from interp.upkeep.depth.demonstrations import Demonstrations
from interp.upkeep.depth.options import DepthOptions
from interp.upkeep.depth.subject import Subject


def recover_by_soft_prompt(
    subject: Subject, demonstrations: Demonstrations, held_out: Behaviour, options: DepthOptions | None = None
) -> Estimate:
    """The rate of a harm behind a prefix of embeddings that was trained to bring it back.

    Args:
        subject: The model, which stays as it is.
        demonstrations: Replies that show the harm.
        held_out: The harm, on other items.
        options: Tokens, steps, rate, batch and seed.

    Raises:
        InterpError: The harm is not one that was demonstrated, or training diverges.
    """
    options, copied = options or DepthOptions(), subject.copied()
    model = copied.model
    names = [f"<|soft{number}|>" for number in range(options.soft_tokens)]
    model.tokenizer = copy.deepcopy(model.tokenizer)
    model.tokenizer.add_tokens(names, special_tokens=True)
    prefix = _Prefix(model.hf, model.tokenizer.convert_tokens_to_ids(names[0]), options)
    part, instruction = demonstrations.part, "".join(names)
    with model.instructed(instruction):
        prompts = render_prompts(model, part.prompts, part.spec.get("before", ()), part.spec.get("chat", True))
    texts = Continuations.of(model, prompts, demonstrations.replies)
    descent = LinearDescent([prefix.entries], options.soft_lr, options.soft_steps)
    generator = torch.Generator().manual_seed(options.seed)
    with frozen_weights(model), copied.hooked(), torch.enable_grad():
        for _ in track(range(options.soft_steps), f"{subject.name}, soft prompt", unit="steps"):
            rows = torch.randperm(len(texts), generator=generator)[: options.batch]
            descent.step(token_losses(model, texts.pick(rows))[0].mean(), "choose a lower soft_lr")
    prefix.entries.requires_grad_(False)
    return copied.rate(held_out, instruction)


class _Prefix:
    """Learned rows of a model's table of embeddings, for new tokens that the unembedding cannot write.

    The table grows in place; a tied unembedding keeps the old one.
    """

    def __init__(self, hf: Any, first: int, options: DepthOptions):
        table, self.first = hf.get_input_embeddings(), first
        weight, count = table.weight.detach(), options.soft_tokens
        drawn = torch.randint(len(weight), (count,), generator=torch.Generator().manual_seed(options.seed))
        with torch.no_grad():
            rows = table(drawn.to(weight.device)).float()  # as scaled as the module scales them
        self.scale = float(rows.square().mean().sqrt())
        self.entries = (rows / self.scale).requires_grad_(True)
        grown = torch.cat([weight, weight.new_zeros(max(0, first + count - len(weight)), weight.shape[1])])
        table.weight, table.num_embeddings = torch.nn.Parameter(grown, requires_grad=False), len(grown)
        table.register_forward_hook(self._replaced)

    def _replaced(self, module: Any, arguments: Any, output: Tensor) -> Tensor:
        del module
        places = arguments[0] - self.first
        soft = (places >= 0) & (places < len(self.entries))
        rows = (self.scale * self.entries)[places.clamp(0, len(self.entries) - 1)]
        return torch.where(soft[..., None], rows.to(output), output)
