"""A bench that was stopped gives the same record as one that was not; bad input is refused before anything is made."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sae_samples import autoencoder

import interp
from interp import InterpError
from interp.auditing import AutoencoderBench, BenchOptions, LabelledSet, bench_autoencoder
from interp.auditing.autoencoders.bench import compare_measures, with_seeds
from interp.auditing.statistics.comparison import mean_interval
from interp.sae import SaeConfig

TEXTS = [" ".join(f"w{4 + (7 * n + k * k) % 120}" for k in range(8 + n % 9)) for n in range(60)]
OPTIONS = BenchOptions(tokens=200, ks=(1, 3), seeds=2, control_tokens=512)


def _set():
    words = [f"w{20 + n} w{5 if n % 2 else 90} w{40 + n % 7}" for n in range(40)]
    return LabelledSet("marked", tuple(words), (False, True) * 20, tuple(words))


@pytest.fixture(scope="module")
def whole(tiny, tmp_path_factory):
    model, folder = tiny("llama"), tmp_path_factory.mktemp("bench") / "whole"
    sae = replace(autoencoder(model), config=SaeConfig(d_sae=40, k=5, batch_size=64, tokens=512))
    record = bench_autoencoder(sae, model, TEXTS, folder, OPTIONS, sets=[_set()], name="small")
    return model, sae, folder, record


def test_it_has_every_part_that_applies_and_every_control(whole):
    _, _, folder, record = whole
    assert {row.part for row in record.measures} == {"reconstruction", "probing", "absorption"}
    controls = ["random decoder", "frozen decoder", "shuffled activations", "residual basis", "PCA"]
    assert all(set(row.controls) == set(controls) for row in record.measures)
    assert [row.concept for row in record.concepts] == ["marked"]
    assert record == AutoencoderBench.read(folder)
    assert (folder / "bench.md").read_text() == record.markdown()
    assert record.notes == ("each random control has fewer than three seeds",)
    assert record.not_above, "latents of random numbers are not above their controls"


def test_resumed_is_whole(whole, tmp_path):
    model, sae, folder, record = whole
    parts = {name: (folder / f"{name}.json").read_bytes() for name in ("reconstruction", "probing")}
    (folder / "probing.json").unlink()
    (folder / "bench.json").unlink()
    torch.manual_seed(9)
    again = bench_autoencoder(sae, model, TEXTS, folder, OPTIONS, sets=[_set()], name="small")
    assert again == record
    assert parts == {name: (folder / f"{name}.json").read_bytes() for name in parts}
    # A part that is done is read, not measured again.
    (folder / "absorption.json").write_text('{"measures": [], "concepts": []}')
    third = bench_autoencoder(sae, model, TEXTS, folder, OPTIONS, sets=[_set()], name="small")
    assert "absorption" not in {row.part for row in third.measures}


def test_another_bench_in_the_folder_is_refused_and_nothing_changes(whole):
    model, sae, folder, _ = whole
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    with pytest.raises(InterpError, match=r"options\.items was 200 and is now 100"):
        bench_autoencoder(sae, model, TEXTS, folder, BenchOptions(items=100), sets=[_set()], name="small")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text": TEXTS[:1]}, "the text has 1 documents"),
        ({"options": BenchOptions(ks=(1, 50))}, "k is 50, and the autoencoder has 40 latents"),
        ({"options": BenchOptions(parts=("probing",)), "sets": []}, "probing needs labelled sets"),
        (
            {"options": BenchOptions(parts=("unlearning",))},
            "unlearning needs the organism; give it, or leave unlearning out",
        ),
    ],
)
def test_bad_input_is_refused(changes, message, whole, tmp_path):
    model, sae, _, _ = whole
    given = {"sae": sae, "model": model, "text": TEXTS, "options": OPTIONS, "sets": [_set()]} | changes
    with pytest.raises(InterpError, match=message):
        bench_autoencoder(folder=tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_an_autoencoder_of_another_model_is_refused(whole, tiny, tmp_path):
    _, sae, _, _ = whole
    with pytest.raises(InterpError, match="this SAE"):
        bench_autoencoder(sae, tiny("llama", seed=1), TEXTS, tmp_path / "out", OPTIONS)
    (tmp_path / "mine.txt").write_text("kept")
    with pytest.raises(InterpError, match="holds other files"):
        bench_autoencoder(sae, whole[0], TEXTS, tmp_path, OPTIONS, sets=[_set()])
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_gaps_are_those_of_the_mean_over_seeds_and_signed_so_that_more_is_better():
    scores = {
        "autoencoder": {"KL": [1.0, 2.0, 3.0, 2.0]},
        "x, seed 0": {"KL": [3.9, 4.9, 5.9, 4.9]},
        "x, seed 1": {"KL": [2.1, 3.1, 4.1, 3.1]},
        "z, seed 0": {"KL": [3.9, 3.0, 4.9, 3.8]},
        "z, seed 1": {"KL": [3.9, 3.2, 5.1, 3.8]},
        "y": {"KL": [0.5, 1.0, 2.0, 1.5]},
    }
    (row,) = compare_measures("reconstruction", scores)
    assert (row.better, row.value.estimate, row.controls["x"].estimate) == ("lower", 2, 4)
    assert [row.gaps[name].estimate for name in "xyz"] == pytest.approx([2, -0.75, 1.95])
    assert row.not_above == ("x", "y"), "of two seeds that differ by so much the mean is unknown"


def test_the_interval_of_a_gap_has_the_variance_over_seeds():
    """Seeds of one control that lie on both sides of the autoencoder, far apart, cannot be beaten for certain."""
    own = [0.50, 0.52, 0.48, 0.51, 0.49, 0.50, 0.53, 0.47]
    apart = {f"x, seed {n}": {"FVU": [value + shift for value in own]} for n, shift in enumerate((-0.2, 0.4, 0.4))}
    alike = {f"x, seed {n}": {"FVU": [value + 0.2 for value in own]} for n in range(3)}
    rows = [compare_measures("reconstruction", {"autoencoder": {"FVU": own}, **x})[0] for x in (apart, alike)]
    assert [row.gaps["x"].estimate for row in rows] == pytest.approx([0.2, 0.2])
    assert [row.not_above for row in rows] == [("x",), ()]
    # Items differ by nothing, so that the seeds' interval is all there is: Student's of three draws.
    draws = np.array([-0.2, 0.4, 0.4])
    reach = 4.30265 * draws.std(ddof=1) / 3**0.5
    assert rows[0].gaps["x"].high - rows[0].gaps["x"].estimate == pytest.approx(reach, rel=1e-4)
    assert rows[0].controls["x"].high > rows[1].controls["x"].high


def test_intervals_with_seeds_cover_a_control_whose_seeds_vary():
    """Simulated: the truth is the mean over all seeds there could be; without the seeds' part coverage is far off."""
    draw = np.random.default_rng(0)
    covered = {True: 0, False: 0}
    for _ in range(200):
        items, seeds = draw.normal(0, 1, 40), draw.normal(0, 0.5, 3)
        scores = items + seeds[:, None] + draw.normal(0, 0.3, (3, 40))
        plain = mean_interval(scores.mean(0).tolist(), unit="margin", resamples=200)
        for wide in covered:
            interval = with_seeds(plain, scores.mean(1)) if wide else plain
            covered[wide] += interval.low <= 0 <= interval.high
    assert covered[True] >= 186
    assert covered[False] < 160


@given(
    scores=st.lists(st.floats(0, 1), min_size=3, max_size=8).flatmap(
        lambda own: st.tuples(
            st.just(own),
            st.lists(st.lists(st.floats(0, 1), min_size=len(own), max_size=len(own)), min_size=1, max_size=3),
        )
    ),
    measure=st.sampled_from(["accuracy", "KL", "cosine"]),
)
def test_intervals_stay_within_the_measures_bounds_and_hold_their_means(scores, measure):
    """Seeds far apart widen a rate's interval beyond 0 and 1, where no rate is, and a difference's beyond -1 and 1."""
    own, seeds = scores
    table = {"autoencoder": {measure: own}} | {f"x, seed {n}": {measure: one} for n, one in enumerate(seeds)}
    part = "probing" if measure == "accuracy" else "reconstruction"
    low, high = {"accuracy": (0, 1), "KL": (0, np.inf), "cosine": (-1, 1)}[measure]
    (row,) = compare_measures(part, table)
    for shown, (least, most) in [
        (row.value, (low, high)),
        (row.controls["x"], (low, high)),
        (row.gaps["x"], (low - high, high - low)),
    ]:
        assert least - 1e-12 <= shown.low <= shown.estimate <= shown.high <= most + 1e-12


def test_without_bounds_seeds_reach_beyond_one():
    wide = with_seeds(mean_interval([0.9, 1.0, 0.95], unit="rate"), [0.85, 1.0, 1.0])
    clipped = with_seeds(mean_interval([0.9, 1.0, 0.95], unit="rate"), [0.85, 1.0, 1.0], (0.0, 1.0))
    assert (wide.high > 1, clipped.high, clipped.low) == (True, 1, wide.low)


def test_json_has_no_more_than_the_record(whole):
    assert set(json.loads((whole[2] / "bench.json").read_text())) == {
        *AutoencoderBench.model_fields,
        "format",
        "sha256",
    }
    assert interp.auditing.AutoencoderBench is AutoencoderBench
