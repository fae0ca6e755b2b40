"""The matrix: cells are the audits' own, corrected together; models and suites must be one."""

import pytest
import tiny_models
import torch

from interp import Add, InterpError, Project, Recipe
from interp.auditing.auditor import audit
from interp.auditing.conditions import ScoreCache
from interp.auditing.entanglement_matrix import EditEffect, Entanglement, entanglement
from interp.auditing.scoring.choices import text_loss
from interp.auditing.statistics.comparison import Estimate
from interp.auditing.statistics.significance import holm

TEXTS = [" ".join(f"w{(7 * i + 3 * j) % 100 + 5}" for j in range(6)) for i in range(24)]
DRAW = torch.randn(2, 32, generator=torch.Generator().manual_seed(0))
EDITS = {"project": Recipe([("writers", Project(DRAW[0]))]), "add": Recipe([("resid_post.1", Add(DRAW[1], 2.0))])}


def suite():
    return [text_loss("first", TEXTS[:12]), text_loss("second", TEXTS[12:])]


@pytest.fixture(scope="module")
def model():
    return tiny_models.build("llama", seed=1)


def test_cells_are_those_of_the_audits_corrected_over_all(model):
    whole, audits = entanglement(model, EDITS, suite())
    assert list(whole.columns) == ["project", "add", "prompt"]
    for name, recipe in EDITS.items():
        alone = audit(model, recipe, suite(), baselines=("prompt",))
        assert audits[name] == alone
        for row in alone.rows:
            cell = whole.columns[name][row.name]
            assert (cell.difference, cell.p) == (row.difference, row.p)
    cells = [cell for column in whole.columns.values() for cell in column.values()]
    assert [cell.p_holm for cell in cells] == list(holm([cell.p for cell in cells]))
    assert max(cell.p_holm for cell in cells) > min(cell.p for cell in cells), "control"


def test_instructions_that_differ_have_columns_of_their_own(model):
    first, second = (audit(model, EDITS["add"], suite(), baselines=("prompt",), instruction=w) for w in ("w5", "w6"))
    columns = Entanglement.of({"a": first, "b": second}).columns
    assert list(columns) == ["a", "b", "prompt for a", "prompt for b"]
    for name, audited in (("a", first), ("b", second)):
        (baseline,) = audited.baselines
        assert {b: cell.difference for b, cell in columns[f"prompt for {name}"].items()} == baseline.changes
    assert list(Entanglement.of({"a": first, "b": first}).columns) == ["a", "b", "prompt"], "control"


def test_the_unedited_model_is_measured_once(model, tmp_path):
    entanglement(model, EDITS, suite(), baselines=(), cache=ScoreCache(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2 * 3


def test_better_is_by_kind_and_unit():
    up = Estimate(0.25, 0.1, 0.4, 100)
    shades = [
        EditEffect(up, 0.01, 0.04, k, u).shade for k, u in (("harm", "rate"), ("protected", "rate"), ("harm", "nats"))
    ]
    assert shades == [-0.5, 0.5, -1.0]
    assert str(EditEffect(up, 0.01, 0.04, "harm", "rate")) == "+0.250*"
    assert str(EditEffect(up, 0.01, 0.06, "harm", "rate")) == "+0.250"


@pytest.mark.parametrize("name", ["prompt", "random", "random for add"])
def test_an_edit_with_a_baselines_name_is_refused(model, name):
    """Its column would be the baseline's."""
    edits = {name: EDITS["project"], "add": EDITS["add"]}
    with pytest.raises(InterpError, match=f"an edit is named '{name}'"):
        entanglement(model, edits, suite(), baselines=("prompt", "random"))
    with pytest.raises(InterpError, match=f"an edit is named '{name}'"):
        Entanglement.of({name: audit(model, EDITS["add"], suite(), baselines=())})
    fine = Entanglement.of({f"my {name}": audit(model, EDITS["add"], suite(), baselines=("prompt",))})
    assert list(fine.columns) == [f"my {name}", "prompt"], "control"


def test_other_suites_and_models_are_refused(model):
    first = audit(model, EDITS["add"], suite(), baselines=())
    with pytest.raises(InterpError, match="'b' has other behaviours"):
        Entanglement.of({"a": first, "b": audit(model, EDITS["add"], suite()[:1], baselines=())})
    other = tiny_models.build("llama", seed=2)
    with pytest.raises(InterpError, match="'b' has other unedited models"):
        Entanglement.of({"a": first, "b": audit(other, EDITS["add"], suite(), baselines=())})
    with pytest.raises(InterpError, match="at least one audit"):
        Entanglement.of({})
