"""The settings of a sweep: what is wrong is refused by its key."""

import pytest

from interp import InterpError
from interp.models.loading import model_beside
from interp.search import SweepFile


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"stop": {"shares": [0.5, 0.2]}}, "shares are"),
        ({"sampler": {"name": "cma"}}, r"sampler\.name is 'cma'"),
        ({"measur": {}}, "did you mean measure"),
        ({"measure": {"suites": []}}, "neither suites nor behaviours"),
        ({"measure": {"suites": ["organsm"]}}, r"suites\.0: unknown suite 'organsm', .*did you mean organism"),
        ({"constraints": [{"behaviour": "x", "at_most": 1.0, "at_least": 0.0}]}, "one bound"),
        ({"constraints": [{"every": "harm", "at_most": 1.0}]}, r"constraints\.0: a constraint names a behaviour"),
        ({"constraints": [{"behaviour": "x", "at_most": 1.0}] * 2}, r"constraints\.1: 'x' has a constraint already"),
        (
            {"objectives": ["kl"], "measure": {"suites": ["organism"]}},
            "objectives: kl is measured on replies to benign",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_its_key(small_sweep, changes, problem):
    with pytest.raises(InterpError, match=problem):
        small_sweep.settings(**changes)


def test_the_model_may_be_a_folder_beside_the_file(small_sweep):
    settings = small_sweep.settings()
    assert model_beside(settings.model, small_sweep.folder) == str(small_sweep.folder / "model")
    assert SweepFile.parse(settings.model_dump(mode="json")) == settings


WITHIN = """
model: organism
recipe: {edits: [{op: Scale, heads: ["1.1"], factor: 0}]}
measure:
  behaviours:
    - name: sums
      kind: capability
      statement: s
      scorer: {type: choice, normalise: token}
      items:
        - {prompt: "1 + 1 =", answers: [" 2", " 3"], gold: 0}
        - {prompt: "1 + 2 =", answers: [" 2", " 3"], gold: 1}
"""


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        ("gold: 1}", "gld: 1}", r"line 12: items\.1: .*unknown key 'gld'; did you mean gold"),
        ("type: choice", "type: chioce", r"line 9: scorer: unknown type of scorer 'chioce'; did you mean choice"),
        ("normalise", "normalize", r"line 9: scorer: unknown key 'normalize'; did you mean normalise"),
        ("kind: capability", "kind: good", r"line 7: measure\.behaviours\.0\.kind is 'good'"),
    ],
)
def test_behaviours_written_in_the_file_are_checked_line_by_line(tmp_path, before, after, problem):
    (tmp_path / "sweep.yaml").write_text(WITHIN)
    settings = SweepFile.read(tmp_path / "sweep.yaml")
    assert SweepFile.parse(settings.model_dump(mode="json")) == settings
    (tmp_path / "sweep.yaml").write_text(WITHIN.replace(before, after))
    with pytest.raises(InterpError, match=problem):
        SweepFile.read(tmp_path / "sweep.yaml")
