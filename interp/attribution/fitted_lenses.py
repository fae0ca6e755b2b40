"""Lenses that are fitted: the tuned lens, on activations, and the Jacobian lens, on prompts.

The tuned lens minimises, per site, KL(model || lens) of the next token by Adam, from the logit lens. tuned-lens itself
uses SGD with Nesterov momentum.

The Jacobian lens is J = mean over prompts and source positions t of the sum over target positions t' >= t of
d x_last[t'] / d x[t], with x_last the residual stream after the last layer, before the final norm. A backward pass from
one coordinate of all targets at once gives one row of that sum at every source and site. First positions, which are
attention sinks, and the last one are neither source nor target.
"""

from itertools import islice

import torch
from jaxtyping import Float, Int
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor

from interp.attribution.lens import Activity, Lens, Places, activation_source, final_site, site_batches
from interp.core.errors import InterpError
from interp.core.files import sha256_json
from interp.core.progress import track
from interp.data.corpora import Source, documents
from interp.data.packing import encode
from interp.directions.direction import residual_sites
from interp.models.continuations import frozen_weights
from interp.models.hooked import HookedModel
from interp.models.losses import LinearDescent, kl_divergence
from interp.models.sites import Site


def fit_tuned_lens(
    model: HookedModel,
    source: Activity,
    sites: Places = "resid_post.*",
    *,
    steps: NonNegativeInt = 250,
    batch_size: PositiveInt = 1024,
    lr: PositiveFloat = 1e-3,
    seed: int = 0,
) -> Lens:
    """Train a tuned lens on a store, on a stream, or on texts.

    Args:
        model: The model, without hooks; its weights stay fixed.
        source: A store or stream that has the sites and `resid_post` of the last layer, or a corpus of texts, which is
            streamed. It is read again and again until the steps are done.
        sites: Where to fit; the last `resid_post` needs no fit and is left out.
        steps: Steps of Adam. After 0 steps it is the logit lens.
        batch_size: Tokens per step.
        lr: Learning rate of the first step; it falls linearly to zero.
        seed: Seed of the order of tokens.

    Raises:
        InterpError: A site is unknown, or not in the source; the source is of another model, or holds NaN; the model is
            hooked; training diverges.

    Example:
        >>> texts = ["The river is the Nim.", "what is 2 plus 3?"] * 4
        >>> lens = interp.attribution.fit_tuned_lens(model, texts, "resid_post.2", steps=20, batch_size=32)
        >>> site = interp.models.Site("resid_post", 2)
        >>> lens.divergence(model, texts)[site] < interp.attribution.Lens().divergence(model, texts, site)[site]
        True
    """
    inner, final, width = _inner(model, sites), final_site(model), model.d_model
    source = activation_source(model, source, [*inner, final])
    weights = {site: torch.zeros(width, width, device=model.device, requires_grad=True) for site in inner}
    biases = {site: torch.zeros(width, device=model.device, requires_grad=True) for site in inner}
    lens = Lens("tuned", weights, biases, model.reference)
    descents = {site: LinearDescent([weights[site], biases[site]], lr, steps) for site in inner}
    batches = islice(site_batches(source, [*inner, final], batch_size, seed=seed), steps)
    with frozen_weights(model), torch.enable_grad():
        for streams in track(batches, "tuned lens", total=steps, unit="steps"):
            expected = Lens().logits(model, streams[final], final).float()
            for site, descent in descents.items():
                loss = kl_divergence(expected, lens.logits(model, streams[site], site).float()).mean()
                descent.step(loss, f"choose a lower lr than {lr}")
    weights, biases = ({site: x.detach().cpu() for site, x in maps.items()} for maps in (weights, biases))
    settings = {"steps": steps, "batch_size": batch_size, "lr": lr, "seed": seed}
    return Lens("tuned", weights, biases, model.reference, source.digest, settings)


def fit_jacobian_lens(
    model: HookedModel,
    texts: Source,
    sites: Places = "resid_post.*",
    *,
    prompts: PositiveInt = 100,
    context: PositiveInt = 128,
    skip: NonNegativeInt = 16,
    batch_size: PositiveInt = 16,
) -> Lens:
    """Average the Jacobian from each site to the last layer over prompts.

    A prompt takes one forward pass over `batch_size` copies of it, and d_model / `batch_size` backward passes.

    Args:
        model: The model, without hooks.
        texts: A corpus of plain text; each document is a prompt, begun as a document of pretraining and cut to
            `context` tokens.
        sites: Where to fit; the last `resid_post` is left out.
        prompts: How many prompts to use. 100 give a usable lens; 1,000 were published.
        context: Most tokens of a prompt.
        skip: First positions that are left out. Prompts of fewer than `skip` + 2 tokens are passed over.
        batch_size: Rows of the matrix per backward pass.

    Raises:
        InterpError: A site is unknown, no prompt is long enough, the model is hooked, or a gradient is not finite.

    Example:
        >>> texts = ["The river is the Nim, and the town by it is Brabedun."]
        >>> lens = interp.attribution.fit_jacobian_lens(model, texts, "resid_post.4", skip=2, batch_size=64)
        >>> lens.weights[interp.models.Site("resid_post", 4)].shape
        torch.Size([192, 192])
    """
    inner, used = _inner(model, sites), list[list[int]]()
    total = {site: torch.zeros(model.d_model, model.d_model, dtype=torch.float64) for site in inner}
    read = (document.ids[: min(context, model.context or context)] for document in encode(documents(texts), model))
    long_enough = islice((ids for ids in read if len(ids) >= skip + 2), prompts)
    for ids in track(long_enough, "Jacobian lens", total=prompts, unit="prompts"):
        for site, jacobian in _jacobians(model, inner, ids, skip, batch_size).items():
            total[site] += jacobian.cpu()
        used.append(ids.tolist())
    if not used:
        raise InterpError(f"no prompt has {skip + 2} tokens, of which the first {skip} and the last are left out")
    if not all(torch.isfinite(jacobian).all() for jacobian in total.values()):
        raise InterpError("a gradient is NaN or infinite; check that the model is finite on these texts, or its dtype")
    weights = {site: (jacobian / len(used)).float() - torch.eye(model.d_model) for site, jacobian in total.items()}
    settings = {"prompts": len(used), "context": context, "skip": skip}
    return Lens("jacobian", weights, {}, model.reference, sha256_json(used), settings)


def _inner(model: HookedModel, sites: Places) -> list[Site]:
    """The sites to fit at. Raises where there is none, or the model is hooked."""
    if model.is_hooked:
        raise InterpError("a lens is fitted to the plain model; leave the hooked block first")
    inner = [site for site in residual_sites(model, sites) if site != final_site(model)]
    if not inner:
        raise InterpError(f"{final_site(model)} needs no fit; choose earlier sites, such as resid_post.*")
    return inner


def _jacobians(
    model: HookedModel, inner: list[Site], ids: Int[Tensor, "pos"], skip: int, batch_size: int
) -> dict[Site, Float[Tensor, "d_model d_model"]]:
    """Per site, the gradient of the sum of the last layer's streams, a row per coordinate, mean over positions."""
    final, width, count = final_site(model), model.d_model, min(batch_size, model.d_model)
    copies = model.tokens(ids.expand(count, -1), mask=torch.ones(count, len(ids)))
    entry = [(Site("resid_pre", 0), lambda x: x.detach().requires_grad_())]  # the graph begins here
    with frozen_weights(model), torch.enable_grad(), model.hooked(entry):
        streams = model.forward_to([*inner, final], copies.model_inputs(model.device), keep_graph=True, copy=False)
    rows: dict[Site, list[Tensor]] = {site: [] for site in inner}
    for part in torch.arange(width, device=model.device).split(count):
        seed = torch.zeros_like(streams[final])
        seed[torch.arange(len(part)), skip:-1, part] = 1
        gradients = torch.autograd.grad(streams[final], [streams[site] for site in inner], seed, retain_graph=True)
        for site, gradient in zip(inner, gradients, strict=True):
            rows[site].append(gradient[: len(part), skip:-1].double().mean(1))
    return {site: torch.cat(parts) for site, parts in rows.items()}
