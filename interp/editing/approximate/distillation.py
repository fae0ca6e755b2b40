"""Distil a recipe that does not fold: train low-rank factors until the model predicts what the hooked one does.

    minimise KL(hooked || plain + factors) of the next token, the mean over all tokens of the texts

1. Documents are split into training and held-out ones; duplicates count once.
2. Each weight of attention and MLP, from the layer of the recipe's first site on, gets two factors. The left one is
   zero, so that training begins at the plain model; the right one is random. The model's own weights are frozen.
3. Adam minimises the loss, with a rate that decays to zero and begins lower at a higher rank, where more parameters
   move (Kalajdzievski 2023, "A rank stabilization scaling factor for fine-tuning with LoRA"). The hooked model's
   predictions are computed for each batch, with one document per row, so that positions are as in use.
4. On the held-out documents KL(hooked || distilled) is measured next to the effect's own, KL(hooked || plain).

Distillation: Hinton, Vinyals and Dean 2015, "Distilling the knowledge in a neural network". Factors: Hu et al. 2021,
"LoRA: Low-rank adaptation of large language models".

Limitations: on text unlike the training texts the distilled model was never compared with the hooked one. An edit that
acts on rare prompts needs such prompts among the texts.
"""

from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.conversations import render_conversation
from interp.data.corpora import Digest, Source, documents
from interp.editing.approximate.low_rank_factors import (
    Distillation,
    Distilled,
    FactorPairs,
    add_factors,
    factors_digest,
)
from interp.editing.fold.steps import plan_fold
from interp.interventions.recipe import Recipe
from interp.models import HookedModel, Tokens, architecture, frozen_weights
from interp.models.identity import is_tied
from interp.models.losses import LinearDescent, kl_divergence

_FEWEST = 8  # documents
_PROBES = 32  # documents, of those held out
_RANK = 8  # the rank at which the rate is `lr`
_NOTHING = 1e-7  # nats: the KL that rounding in float32 alone makes


def distil(
    recipe: Recipe,
    model: HookedModel,
    texts: Source,
    rank: int = 8,
    steps: int = 300,
    lr: float = 5e-3,
    seed: int = 0,
    *,
    batch_size: int = 8,
    context: int = 128,
    most: int = 10_000,
    held_out: float = 0.2,
    even_if_exact: bool = False,
) -> Distilled:
    """Train low-rank factors for a recipe that does not fold, and measure on held-out documents what remains.

    Args:
        recipe: The edit to distil.
        model: The model it was made for.
        texts: Documents, as `harvest` takes them. Each is one prompt, which a gate that decides by prompts reads whole.
        rank: Rank of each weight's factors.
        steps: Training steps.
        lr: Adam's rate at rank 8; it falls with the square root of the rank.
        seed: Draws which documents are held out, their order, and where training begins.
        batch_size: Documents per step.
        context: Tokens used of each document.
        most: Largest number of documents used.
        held_out: Share of the documents to measure on.
        even_if_exact: Distil a recipe that folds exactly, too.

    Returns:
        The factors and their record, for `export(recipe, model, out, distilled=...)`.

    Raises:
        InterpError: A setting is out of range, there are too few documents, the recipe is another model's, folds, or
            does nothing on the texts, or training diverges.

    Example:
        >>> recipe = interp.Recipe([("mlp_out.1", interp.Project(torch.eye(model.d_model)[:1]))])
        >>> texts = [f"The guard at gate {n} is calm today." for n in range(8)]
        >>> distilled = interp.distil(recipe, model, texts, rank=1, steps=1, context=8, even_if_exact=True)
        >>> distilled.record.rank, len(distilled.losses)
        (1, 1)
    """
    _require_settings(rank, steps, lr, batch_size, context, held_out)
    recipe.check(model.reference)
    if not even_if_exact:
        _refuse_exact(recipe, model)
    unique, digest = _read(model, texts, most)
    train, held = _split(model, unique, held_out, seed, min(context, model.context or context))
    teacher = _Teacher(model, recipe)
    effect = teacher.distance(held, batch_size, {})
    if not effect < float("inf"):
        raise InterpError(f"what the hooked model predicts is not finite (KL {effect}); its edit is too strong")
    if not effect > _NOTHING:
        raise InterpError(
            f"the recipe changes nothing that is predicted (KL {effect:.1e} nats); give texts on which it acts"
        )
    # Before the recipe's first site, hooked and plain model agree.
    first = min(site.layer or 0 for edit in recipe.edits for site in model.resolve(edit.sites))
    pairs = _initial_factors(model, first, rank, seed)
    losses = _train(teacher, train, pairs, steps, lr * (_RANK / rank) ** 0.5, batch_size, seed, effect)
    pairs = {name: (left.detach().cpu(), right.detach().cpu()) for name, (left, right) in pairs.items()}
    remaining = teacher.distance(held, batch_size, pairs)
    if not remaining < float("inf"):
        raise InterpError(f"distillation diverged (KL {remaining} on held-out texts); lower lr ({lr:g})")
    record = Distillation(
        recipe=recipe.digest,
        base=model.reference.fits,
        texts=digest.hex,
        factors=factors_digest(pairs),
        rank=rank,
        steps=steps,
        lr=lr,
        seed=seed,
        batch_size=batch_size,
        context=context,
        documents=len(train),
        tokens=int(train.mask.sum()),
        held_out_documents=len(held),
        held_out_tokens=int(held.mask.sum()),
        kl=remaining,
        effect_kl=effect,
    )
    probes = tuple(held.rows(start, start + 4) for start in range(0, min(len(held), _PROBES), 4))
    return Distilled(pairs, record, tuple(losses), probes)


class _Teacher:
    """The hooked model, whose predictions are the target."""

    def __init__(self, model: HookedModel, recipe: Recipe):
        self.model, self.bound = model, recipe.bind(model)

    def divergence(self, batch: Tokens, pairs: FactorPairs) -> Float[Tensor, "token"]:
        """KL(hooked || plain + factors) at each real token of a batch."""
        with torch.no_grad(), self.model.hooked(self.bound):
            target = self._logits(batch)
        with add_factors(self.model, pairs):
            return kl_divergence(target, self._logits(batch))

    @torch.no_grad()
    def distance(self, tokens: Tokens, size: int, pairs: FactorPairs) -> float:
        """The mean divergence over all tokens."""
        parts = [self.divergence(rows, pairs) for rows in tokens.batches(size)]
        mean = float(torch.cat(parts).double().mean())
        return mean if mean != mean else max(0.0, mean)

    def _logits(self, batch: Tokens) -> Float[Tensor, "token d_vocab"]:
        inputs = batch.model_inputs(self.model.device)
        return self.model.hf(**inputs, use_cache=False).logits[batch.mask.to(self.model.device)].float()


def _train(
    teacher: _Teacher, train: Tokens, pairs: FactorPairs, steps: int, lr: float, size: int, seed: int, effect: float
) -> list[float]:
    """Train the factors in place; returns each step's loss relative to the effect."""
    trained = [factor.requires_grad_() for pair in pairs.values() for factor in pair]
    descent = LinearDescent(trained, lr, steps, betas=(0.9, 0.99))
    losses: list[float] = []
    with frozen_weights(teacher.model):
        for picked in track(_batches(len(train), size, steps, seed), "distil", total=steps, unit="steps"):
            with torch.enable_grad():
                loss = teacher.divergence(train.pick(picked), pairs).mean() / effect
            losses.append(float(loss.detach()))
            descent.step(loss, f"choose a lower lr than {lr:g}")
    return losses


def _batches(count: int, size: int, steps: int, seed: int) -> Iterator[Tensor]:
    """Indices of documents: each comes once before any comes again."""
    draw, order = torch.Generator().manual_seed(seed), torch.zeros(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < min(size, count):
            order = torch.cat([order, torch.randperm(count, generator=draw)])
        yield order[:size]
        order = order[size:]


def _initial_factors(model: HookedModel, first: int, rank: int, seed: int) -> FactorPairs:
    """Factors that add nothing yet, for every linear layer of attention and MLP from a layer on."""
    draw = torch.Generator().manual_seed(seed)
    layers, transposed = architecture(model.config).layers, architecture(model.config).transposed
    pairs = {}
    for name, module in model.hf.named_modules():
        layer = name.removeprefix(f"{layers}.").partition(".")[0]
        linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if not (name.startswith(f"{layers}.") and int(layer) >= first and linear):
            continue
        outputs, inputs = module.weight.T.shape if transposed else module.weight.shape
        if rank > min(outputs, inputs):
            raise InterpError(f"rank is {rank}, but {name} has {inputs} inputs and {outputs} outputs; lower it")
        # A layer's input has a root mean square of about 1, and then so has the first factor's output.
        pair = (torch.zeros(outputs, rank), torch.randn(rank, inputs, generator=draw) * inputs**-0.5)
        left, right = (pair[1].T, pair[0].T) if transposed else pair
        pairs[f"{name}.weight"] = (left.to(model.device), right.to(model.device))
    return pairs


def _read(model: HookedModel, texts: Source, most: int) -> tuple[list[str], Digest]:
    """The documents as text, without duplicates, and their digest."""
    digest, seen = Digest(), dict[str, None]()
    for document in islice(documents(texts), most):
        digest.update(document)
        seen[document if isinstance(document, str) else render_conversation(document, model)[0]] = None
    return [text for text in seen if text], digest


def _split(model: HookedModel, texts: Sequence[str], share: float, seed: int, cut: int) -> tuple[Tokens, Tokens]:
    """Training documents and held-out ones."""
    held = max(1, round(share * len(texts)))
    if len(texts) < _FEWEST:
        raise InterpError(
            f"the texts have {len(texts)} different documents; expected at least {_FEWEST}, better hundreds"
        )
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed)).tolist()
    train, rest = ([texts[number] for number in sorted(part)] for part in (order[held:], order[:held]))
    return model.tokens(train, cut), model.tokens(rest, cut)


def _require_settings(rank: int, steps: int, lr: float, batch_size: int, context: int, held_out: float) -> None:
    if rank < 1 or steps < 0 or batch_size < 1 or context < 2:
        raise InterpError(
            f"rank is {rank}, steps {steps}, batch_size {batch_size} and context is {context}; expected a rank and "
            "batches of 1 or more, no negative number of steps, and 2 tokens or more of each document"
        )
    if not (lr > 0 and 0 < held_out < 1):
        raise InterpError(f"lr is {lr} and held_out {held_out}; expected a rate above 0, and a share between 0 and 1")


def _refuse_exact(recipe: Recipe, model: HookedModel) -> None:
    named, tied = model.hf.state_dict(), is_tied(model.hf)
    if plan_fold(recipe, model.config, named, tied, named.__getitem__).status == "exact":
        raise InterpError(
            "the recipe folds into the weights exactly; export it as it is, or distil it with even_if_exact"
        )
