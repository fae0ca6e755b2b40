"""Absorption is none for the true dictionary, and found in one that is built with it."""

from dataclasses import replace
from pathlib import Path

import torch
from planted_dictionary import WIDTH, dictionary
from scripts import importable
from torch.nn.functional import normalize

from interp.auditing.autoencoders.absorption import absorbed, absorption_scores, concept_latents
from interp.auditing.autoencoders.labelled_set import LabelledSet, SetActivations
from interp.core.files import read_json

# Feature 0 is the concept, 1 to 10 are things that imply it, 11 to 40 have nothing to do with it.
COUNT, CHILDREN = 240, 10


def _world():
    draw = torch.Generator().manual_seed(0)
    features = torch.zeros(COUNT, WIDTH)
    for row in range(COUNT // 2):
        features[row, 0] = 1
        if row < 2 * CHILDREN:
            features[row, 1 + row % CHILDREN] = 1
    other = torch.randint(11, 41, (COUNT,), generator=draw)
    features[torch.arange(COUNT), other] = 1
    words = tuple(map(str, range(COUNT)))
    source = LabelledSet("concept", words, tuple((features[:, 0] > 0).tolist()), words)
    return SetActivations(source, features, torch.arange(COUNT)), features


def _absorbing():
    """Latent 0 is silent where a child is active, and each child's row has the concept in it."""
    encoder, rows = torch.eye(WIDTH), torch.eye(WIDTH)
    encoder[0, 1 : CHILDREN + 1] = -5
    rows[1 : CHILDREN + 1, 0] = 1
    return dictionary(normalize(rows, dim=1), 0.3, encoder)


def test_none_in_the_true_dictionary_and_a_fifth_in_one_built_with_absorption():
    world, features = _world()
    scores, groups = absorption_scores({"true": dictionary(torch.eye(WIDTH), 0.3), "absorbing": _absorbing()}, [world])
    held = (features[:, 0] > 0) & ~world.source.fit
    share = float((features[held][:, 1 : CHILDREN + 1] > 0).any(1).float().mean())
    for key in ("absorbed", "absorbed, centred"):
        assert sum(scores["true"][key]) == 0
        assert abs(sum(scores["absorbing"][key]) / len(groups) - share) < 0.01
    assert 0.1 < share < 0.3


def test_a_text_is_absorbed_only_under_all_conditions():
    sae, direction = _absorbing(), torch.eye(WIDTH)[0]
    child, plain, other = (torch.zeros(WIDTH).index_fill(0, torch.tensor(on), 1) for on in ([0, 1], [0], [11]))
    x = torch.stack([child, plain, other])
    assert absorbed(sae, x, direction, torch.tensor([0])).tolist() == [True, False, False]
    assert absorbed(sae, x, direction, torch.tensor([0, 1])).tolist() == [False, False, False], "its latent fires"
    assert not absorbed(sae, x, torch.eye(WIDTH)[50], torch.tensor([0])).any(), "no latent along the probe"


def test_a_large_mean_hides_absorption_about_zero_and_not_about_the_decoders_bias():
    sae, direction = _absorbing(), torch.eye(WIDTH)[0]
    x = torch.zeros(1, WIDTH).index_fill(1, torch.tensor([0, 1]), 1)
    shifted = replace(sae, b_enc=-sae.W_enc @ (9 * direction), b_dec=9 * direction)
    moved = x + 9 * direction
    assert not absorbed(shifted, moved, direction, torch.tensor([0])).any()
    assert absorbed(shifted, moved, direction, torch.tensor([0]), centred=True).all()


def test_a_concept_of_two_latents_has_both():
    truth = torch.tensor([True] * 40 + [False] * 40)
    codes = torch.zeros(80, 6)
    codes[:20, 2], codes[20:40, 4], codes[::3, 1] = 1, 1, 1
    assert sorted(concept_latents(codes, truth).tolist()) == [2, 4]


def test_the_same_texts_are_absorbed_as_by_sae_bench():
    """Its own calculator's figures, from `experiments/benchmarks/sae_bench_definitions.py`."""
    root = Path(__file__).parents[3]
    with importable(root / "experiments" / "benchmarks"):
        from sae_bench_definitions import absorbing
    figures = read_json(Path(__file__).with_name("peer_figures.json"))["absorption"]
    for figure in figures:
        ours = absorbed(*(absorbing(figure["seed"])[number] for number in (1, 0, 2, 3)))
        assert ours.nonzero()[:, 0].tolist() == figure["absorbed"]
        assert 0.2 < float(ours.float().mean()) < 0.6
    assert len(figures) == 3
