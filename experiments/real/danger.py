"""A gate on dangerous requests, and a vector that makes a model refuse: how both are fitted.

1. The gate reads one direction of the residual stream at one layer, at every token. It is a logistic regression of the
   last token of the prompt (the end of the template's opening of a reply, which has read the whole request): dangerous
   requests against all else, that is harmless requests, safe ones that sound dangerous (which count several times), and
   tokens that do not end a prompt, so that the gate opens there and nowhere else.
2. Its threshold is a tenth of the way from the highest reading of a safe request in alarming words, of the choosing
   part, to the median one of its dangerous requests.
3. The vector is added at that one token, at the same site. It is trained by gradient to make one short refusal the
   likeliest reply to dangerous requests of the fitting part, to its end of turn. What is added behind the site where
   the gate reads can't change what it reads.
"""

import random
from collections.abc import Sequence

import torch
from request import Request, of
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from interp.core.progress import track
from interp.directions import logistic
from interp.models import HookedModel, frozen_weights
from interp.models.sites import Site

REFUSAL = "I'm sorry, but I can't help with that."
SITE = Site.parse("resid_post.12")
PENALTY, ALARMING, HUGE = 10.0, 4, 5.0  # of the regression; how often XSTest counts; times the median norm
MARGIN = 0.1  # of the way from the highest safe reading to the median dangerous one
BATCH, RATE, STEPS = 8, 0.3, 60


def last_tokens(model: HookedModel, listed: Sequence[Request]) -> Tensor:
    """What the stream holds at the end of each prompt, (requests, d_model)."""
    order = sorted(range(len(listed)), key=lambda number: len(listed[number].text))
    prompts = [model.chat(listed[number].text) for number in order]
    captured = model.capture(prompts, SITE, positions=-1, chat=False)[SITE][:, 0].float()
    return captured[torch.tensor(order).argsort()]


def other_tokens(model: HookedModel, listed: Sequence[Request], texts: Sequence[str]) -> Tensor:
    """What the stream holds at tokens that end no prompt: of prompts with their answers, and of texts."""
    prompts = [model.chat(request.text) for request in listed]
    answers = [REFUSAL if request.dangerous else request.answer[:160] or "Of course." for request in listed]
    lengths = model.tokens(prompts).lengths
    spoken = [f"{prompt}{answer}{model.tokenizer.eos_token}" for prompt, answer in zip(prompts, answers, strict=True)]
    activations = model.capture(model.tokens(spoken, rendered=True), SITE)
    mask = activations.tokens.mask.clone()
    begins = mask.int().argmax(1)
    mask[torch.arange(len(mask)), begins + lengths - 1] = False
    plain = model.capture(model.tokens(texts, cut=96, beginning="document"), SITE)
    return torch.cat([activations[SITE][mask], plain[SITE][plain.tokens.mask]]).float()


def gate_direction(ends: Tensor, listed: Sequence[Request], others: Tensor) -> Tensor:
    """The unit direction that the gate reads, (d_model,).

    Features are divided by their deviation over ends of prompts: a few coordinates are far larger than the others.
    Tokens with a huge norm (the first of a text) are left out; they are far on the closed side.
    """
    dangerous = torch.tensor([request.dangerous for request in listed])
    alarming = torch.tensor([request.source.startswith("xstest") for request in listed])
    scale, norms = ends.std(0), others.norm(dim=1)
    sides = [torch.cat([ends[side], *[ends[side & alarming]] * (ALARMING - 1)]) for side in (dangerous, ~dangerous)]
    negative = torch.cat([sides[1], others[norms < HUGE * norms.median()]])
    weights = logistic(sides[0] / scale, negative / scale, PENALTY) / scale
    return weights / weights.norm()


def refusing_vector(model: HookedModel, listed: Sequence[Request], steps: int = STEPS) -> Tensor:
    """The vector to add, (d_model,)."""
    ending = f"{REFUSAL}{model.tokenizer.eos_token}"
    reply = torch.tensor(model.tokenizer(ending, add_special_tokens=False)["input_ids"])
    prompts = model.tokens([model.chat(request.text) for request in of(listed, "fit", dangerous=True)]).unpadded()
    vector = torch.zeros(model.d_model, requires_grad=True)
    descent, draw = torch.optim.Adam([vector], RATE), random.Random(0)
    with frozen_weights(model), torch.enable_grad():
        for _ in track(range(steps), "steer", total=steps, unit="steps"):
            loss = reply_loss(model, draw.sample(prompts, min(BATCH, len(prompts))), reply, vector)
            descent.zero_grad()
            loss.backward()
            descent.step()
    return vector.detach()


def reply_loss(model: HookedModel, prompts: Sequence[Sequence[int]], reply: Tensor, vector: Tensor) -> Tensor:
    """The mean loss of a reply to prompts, where a vector is added at their last token."""
    batch = model.tokens([[*prompt, *reply[:-1].tolist()] for prompt in prompts])
    ahead = len(reply) - 1

    def add(x: Tensor) -> Tensor:
        return x + pad(vector[None], (0, 0, x.shape[1] - ahead - 1, ahead)).to(x)

    with model.hooked([(SITE, add)]):
        inputs = batch.model_inputs(model.device)
        logits = model.hf(**inputs, use_cache=False, logits_to_keep=len(reply)).logits.float()
    return cross_entropy(logits.flatten(0, 1), reply.repeat(len(batch)))


def threshold(readings: Tensor, listed: Sequence[Request], margin: float = MARGIN) -> float:
    """Above the highest reading of a safe request in alarming words, by a margin towards the dangerous ones."""
    safe, dangerous = (
        readings[torch.tensor([r.alarming != side and r.dangerous == side for r in listed])] for side in (False, True)
    )
    highest = float(safe.max())
    return highest + margin * (float(dangerous.median()) - highest)
