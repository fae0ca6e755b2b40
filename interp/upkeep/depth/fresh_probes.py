"""Fresh probes downstream of an edit: whether the concept can still be read, by a line or by a network.

A logistic regression and a network with one hidden layer are fitted on pairs at each site where the edit changes the
activations, and scored on held-out pairs. An edit that erases a concept for linear probes may leave it to a network
(Belrose et al. 2023, "LEACE"), and later layers may compute it again.

Limitations: what a probe reads need not be what the model uses. One token is read, by default the prompt's last.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from interp.auditing.policy.erasure_depth import DepthProbe
from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.separation import separation
from interp.core.errors import InterpError
from interp.core.progress import track
from interp.data.contrast import Contrast
from interp.directions.contrast_activations import Sides, capture_sides
from interp.models.sites import Site
from interp.upkeep.depth.subject import Subject

_HELD_OUT, _HIDDEN, _EPOCHS, _CHANGED = 0.4, 64, 200, 1e-5
_Captured = tuple[dict[tuple[Site, int], Sides], dict[tuple[Site, int], Sides]]


def fit_fresh_probes(
    base: Subject, subjects: Sequence[Subject], contrast: Contrast, sites: str | Sequence[str], seed: int = 0
) -> tuple[DepthProbe, ...]:
    """Fit probes to the activations of the unedited model and of others, the edited one first.

    Args:
        base: The unedited model.
        subjects: The models that are compared with it. The first decides which sites are downstream.
        contrast: Pairs that differ in the concept; two fifths are held out.
        sites: Sites or patterns; those where the first model's activations are the unedited one's are left out.
        seed: Draws the held-out pairs and the network's weights.

    Returns:
        A row for each site and model.

    Raises:
        InterpError: scikit-learn is not installed, or no site is downstream.
    """
    parts = contrast.split(_HELD_OUT, seed)
    places = base.model.resolve(sites)
    captured = {x.name: _captured(x, parts, places) for x in (base, *subjects)}
    plain, edited = captured[base.name][1], captured[subjects[0].name][1]
    downstream = [site for site in places if _differ(plain[site, -1], edited[site, -1])]
    if not downstream:
        names = ", ".join(map(str, places))
        raise InterpError(f"the edit changes no activation at {names}; name later sites (--sites)")
    cells = [(site, name) for site in downstream for name in captured]
    return tuple(_fit(site, name, captured[name], seed) for site, name in track(cells, "probes", unit="probes"))


def _captured(subject: Subject, parts: tuple[Contrast, Contrast], sites: list[Site]) -> _Captured:
    with subject.hooked():
        train, test = (capture_sides(subject.model, part, sites, [-1]) for part in parts)
    return train, test


def _differ(one: Sides, other: Sides) -> bool:
    gap = torch.cat([*one]) - torch.cat([*other])
    return float(gap.norm()) > _CHANGED * float(torch.cat([*one]).norm())


def _fit(site: Site, name: str, captured: _Captured, seed: int) -> DepthProbe:
    linear, mlp = (_held_out(probe, captured[0][site, -1], captured[1][site, -1]) for probe in _probes(seed))
    return DepthProbe(model=name, site=str(site), linear=linear, mlp=mlp)


def _probes(seed: int) -> Iterator[object]:
    try:
        from sklearn.linear_model import LogisticRegression
        from sklearn.neural_network import MLPClassifier
    except ImportError:
        raise InterpError("probes need the package scikit-learn; pip install 'interp[depth]'") from None
    yield LogisticRegression(max_iter=1000)
    yield MLPClassifier((_HIDDEN,), max_iter=_EPOCHS, random_state=seed)


def _held_out(probe: object, fit: Sides, test: Sides) -> Estimate:
    import warnings

    from sklearn.exceptions import ConvergenceWarning
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    rows, labels = torch.cat([*fit]).double().numpy(), np.repeat([1, 0], [len(side) for side in fit])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is a budget
        fitted = make_pipeline(StandardScaler(), probe).fit(rows, labels)

    def score(side: Tensor) -> Tensor:
        return torch.from_numpy(fitted.predict_proba(side.double().numpy())[:, 1])

    return separation(*test.read(score))
