"""Measures agree with a slow count by document, and with what is known of a perfect and an empty dictionary."""

from dataclasses import replace

import pytest
import torch
from sae_samples import autoencoder
from torch.nn.functional import cosine_similarity, cross_entropy

from interp.activations import pack_rows
from interp.auditing.autoencoders.reconstruction import reconstruction_measures
from interp.core.errors import InterpError
from interp.sae import evaluate

TEXTS = [" ".join(f"w{4 + (7 * n + k * k) % 120}" for k in range(5 + 3 * n)) for n in range(7)]


@pytest.fixture(scope="module")
def measured(tiny):
    model = tiny("llama")
    sae = autoencoder(model)
    empty = replace(sae, W_dec=torch.zeros_like(sae.W_dec))
    rows = pack_rows(model, TEXTS, 16)
    return model, sae, reconstruction_measures({"sae": sae, "empty": empty}, model, rows, batch_size=3)


def _slow(model, sae):
    """Sums over documents run by themselves, cut as rows are."""
    pieces = [piece for text in TEXTS for piece in model.tokens([text], beginning="document").ids[0].split(16)]
    xs = torch.cat([model.capture(ids, sae.site)[sae.site][0, 1:] for ids in pieces if len(ids) > 1])
    sums = dict.fromkeys(("clean", "sae", "zero", "mean", "kl"), 0.0)
    count, errors, cosines, fired = 0, 0.0, [], []
    for ids in pieces:
        if len(ids) < 2:
            continue

        def logits(function, ids=ids):
            def transform(acts):
                return torch.cat([acts[:, :1], function(acts[:, 1:])], 1)

            with model.hooked([(sae.site, transform)]):
                return model.logits(ids)[0, :-1]

        x = model.capture(ids, sae.site)[sae.site][0, 1:]
        passes = {
            "clean": logits(lambda x: x),
            "sae": logits(sae),
            "zero": logits(torch.zeros_like),
            "mean": logits(lambda x: xs.mean(0).expand_as(x)),
        }
        for name, found in passes.items():
            sums[name] += float(cross_entropy(found, ids[1:], reduction="sum"))
        p, q = (passes[name].log_softmax(-1) for name in ("clean", "sae"))
        sums["kl"] += float((p.exp() * (p - q)).sum())
        errors += float((sae(x) - x).square().sum())
        cosines.append(cosine_similarity(sae(x), x, dim=1))
        fired.append(sae.encode(x) > 0)
        count += len(ids) - 1
    fires = torch.cat(fired)
    return {
        "loss recovered (zero)": (sums["zero"] - sums["sae"]) / (sums["zero"] - sums["clean"]),
        "loss recovered (mean)": (sums["mean"] - sums["sae"]) / (sums["mean"] - sums["clean"]),
        "KL": sums["kl"] / count,
        "FVU": errors / float((xs - xs.mean(0)).square().sum()),
        "cosine": float(torch.cat(cosines).mean()),
        "L0": float(fires.sum(1).float().mean()),
        "dead": float((~fires.any(0)).float().mean()),
        "dense": float((fires.float().mean(0) > 0.1).float().mean()),
    }


def test_means_over_rows_are_those_of_a_slow_count_by_document(measured):
    model, sae, scores = measured
    means = {name: sum(values) / len(values) for name, values in scores["sae"].items()}
    assert means == pytest.approx(_slow(model, sae), rel=2e-3, abs=2e-3)


def test_they_agree_with_evaluate(measured):
    model, sae, scores = measured
    metrics = evaluate(sae, model, TEXTS, context=16)
    assert sum(scores["sae"]["FVU"]) / len(scores["sae"]["FVU"]) == pytest.approx(metrics.fvu, rel=1e-4)
    recovered = scores["sae"]["loss recovered (zero)"]
    assert sum(recovered) / len(recovered) == pytest.approx(metrics.loss_recovered, rel=1e-3)


def test_a_constant_reconstruction_recovers_nothing_of_the_loss_of_that_constant(measured):
    model, sae, _ = measured
    rows = pack_rows(model, TEXTS, 16)
    zero = replace(sae, W_dec=torch.zeros_like(sae.W_dec), b_dec=torch.zeros_like(sae.b_dec))
    scores = reconstruction_measures({"zero": zero}, model, rows)["zero"]
    assert sum(scores["loss recovered (zero)"]) == pytest.approx(0, abs=1e-4)
    assert sum(scores["FVU"]) / len(scores["FVU"]) >= 1


def test_text_that_predicts_nothing_is_refused(measured):
    model, sae, _ = measured
    with pytest.raises(InterpError, match="fewer than two rows"):
        reconstruction_measures({"sae": sae}, model, pack_rows(model, ["w5 w6 w7"], 16))
