"""Candidates without labels: orthogonal, stronger than random vectors, singular vectors of the map between sites."""

import random

import pytest
import torch
from word_contrasts import words

from interp import Add, InterpError
from interp.directions.methods.unsupervised_candidates import unsupervised

PROMPTS = [words(random.Random(seed), 5) for seed in range(6)]


def test_candidates_are_orthogonal_and_move_the_target_more_than_random_vectors(tiny):
    model = tiny("llama")
    candidates = unsupervised(model, PROMPTS, "resid_post.0", "resid_post.2", norm=1.0, count=5)
    rows = torch.cat([candidate.direction.rows for candidate in candidates])
    torch.testing.assert_close(rows @ rows.T, torch.eye(5), atol=1e-5, rtol=0)
    assert all(candidate.change > candidate.random for candidate in candidates)
    assert candidates[0].change > 2 * candidates[0].random
    plain = model.capture(PROMPTS, "resid_post.2")["resid_post.2"][:, 1:]
    with model.hooked([("resid_post.0", Add(candidates[0].direction, candidates[0].norm))]):
        moved = model.capture(PROMPTS, "resid_post.2")["resid_post.2"][:, 1:]
    assert candidates[0].change == pytest.approx(float((moved - plain).square().sum(-1).mean()), rel=1e-4)


def test_small_candidates_are_the_singular_vectors_of_the_map_between_the_sites(tiny):
    model, norm = tiny("gpt2"), 1e-3
    candidates = unsupervised(model, PROMPTS, "resid_post.0", "resid_post.2", norm=norm, count=2, steps=300)
    columns = []
    for e in torch.eye(model.d_model):
        ends = []
        for sign in (1, -1):
            with model.hooked([("resid_post.0", lambda x, add=sign * 1e-2 * e: x + add)]):
                ends.append(model.capture(PROMPTS, "resid_post.2")["resid_post.2"][:, 1:])
        columns.append((ends[0] - ends[1]).flatten() / 2e-2)
    _, values, rows = torch.linalg.svd(torch.stack(columns, 1), full_matrices=False)
    assert values[0] > 1.02 * values[1] > 1.02**2 * values[2], "control: one vector leads, and one comes second"
    for candidate, row in zip(candidates, rows, strict=False):
        assert float((candidate.direction.rows[0] @ row).abs()) > 0.99


def test_bad_candidates_are_named(tiny):
    model = tiny("llama")
    with pytest.raises(InterpError, match=r"resid_post\.0 does not come after resid_post\.1"):
        unsupervised(model, PROMPTS, "resid_post.1", "resid_post.0", 1.0)
    with pytest.raises(InterpError, match="norm is 0"):
        unsupervised(model, PROMPTS, "resid_post.0", "resid_post.1", 0.0)
    with pytest.raises(InterpError, match="at most 32 vectors are orthogonal"):
        unsupervised(model, PROMPTS, "resid_post.0", "resid_post.1", 1.0, count=33)
    with pytest.raises(InterpError, match="every prompt has one token"):
        unsupervised(model, ["w5"], "resid_post.0", "resid_post.1", 1.0)
