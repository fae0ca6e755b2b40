"""The doctor's report: what a bug report needs, and whether the processor has a unit for bfloat16."""

import pytest

import interp
from interp.pipeline import doctor


def test_the_report_has_versions_devices_and_the_organism():
    report = doctor.diagnose()
    assert {"python", "torch", "transformer_lens", "threads", "cores", "selection"} <= set(report)
    assert report["devices"].startswith("cpu")
    assert report["organism"] == interp.load("organism").digest[:12]
    assert report["organism_says"].strip()


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("model name : x\nflags : fpu avx512_bf16 amx_bf16 amx_tile\n", "amx_bf16"),
        ("flags : fpu avx512_bf16\n", "avx512_bf16"),
        ("Features : fp asimd bf16 i8mm\n", "bf16"),
        ("flags : fpu avx2\nbugs : bf16\n", "none"),
    ],
)
def test_units_for_bfloat16_are_read_from_the_processors_features(tmp_path, monkeypatch, text, unit):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(doctor, "_CPU_INFO", tmp_path / "cpuinfo")
    assert doctor.bfloat16_unit() == unit
    monkeypatch.setattr(doctor, "_CPU_INFO", tmp_path / "absent")
    assert doctor.bfloat16_unit() == "unknown"
