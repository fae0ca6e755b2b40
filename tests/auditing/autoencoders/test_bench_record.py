"""The record says where an autoencoder is not above its controls, in the table, on the card and as JSON."""

import pytest
import sample_records

from interp import InterpError
from interp.auditing import AutoencoderBench, BenchOptions
from interp.auditing.autoencoders.bench_record import BenchMeasure, ConceptScore
from interp.auditing.policy.sealed import write_sealed
from interp.auditing.statistics.comparison import Estimate

HIGH, LOW = Estimate(0.9, 0.8, 1.0, 40), Estimate(0.6, 0.5, 0.7, 40)


def _record():
    above, under = Estimate(0.3, 0.1, 0.5, 40), Estimate(0.1, -0.1, 0.3, 40)
    part = {"part": "probing", "better": "higher", "value": HIGH, "controls": {"PCA": LOW}}
    good = BenchMeasure(**part, name="accuracy, k = 1", gaps={"PCA": above})
    bad = BenchMeasure(**part, name="accuracy, k = 5", gaps={"PCA": under})
    plain = BenchMeasure(**part | {"better": ""}, name="L0", gaps={})
    concept = ConceptScore(concept="danger", latent=7, f1=HIGH, probe=HIGH, controls={"PCA": LOW, "a|b": HIGH})
    known = {"name": "mine", "digest": "a" * 64, "described": "autoencoder of x", "model": sample_records.MODEL}
    lists = {"measures": (good, bad, plain), "concepts": (concept,), "notes": ("few seeds",)}
    return AutoencoderBench(**known, options=BenchOptions(), **lists)


def test_what_is_not_above_its_control_is_said_everywhere():
    record = _record()
    assert record.not_above == ("probing, accuracy, k = 5",)
    assert [row["verdict"] for row in record.rows()] == ["above all controls", "not above its control: PCA", ""]
    for text in (record.markdown(), repr(record), record._repr_html_()):
        assert "accuracy, k = 5" in text
        assert "not above its control" in text
    assert "few seeds" in record.markdown()


def test_the_table_is_markdown_whatever_names_hold():
    lines = [line for line in _record().markdown().splitlines() if line.startswith("|")]
    assert {line.count("|") - line.count("\\|") for line in lines[:5]} == {6}
    assert lines[1] == "|---" * 5 + "|"
    assert "0.900 (a\\|b)" in _record().markdown()


def test_it_is_read_as_it_was_written_and_not_if_it_was_changed(tmp_path):
    write_sealed(_record(), tmp_path / "bench.json", 1)
    assert AutoencoderBench.read(tmp_path) == _record()
    (tmp_path / "bench.json").write_text((tmp_path / "bench.json").read_text().replace("few seeds", "no limits"))
    with pytest.raises(InterpError, match="was changed since it was written"):
        AutoencoderBench.read(tmp_path)
