"""Metrics against their formulas, and the scale from the corrupt run to the clean one."""

import pytest
import torch

from interp.attribution import Comparison, KLToClean, LogitDifference, LogProbability

CLEAN = ["w5 w9 w77 w12", "w12 w99 w101 w4"]
CORRUPT = ["w5 w30 w77 w12", "w12 w31 w101 w4"]


def metrics(model):
    logits = [model.logits(side)[:, -1] for side in (CLEAN, CORRUPT)]
    rows = torch.arange(2)
    return {
        "difference": (
            LogitDifference([" w7", " w8"], [" w50", " w51"]),
            [x[rows, [7, 8]] - x[rows, [50, 51]] for x in logits],
        ),
        "ids": (LogitDifference([7, 8], [50, 51]), [x[rows, [7, 8]] - x[rows, [50, 51]] for x in logits]),
        "own": (
            LogitDifference(),
            [x[rows, logits[0].argmax(1)] - x[rows, logits[1].argmax(1)] for x in logits],
        ),
        "probability": (LogProbability([" w7", " w8"]), [x.log_softmax(1)[rows, [7, 8]] for x in logits]),
        "divergence": (
            KLToClean(),
            [(logits[0].softmax(1) * (logits[0].log_softmax(1) - x.log_softmax(1))).sum(1) for x in logits],
        ),
        "function": (lambda logits: logits[:, 3], [x[:, 3] for x in logits]),
    }


@pytest.mark.parametrize("name", ["difference", "ids", "own", "probability", "divergence", "function"])
def test_a_metric_is_what_it_says_and_is_scaled_from_corrupt_to_clean(tiny, name):
    metric, expected = metrics(tiny("llama"))[name]
    pairs = Comparison(CLEAN, CORRUPT, metric).on(tiny("llama"))
    torch.testing.assert_close(pairs.clean_values, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pairs.corrupt_values, expected[1], atol=1e-5, rtol=1e-5)
    assert pairs.effect(pairs.clean_values) == pytest.approx(1, abs=1e-5)
    assert pairs.effect(pairs.corrupt_values) == pytest.approx(0, abs=1e-5)
    assert pairs.effect((pairs.clean_values + 3 * pairs.corrupt_values) / 4) == pytest.approx(0.25, abs=1e-5)
