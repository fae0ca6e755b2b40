"""Measures agree with a slow count by document, and with what is known of a perfect and an empty dictionary."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sae_samples import autoencoder
from scripts import importable
from torch.nn.functional import cosine_similarity, cross_entropy

import interp
from interp.activations import pack_rows
from interp.auditing.autoencoders.reconstruction import reconstruction_measures
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.data import pack
from interp.data.packing import Encoded
from interp.sae import evaluate
from interp.sae.metrics import spliced_sums

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


def test_figures_are_those_of_sae_bench_on_the_same_autoencoder():
    """Its own functions' figures, from `experiments/benchmarks/sae_bench_definitions.py`, within 1 %.

    It leaves out what the first token predicts, and counts what the last one would; zeros also take the first token's
    place, which here keeps its activations. Its explained variance takes the square of a mean of squares off a sum.
    """
    root = Path(__file__).parents[3]
    with importable(root / "experiments" / "benchmarks"):
        from sae_bench_definitions import LENGTH, SITE, autoencoder, documents
    theirs = read_json(Path(__file__).with_name("peer_figures.json"))["core"]
    model = interp.load("organism")
    sae, ids = autoencoder(model), documents(model)

    def sums(ids):
        rows = pack([Encoded.of(row.tolist()) for row in ids], ids.shape[1], together=False)
        return spliced_sums({"sae": sae}, model, rows, {}, 8)

    ours, longer, first = sums(ids[:, :LENGTH]), sums(ids), sums(ids[:, :2])
    own, tokens = ours.saes["sae"], ours.tokens
    predicted = tokens - len(ids)
    x = model.capture(ids[:, :LENGTH], SITE)[SITE][:, 1:].flatten(0, 1)
    error, squares = float(own.error.sum()) / tokens, float(x.square().sum(1).mean())

    def loss(change):
        with model.hooked([(SITE, change)]):
            logits = model.logits(ids[:, : LENGTH - 1])[:, 1:]
        return float(cross_entropy(logits.flatten(0, 1), ids[:, 2:LENGTH].flatten()))

    figures = {
        "ce_loss_without_sae": float((ours.clean - first.clean).sum()) / predicted,
        "ce_loss_with_sae": float((own.loss - first.saes["sae"].loss).sum()) / predicted,
        "ce_loss_with_ablation": loss(torch.zeros_like),
        "kl_div_with_sae": float(longer.saes["sae"].kl.sum()) / tokens,
        "l0": float(own.l0.sum()) / tokens,
        "cossim": float(own.cosine.sum()) / tokens,
        "mse": error / tokens,
        "explained_variance": 1 - error / (squares - (squares / x.shape[1]) ** 2),
    }
    assert figures == pytest.approx({key: theirs[key] for key in figures}, rel=0.01)
    worst, clean, with_sae = (figures[f"ce_loss_{key}"] for key in ("with_ablation", "without_sae", "with_sae"))
    assert (worst - with_sae) / (worst - clean) == pytest.approx(theirs["ce_loss_score"], rel=0.01)
    assert theirs["explained_variance"] < -0.5 < 0 < 1 - float(own.error.sum()) / ours.variance
