"""The journal: a line that a kill cut short is removed, what was left running is queued again once."""

import pytest

from interp import InterpError
from interp.search.sweeps.sweep_file import SamplerSettings
from interp.search.sweeps.trials import JOURNAL, SweepTrial, Trials, by_knee, front


def _run(trials, total=9):
    trial = trials.ask(total)
    x = trial.suggest_float("x", 0.0, 1.0)
    trials.chosen(trial)
    return trial, x


def _done(trial, x):
    return SweepTrial(trial.number, "complete", trial.params, {"x": x}, {"a": [x]}, {"bound": x - 0.5}, (x,))


def test_a_trial_that_was_left_running_is_failed_and_queued_again_once(tmp_path):
    trials = Trials(tmp_path, 1)
    (first, x), (second, y) = _run(trials), _run(trials)
    trials.tell(first, _done(first, x))
    assert Trials(tmp_path, 1).requeue() == 1
    assert Trials(tmp_path, 1).requeue() == 0
    resumed = Trials(tmp_path, 1)
    again, z = _run(resumed)
    assert (z, [trial.state for trial in resumed.all()]) == (y, ["complete", "left", "running"])
    assert resumed.counted() == 2
    assert second.number != again.number


def test_a_trial_whose_record_was_written_is_told_without_running_again(tmp_path):
    trials = Trials(tmp_path, 1)
    trial, x = _run(trials)
    done = _done(trial, x)
    trial.set_user_attr("record", {key: value for key, value in vars(done).items() if key != "number"})
    assert [each.state for each in trials.all()] == ["running"]
    trials.requeue()
    assert trials.all() == [done]
    assert trials.study.trials[0].values == [x]


def test_a_line_that_a_kill_cut_short_is_removed_by_the_next_writer(tmp_path):
    trials = Trials(tmp_path, 1)
    trial, x = _run(trials)
    with open(tmp_path / JOURNAL, "ab") as file:
        file.write(b'{"op_code": 8, "worker')
    trials.tell(trial, _done(trial, x))
    assert Trials(tmp_path).all() == [_done(trial, x)]


def test_the_same_seed_chooses_the_same_points_also_after_a_restart(tmp_path):
    def points(folder, restart):
        folder.mkdir()
        trials, chosen = Trials(folder, 1), []
        for _ in range(6):
            trials = Trials(folder, 1) if restart else trials
            trial, x = _run(trials)
            trials.tell(trial, _done(trial, x))
            chosen.append(x)
        return chosen

    assert points(tmp_path / "a", False) == points(tmp_path / "b", True)
    assert len(set(points(tmp_path / "c", True))) == 6


def _begun(trials, steps):
    """A trial that got so far before a kill: to the first of its two values, to both, and to the note of its point."""
    trial = trials.ask(6)
    for name in ("x", "y")[:steps]:
        trial.suggest_float(name, 0.0, 1.0)
    if steps == 3:
        trials.chosen(trial)
    return trial


@pytest.mark.parametrize("kills", [[[0]], [[1, 3]], [[3, 2, 0], [0, 1, 3, 2]], [[0, 1, 2, 3, 3], [3], [1, 2]]], ids=str)
def test_no_point_is_lost_or_repeated_however_far_the_choice_was_that_a_kill_cut_off(tmp_path, kills):
    def points(folder, kills):
        folder.mkdir()
        for kill in [*kills, []]:
            trials = Trials(folder, 1, SamplerSettings(name="random"))
            trials.requeue()
            for steps in kill:
                _begun(trials, steps)
        for _ in range(6):
            trial = _begun(trials, 3)
            trials.tell(trial, _done(trial, trial.params["x"]))
        assert trials.ask(6) is None
        return sorted((x.params["x"], x.params["y"]) for x in trials.all() if x.state == "complete")

    whole = points(tmp_path / "whole", [])
    assert len({*whole}) == 6
    assert points(tmp_path / "killed", kills) == whole


def test_no_more_trials_are_asked_for_than_there_are(tmp_path):
    trials = Trials(tmp_path, 1)
    _run(trials, 1)
    assert trials.ask(1) is None
    with pytest.raises(InterpError, match="no folder of a sweep"):
        Trials(tmp_path / "none")


def test_the_front_has_no_dominated_broken_or_stopped_trial_and_its_knee_is_first():
    costs = [(0.0, 1.0), (0.2, 0.2), (1.0, 0.0), (0.5, 0.5), (0.0, 0.0), (0.2, 0.2)]
    trials = [SweepTrial(n, "complete", {}, costs=cost) for n, cost in enumerate(costs)]
    trials[4] = SweepTrial(4, "complete", {}, costs=costs[4], excess={"kept": 0.1})
    assert [trial.number for trial in front(trials)] == [0, 1, 2]
    assert by_knee(front(trials), (1.0, 0.0))[0].number == 1
