"""Suites by name: what they sample, and what they refuse."""

import pytest

from interp import InterpError, organism
from interp.auditing.suites import organism_behaviour, organism_suite, suite


def test_the_organisms_suite_has_every_planted_behaviour_and_a_loss():
    behaviours = suite("organism", 3)
    assert [behaviour.name for behaviour in behaviours] == [*organism.BEHAVIOURS, "everyday_loss"]
    assert [len(behaviour) for behaviour in behaviours] == [3] * len(behaviours)
    assert behaviours[-1].unit == "nats"


def test_items_are_drawn_by_seed_and_split_and_some_are_left_out():
    def prompts(**options):
        return organism_behaviour("hostility", 4, **options).prompts

    assert prompts() == prompts() != prompts(seed=1), "control"
    assert not set(prompts()) & set(prompts(split="train"))
    others = prompts(leave_out=prompts()[:2])
    assert len(others) == 4
    assert not set(others) & set(prompts()[:2])
    assert organism_suite(4)[0].prompts == prompts()


def test_unknown_names_and_data_without_use_are_refused(tmp_path):
    with pytest.raises(InterpError, match="unknown suite 'organsm'"):
        suite("organsm", 10)
    with pytest.raises(InterpError, match="unknown behaviour 'hostilty' of the organism; did you mean hostility"):
        organism_behaviour("hostilty", 4)
    for name in ("organism", tmp_path / "own.yaml"):
        with pytest.raises(InterpError, match="got a data folder"):
            suite(name, 4, data=tmp_path)
