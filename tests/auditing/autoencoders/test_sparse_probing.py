"""Probes find what is planted, beat the controls there, and agree with a slow version."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from planted_dictionary import PlantedSource, dictionary, draw, labelled
from scripts import importable

from interp.auditing.autoencoders.bench import compare_measures
from interp.auditing.autoencoders.controls import TRAINED, make_controls
from interp.auditing.autoencoders.sparse_probing import (
    best_latent,
    choose_latents,
    concept_scores,
    f1_interval,
    f1_scores,
    fit_logistic,
    probe_hits,
)
from interp.core.errors import InterpError
from interp.core.files import read_json
from interp.sae import SaeConfig

CONFIG = SaeConfig(kind="batchtopk", d_sae=160, k=2, batch_size=256, tokens=5120)


@pytest.fixture(scope="module")
def controls(tmp_path_factory):
    sae = replace(dictionary(), config=CONFIG)
    return make_controls(sae, PlantedSource(), 1.6, tmp_path_factory.mktemp("controls"), seeds=5)


def _sets(count=4):
    """Half of the texts have the feature of the set, the others do not."""
    sets = []
    for feature in range(count):
        x, features = draw(6000, seed=feature)
        yes, no = ((features[:, feature] > 0) == side for side in (True, False))
        rows = torch.cat([yes.nonzero()[:120, 0], no.nonzero()[:120, 0]])
        sets.append(labelled(x[rows], features[rows, feature] > 0, f"feature {feature}"))
    return sets


def test_the_true_dictionary_scores_one_and_is_above_all_controls(controls):
    hits, groups = probe_hits({TRAINED: dictionary(), **controls}, _sets(), (1, 2, 5))
    rows = compare_measures("probing", hits, groups)
    assert [row.value.estimate for row in rows] == pytest.approx([1, 1, 1], abs=0.005)
    assert [row.verdict for row in rows] == ["above all controls"] * 3
    scores = [concept_scores({TRAINED: dictionary(), **controls}, one) for one in _sets()]
    assert [score.latent for score in scores] == [0, 1, 2, 3]
    assert all(score.f1.estimate > 0.98 > max(x.estimate for x in score.controls.values()) for score in scores)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_random_dictionary_is_flagged(controls, seed):
    own = f"random decoder, seed {seed}"
    rest = {name: sae for name, sae in controls.items() if name != own}
    hits, groups = probe_hits({TRAINED: controls[own], **rest}, _sets(), (1, 5))
    rows = compare_measures("probing", hits, groups)
    assert any(row.not_above and row.verdict.startswith("not above its control") for row in rows)


def test_latents_are_chosen_by_difference_of_means_and_scaled_by_where_they_fire():
    codes = torch.tensor([[9.0, 1.0, 0.0], [8.0, 1.0, 0.0], [7.0, 0.0, 0.0], [8.0, 0.0, 0.5]])
    truth = torch.tensor([True, True, False, False])
    assert choose_latents(codes, truth, 3).tolist() == [0, 1, 2]
    assert choose_latents(codes, truth, 1, scaled=True).tolist() == [1]
    with pytest.raises(InterpError, match="k is 4; expected from 1 to the number of latents, 3"):
        choose_latents(codes, truth, 4)


def test_the_best_latent_is_that_of_a_slow_search():
    codes = draw(200, seed=5)[1][:, :12]
    truth = (codes[:, 7] > 1.05) | (codes[:, 3] > 1.1)
    latent, level = best_latent(codes, truth)
    found = {}
    for number in range(12):
        for share in torch.linspace(0, 0.95, 20):
            said = codes[:, number] > share * codes[:, number].max()
            hit = int((said & truth).sum())
            found[number, float(share)] = 2 * hit / max(1, int(said.sum() + truth.sum()))
    assert float(f1_scores(codes[:, latent] > level, truth)) == pytest.approx(max(found.values()))


def test_an_interval_of_f1_has_it_inside_and_shrinks_with_texts():
    generator = torch.Generator().manual_seed(0)
    widths = []
    for count in (60, 1500):
        truth = torch.rand(count, generator=generator) < 0.5
        said = truth ^ (torch.rand(count, generator=generator) < 0.1)
        score = f1_interval(said, truth)
        assert score.low < score.estimate < score.high
        assert score.low < 0.9 < score.high
        widths.append(score.high - score.low)
    assert widths[1] < widths[0] / 3
    paired = f1_interval(said, truth, [str(number // 2) for number in range(1500)])
    assert paired.n == 1500


def test_latents_and_accuracies_are_those_of_sae_bench_and_sae_probes():
    """Their own functions' figures, from `experiments/benchmarks/sae_bench_definitions.py`."""
    root = Path(__file__).parents[3]
    with importable(root / "experiments" / "benchmarks"):
        from sae_bench_definitions import arrays
    figures = read_json(Path(__file__).with_name("peer_figures.json"))["probing"]
    for figure in figures:
        x, truth = arrays(figure["seed"])
        for k, theirs in figure["sae-bench"].items():
            chosen = choose_latents(x[:200], truth[:200], int(k)).sort().values
            said = torch.from_numpy(fit_logistic(x[:200, chosen], truth[:200]).predict(x[200:, chosen].numpy()))
            assert chosen.tolist() == theirs["latents"]
            assert float((said == truth[200:]).float().mean()) == pytest.approx(theirs["accuracy"], abs=0.005)
        assert choose_latents(x[:200], truth[:200], 5, scaled=True).tolist() == figure["sae-probes"]
    assert len(figures) == 3
