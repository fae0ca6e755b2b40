"""Sealed records: read as written, and refused after any change."""

import json

import pytest

from interp import InterpError
from interp.auditing.policy.schema import Threshold
from interp.auditing.policy.sealed import read_sealed, write_sealed

RECORD = Threshold(behaviour="a", at_most=0.5)


def test_a_record_is_read_as_written_and_refused_after_any_change(tmp_path):
    file = tmp_path / "record.json"
    write_sealed(RECORD, file, 3)
    assert read_sealed(Threshold, file, "a bound", 3, "interp x") == RECORD
    values = json.loads(file.read_text())
    for change, words in (
        ({"at_most": 0.6}, "its SHA-256 differs"),
        ({"format": 4}, "its SHA-256 differs"),
        ({"other": 1}, "not a bound"),
        ({"at_most": "much"}, "not a bound"),
    ):
        file.write_text(json.dumps(values | change))
        with pytest.raises(InterpError, match=words):
            read_sealed(Threshold, file, "a bound", 3, "interp x")
    file.write_text("[]")
    with pytest.raises(InterpError, match="not a bound"):
        read_sealed(Threshold, file, "a bound", 3, "interp x")
    file.unlink()
    with pytest.raises(InterpError, match=r"no record.json in it; expected a folder written by interp x"):
        read_sealed(Threshold, file, "a bound", 3, "interp x")
