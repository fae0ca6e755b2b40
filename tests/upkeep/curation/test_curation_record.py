"""The record of a curation: a folder that has none, or a damaged one, is named."""

import json

import pytest
from costless_scorer import CostlessScorer, texts

from interp import InterpError
from interp.upkeep import Curation, CurationOptions, curate


def test_a_folder_without_a_record_or_with_a_damaged_one_is_named(tmp_path):
    with pytest.raises(InterpError, match="no folder of a curation"):
        Curation.read(tmp_path)
    curate(texts(5), CostlessScorer(), tmp_path / "out", CurationOptions(threshold=1.0))
    file = tmp_path / "out" / "curation.json"
    values = json.loads(file.read_text())
    for name in values:
        file.write_text(json.dumps({key: value for key, value in values.items() if key != name}))
        with pytest.raises(InterpError, match=r"curation\.json is damaged"):
            Curation.read(tmp_path / "out")
    file.write_text(json.dumps(values))
    assert Curation.read(tmp_path / "out").counts == {"kept": 4, "flagged": 1, "unsure": 0}


def test_passages_and_records_do_not_print_what_documents_say(tmp_path):
    record = curate(["9 unrepeatable"], CostlessScorer(), tmp_path / "out", CurationOptions(threshold=1.0))
    assert "unrepeatable" in str(record.worst[0].tokens), "control"
    assert "unrepeatable" not in repr(record) + repr(record.worst) + record._repr_html_()
