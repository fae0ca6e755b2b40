"""Records of erasure depth, made up."""

from interp.auditing.policy.erasure_depth import DepthProbe, ErasureDepth, Recovery, RelearningCurve
from interp.auditing.policy.schema import ATTEMPTS
from interp.auditing.statistics.comparison import Estimate

DIGEST = "0" * 64


def rate(low, high, n=150):
    return Estimate((low + high) / 2, low, high, n)


def curve(*rates, model="edited", data="related", level=0.5):
    steps = (0, *(2**power for power in range(len(rates) - 1)))
    return RelearningCurve(model=model, data=data, steps=steps, rates=rates, level=level)


NOTHING_BACK = dict.fromkeys(ATTEMPTS, rate(0.0, 0.02))


def depth(by=NOTHING_BACK, curves=(), linear=None, **fields):
    """A record whose recoveries, curves and probes are given."""
    probes = (
        DepthProbe(model="base", site="resid_post.1", linear=rate(0.99, 1.0), mlp=rate(0.99, 1.0)),
        *([DepthProbe(model="edited", site="resid_post.1", linear=linear, mlp=rate(0.9, 1.0))] if linear else []),
    )
    values = {
        "model": "m",
        "weights": DIGEST,
        "recipe": "",
        "base": DIGEST,
        "behaviour": "hostility",
        "digest_of_items": "1" * 64,
        "measured": "2026-03-01",
        "before": rate(0.95, 1.0),
        "after": rate(0.0, 0.02),
        "probes": probes,
        "relearning": tuple(curves),
        "recoveries": tuple(Recovery(model="edited", by=name, rate=x) for name, x in by.items()),
        "settings": {},
    }
    return ErasureDepth(**(values | fields))
