"""Feature absorption: latents of a concept that are silent because a more specific latent has taken their part.

Chanin et al. 2024, "A is for absorption" (https://arxiv.org/abs/2409.14507), with the thresholds of SAEBench. On texts
with the concept, which a linear probe finds:

1. The concept's latents are those of the sparse probe with the fewest latents that one more would not improve by more
   than 0.03 in F1.
2. The text counts as absorbed if all of these are silent, and the latent whose decoder row adds most along the probe
   has a cosine of 0.025 or more with it, and adds two fifths or more of the activation's own component.

SAEBench takes that component about zero; where activations have a large mean it is the mean's. So both are given:
`absorbed` about zero, and `absorbed, centred` about the decoder's bias.

Limitations: a rate on the texts of a set. A concept that no latent stands for is not absorbed but missing: see the
sparse probes.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from interp.auditing.autoencoders.labelled_set import SetActivations
from interp.auditing.autoencoders.sparse_probing import choose_latents, f1_scores, fit_logistic
from interp.sae.coder import SparseAutoencoder

_JUMP, _COSINE, _SHARE, _MOST, _SILENT = 0.03, 0.025, 0.4, 10, 1e-8


def absorbed(
    sae: SparseAutoencoder,
    x: Float[Tensor, "text d_in"],
    direction: Float[Tensor, "d_in"],
    main: Int[Tensor, "k"],
    centred: bool = False,
) -> Bool[Tensor, "text"]:
    """Which activations have a concept that its latents leave to another one.

    Args:
        sae: The autoencoder.
        x: Activations with the concept.
        direction: The linear probe's weights.
        main: The concept's latents.
        centred: Take the activation's component about the decoder's bias in place of zero.
    """
    direction, codes = normalize(direction, dim=0), sae.encode(x)
    cosines = normalize(sae.W_dec, dim=1) @ direction
    top = (codes * cosines).max(1)
    component = (x - sae.b_dec if centred else x) @ direction
    silent = (codes[:, main] < _SILENT).all(1)
    share = top.values / torch.where(component == 0, torch.ones_like(component), component)
    return silent & (cosines[top.indices] >= _COSINE) & (component > 0) & (share >= _SHARE)


def concept_latents(codes: Float[Tensor, "text d_sae"], truth: Bool[Tensor, "text"]) -> Int[Tensor, "k"]:
    """The latents of the sparse probe with the fewest that one more would not improve by more than 0.03 in F1."""
    ranked = choose_latents(codes, truth, min(_MOST, codes.shape[1]))
    best, kept = -1.0, 0
    for k in range(1, len(ranked) + 1):
        own = codes[:, ranked[:k]]
        score = float(f1_scores(torch.from_numpy(fit_logistic(own, truth).predict(own.numpy())), truth))
        if score - best <= _JUMP:
            break
        best, kept = score, k
    return ranked[:kept]


def absorption_scores(
    saes: Mapping[str, SparseAutoencoder], sets: Sequence[SetActivations]
) -> tuple[dict[str, dict[str, list[float]]], tuple[str, ...]]:
    """For each dictionary, whether each held-out text with a concept is absorbed; and the texts' groups.

    Only texts that the linear probe finds count. Sets that pool tokens are left out: what is absorbed is a token's.
    """
    scores: dict[str, dict[str, list[float]]] = {name: {"absorbed": [], "absorbed, centred": []} for name in saes}
    groups: list[str] = []
    for one in (one for one in sets if one.source.pool == "last"):
        truth, fit, x = one.source.truth, one.source.fit, one.activations()
        probe = fit_logistic(x[fit], truth[fit])
        found = torch.from_numpy(probe.predict(x.numpy())) & truth & ~fit
        groups += [
            f"{one.source.name} {group}" for group, own in zip(one.source.groups, found.tolist(), strict=True) if own
        ]
        direction = torch.from_numpy(probe.coef_[0]).float()
        for name, sae in saes.items():
            main = concept_latents(one.codes(sae)[fit], truth[fit])
            for key, centred in (("absorbed", False), ("absorbed, centred", True)):
                scores[name][key] += absorbed(sae, x[found], direction, main, centred).double().tolist()
    return scores, tuple(groups)
