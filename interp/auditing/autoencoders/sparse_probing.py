"""Sparse probing: how well a concept can be read from one or a few latents.

- A k-sparse probe is a logistic regression on the k latents whose means differ most between the classes (Gurnee et al.
  2023, "Finding neurons in a haystack", https://arxiv.org/abs/2305.01610), with scikit-learn's defaults, as in SAEBench
  (Karvonen et al. 2025, https://arxiv.org/abs/2503.09532). sae-probes (Kantamneni et al. 2025,
  https://arxiv.org/abs/2502.16681) divides a latent by its mean where it fires before it ranks: `scaled`.
- The best latent says yes above a level. Latent and level are those of the best F1 on the texts to choose on.
- The linear probe beside it reads the activations themselves at the same site and tokens; its penalty is chosen by
  cross-validation.

Limitations: a latent can be read without the model using it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from interp.auditing.autoencoders.bench_record import ConceptScore
from interp.auditing.autoencoders.controls import TRAINED
from interp.auditing.autoencoders.labelled_set import SetActivations
from interp.auditing.statistics.comparison import Estimate
from interp.core.errors import InterpError
from interp.sae.coder import SparseAutoencoder

_LEVELS, _RESAMPLES, _PENALTIES = 20, 1000, (1e-3, 1e-2, 1e-1, 1.0, 10.0)


def choose_latents(
    codes: Float[Tensor, "text d_sae"], truth: Bool[Tensor, "text"], k: int, scaled: bool = False
) -> Int[Tensor, "k"]:
    """The k latents whose means differ most between texts with a concept and without, the largest difference first.

    Args:
        codes: The latents of texts to choose on.
        truth: Which texts have the concept.
        k: How many.
        scaled: Divide each latent by its mean where it fires.

    Raises:
        InterpError: k is larger than the number of latents.

    Example:
        >>> from interp.auditing.autoencoders.sparse_probing import choose_latents
        >>> choose_latents(torch.tensor([[1.0, 9.0], [0.0, 9.0]]), torch.tensor([True, False]), 1).tolist()
        [0]
    """
    if not 1 <= k <= codes.shape[1]:
        raise InterpError(f"k is {k}; expected from 1 to the number of latents, {codes.shape[1]}")
    if scaled:
        codes = codes / (codes.sum(0) / ((codes != 0).sum(0) + 1e-6) + 1e-6)
    gap = (codes[truth].mean(0) - codes[~truth].mean(0)).abs()
    return gap.argsort(descending=True)[:k]


def fit_logistic(x: Float[Tensor, "text width"], truth: Bool[Tensor, "text"], chosen: bool = False) -> Any:
    """scikit-learn's logistic regression at its defaults, or with a penalty `chosen` by cross-validation on F1."""
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.model_selection import GridSearchCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
    except ImportError:
        raise InterpError("probes need scikit-learn; install it with: pip install 'interp[bench]'") from None
    probe = LogisticRegression(max_iter=1000)
    if chosen:
        folds, grid = min(4, int(truth.sum()), int((~truth).sum())), {"logisticregression__C": _PENALTIES}
        probe = GridSearchCV(make_pipeline(StandardScaler(), probe), grid, scoring="f1", cv=folds)
    return probe.fit(x.numpy(), truth.numpy())


def best_latent(codes: Float[Tensor, "text d_sae"], truth: Bool[Tensor, "text"]) -> tuple[int, float]:
    """The latent and the level above which it says yes, with the best F1 on these texts.

    Example:
        >>> from interp.auditing.autoencoders.sparse_probing import best_latent
        >>> best_latent(torch.tensor([[0.0, 2.0], [1.0, 0.0]]), torch.tensor([True, False]))
        (1, 0.0)
    """
    top, best = codes.amax(0), (-1.0, 0, 0.0)
    for share in torch.linspace(0, 0.95, _LEVELS).tolist():
        scores = f1_scores(codes > share * top, truth)
        if float(scores.max()) > best[0]:
            latent = int(scores.argmax())
            best = float(scores.max()), latent, share * float(top[latent])
    return best[1:]


def f1_scores(said: Bool[Tensor, "text *latent"], truth: Bool[Tensor, "text"]) -> Float[Tensor, "*latent"]:
    """Harmonic mean of precision and recall, over the texts."""
    truth = truth.view(-1, *[1] * (said.ndim - 1))
    return 2 * (said & truth).sum(0) / (said.sum(0) + truth.sum(0)).clamp(min=1)


def f1_interval(said: Bool[Tensor, "text"], truth: Bool[Tensor, "text"], groups: Sequence[str] = ()) -> Estimate:
    """F1 with the 95 % interval of a bootstrap that resamples groups."""
    member = torch.tensor(np.unique(np.asarray(groups or range(len(said))), return_inverse=True)[1])
    cells = torch.stack([said & truth, said, truth], 1).double()
    sums = torch.zeros(int(member.max()) + 1, 3, dtype=torch.double).index_add(0, member, cells)
    draws = torch.randint(len(sums), (_RESAMPLES, len(sums)), generator=torch.Generator().manual_seed(0))
    both, yes, true = sums[draws].sum(1).unbind(1)
    low, high = (2 * both / (yes + true).clamp(min=1)).quantile(torch.tensor([0.025, 0.975]).double()).tolist()
    estimate = float(f1_scores(said, truth))
    return Estimate(estimate, min(low, estimate), max(high, estimate), len(said))


def probe_hits(
    saes: Mapping[str, SparseAutoencoder], sets: Sequence[SetActivations], ks: Sequence[int]
) -> tuple[dict[str, dict[str, list[float]]], tuple[str, ...]]:
    """For each dictionary and k, whether a k-sparse probe is right on each held-out text of all sets; and their groups.

    Raises:
        InterpError: A k is larger than a dictionary.
    """
    hits: dict[str, dict[str, list[float]]] = {name: {f"accuracy, k = {k}": [] for k in ks} for name in saes}
    for one in sets:
        truth, fit = one.source.truth, one.source.fit
        for name, sae in saes.items():
            codes = one.codes(sae)
            ranked = choose_latents(codes[fit], truth[fit], max(ks))
            for k in ks:
                own = codes[:, ranked[:k]]
                said = torch.from_numpy(fit_logistic(own[fit], truth[fit]).predict(own[~fit].numpy()))
                hits[name][f"accuracy, k = {k}"] += (said == truth[~fit]).double().tolist()
    held = ((one.source, ~one.source.fit) for one in sets)
    groups = tuple(
        f"{x.name} {group}" for x, out in held for group, test in zip(x.groups, out.tolist(), strict=True) if test
    )
    return hits, groups


def concept_scores(saes: Mapping[str, SparseAutoencoder], activations: SetActivations) -> ConceptScore:
    """F1 of a concept on held-out texts: of the autoencoder's best latent, of each control's, and of a linear probe."""
    source = activations.source
    truth, fit = source.truth, source.fit
    groups = [group for group, chosen in zip(source.groups, fit.tolist(), strict=True) if not chosen]
    scores, latents = {}, {}
    for name, sae in saes.items():
        codes = activations.codes(sae)
        latents[name], level = best_latent(codes[fit], truth[fit])
        scores[name] = f1_interval(codes[~fit, latents[name]] > level, truth[~fit], groups)
    x = activations.activations()
    said = torch.from_numpy(fit_logistic(x[fit], truth[fit], chosen=True).predict(x[~fit].numpy()))
    probe, own = f1_interval(said, truth[~fit], groups), scores.pop(TRAINED)
    return ConceptScore(concept=source.name, latent=latents[TRAINED], f1=own, probe=probe, controls=scores)
