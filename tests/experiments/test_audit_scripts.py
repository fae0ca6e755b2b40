"""The audits of docs/results/audit.md, at a size that a test allows."""

from pathlib import Path

import processes
import pytest

FOLDER = Path(__file__).parents[2] / "experiments"
MODEL = FOLDER / ".cache" / "smollm2-135m-instruct"
DATA = FOLDER.parents[1] / "shared" / "data"


def lines(script):
    return processes.run(FOLDER / script, "--smoke").splitlines()


def test_the_organism_has_a_table_a_decision_and_a_matrix():
    said = lines("audit_organism.py")
    table = {line.split(" | ")[0]: line for line in said if line.startswith("| ")}
    assert {"| hostility", "| refusal", "| everyday_loss"} <= set(table)
    assert any(line.startswith("hostility removed. Decision: ") for line in said)
    assert "| behaviour | kind | hostility | prompt |" in said


@pytest.mark.timeout(900)
@pytest.mark.skipif(not MODEL.exists(), reason=f"{MODEL} is not there; experiments/models.py makes it")
@pytest.mark.skipif(not DATA.exists(), reason=f"{DATA} is not there")
def test_the_sycophancy_edit_has_a_table_a_decision_and_a_matrix():
    said = lines("audit_sycophancy.py")
    assert any(line.startswith("heads scaled. Decision: ") for line in said)
    assert "| behaviour | kind | heads scaled | 12 heads zeroed | prompt |" in said
