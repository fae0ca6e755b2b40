"""Plans of jobs: figures against sums done otherwise, what more processes can do, measured rates, and bad files."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from interp.core.errors import InterpError
from interp.pipeline import JobPlan
from interp.pipeline.job_plan import _RATES

RATES = {
    "products": 1e14,
    "pass_share": 0.5,
    "step_share": 0.25,
    "disk_rate": 1e9,
    "memory_rate": 1e12,
    "network_rate": 1e10,
    "price": 3.6,
}
MODEL = {"parameters": 8e9, "layers": 32, "d_model": 4096}


def figures(machines=None, **jobs):
    plan = JobPlan.parse({"model": MODEL, "machines": RATES | (machines or {}), **jobs})
    return {(row["job"], row["figure"]): row["number"] for row in plan.figures()}


def test_a_billion_tokens_at_eight_billion_parameters():
    """2 x 8e9 x 1e9 FLOP at 8 x 5e13 FLOP/s are 40,000 s; 1e9 x (4096 x 2 + 20) bytes at 1e9 B/s are 8,212 s."""
    found = figures({"processes": 8}, harvest={"tokens": 1e9})
    assert found["harvest", "time"] == pytest.approx(40_000)
    assert found["harvest", "writing"] == pytest.approx(8_212)
    assert found["harvest", "processes that help"] == pytest.approx(8 * 40_000 / 8_212)
    assert found["harvest", "cost"] == pytest.approx(40)


def test_a_million_latents():
    """Of 8,192e6 weights of 18 bytes, one of eight processes has an eighth, and 512 rows of its pre-activations."""
    found = figures({"processes": 8, "memory_gb": 24}, train={"latents": 1e6, "tokens": 1e9})
    own = (8_192e6 * 18 + 512 * 4 * 1e6) / 8
    buffers = 6 * 4096 * 4096 * 4 + 2**28
    assert found["train", "memory"] == pytest.approx(own + buffers)
    assert found["train", "processes that fit"] == math.ceil(8 * own / (24e9 - buffers))
    assert found["train", "computing"] == pytest.approx(8_192e6 * 1e9 / (8 * 2.5e13))
    steps, batch = 1e9 / 4096, 4096
    ring, values = 2 * 7 / 8 * batch * 4096 * 4, 7 * batch * 32 * 4
    assert found["train", "sending"] == pytest.approx(steps * (ring + values) / 1e10)


def test_an_audit_of_35_behaviours():
    found = figures(audit={"behaviours": 35, "items": 100, "models": 2, "item_tokens": 100, "reply_tokens": 50})
    replies = 35 * 100 * 2
    assert found["audit", "scoring"] == pytest.approx(2 * 8e9 * 100 * replies / 5e13)
    assert found["audit", "generating"] == pytest.approx(replies / 32 * 50 * 16e9 / 1e12)
    assert found["audit", "processes that help"] == 70
    trials = figures(sweep={"behaviours": 35, "items": 100, "item_tokens": 100, "reply_tokens": 50, "trials": 6})
    assert trials["sweep", "time"] == pytest.approx(3 * found["audit", "time"])


@given(processes=st.integers(1, 4096))
def test_an_audit_has_no_more_parts_than_behaviours_and_models_and_a_sweep_than_trials(processes):
    audit = {"behaviours": 35, "items": 100, "item_tokens": 100, "reply_tokens": 50}
    for job in ({"audit": audit | {"models": 2}}, {"sweep": audit | {"trials": 6}}):
        one, many, name = figures(**job), figures({"processes": processes}, **job), next(iter(job))
        parts = {"audit": 70, "sweep": 6}[name]
        assert many[name, "time"] == pytest.approx(one[name, "time"] / min(processes, parts))


@given(processes=st.integers(1, 4096))
def test_more_processes_help_until_the_disk_takes_over(processes):
    job = {"harvest": {"tokens": 1e9}}
    one, many = figures(**job), figures({"processes": processes}, **job)
    bound = one["harvest", "processes that help"]
    assert many["harvest", "time"] == pytest.approx(one["harvest", "time"] / min(processes, bound))


def test_rates_that_are_not_given_are_measured_and_what_rests_on_them_is_extrapolated(monkeypatch):
    monkeypatch.setitem(_RATES, "disk_rate", lambda: 2e9)
    rates = {name: rate for name, rate in RATES.items() if name != "disk_rate"}
    rows = JobPlan.parse({"model": MODEL, "machines": rates, "harvest": {"tokens": 1e9}}).figures()
    basis = {row["figure"]: row["basis"] for row in rows}
    assert basis["disk_rate"] == "measured here"
    assert (basis["writing"], basis["time"], basis["cost"]) == ("extrapolated",) * 3
    assert (basis["computing"], basis["disk"]) == ("computed",) * 2


@pytest.mark.parametrize("name", _RATES)
def test_rates_of_this_machine_are_plausible(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    rate = _RATES[name]()
    assert (0 < rate < 3) if name.endswith("share") else 1e5 < rate < 1e15
    assert not [*tmp_path.iterdir()]


def test_the_command_shows_the_arithmetic_and_names_the_line_of_a_mistake(run, tmp_path):
    file = tmp_path / "plan.yaml"
    lines = "model: {parameters: 1e9, layers: 8, d_model: 512}", "machines: {products: 1e12, pass_share: 0.5}"
    text = "\n".join([*lines, "harvest:", "  tokens: 1e6", ""])
    file.write_text(text.replace("pass_share: 0.5", "pass_share: 0.5, disk_rate: 1e9"))
    code, said, _ = run("doctor", "--plan", file, "machines.processes=2")
    assert code == 0
    assert "workers 2" in said.replace("\n", " ")
    for change, problem in {
        ("tokens:", "token:"): "line 4: unknown key 'harvest.token'; did you mean tokens",
        ("1e6", "-3"): "line 4: harvest.tokens is -3",
        ("harvest:\n  tokens: 1e6", ""): "no job; expected one or more of harvest, train",
    }.items():
        file.write_text(text.replace(*change))
        code, _, said = run("doctor", "--plan", file)
        assert code == 2
        assert problem in said
    with pytest.raises(InterpError, match="no job"):
        JobPlan.parse({"model": MODEL})
