"""Certificates: an entry for each op with what its fold claims and what was measured, and what both models write."""

import copy
from dataclasses import replace

import pytest
import sample_records
import torch
from folding import rows
from typer.testing import CliRunner

import interp
from interp import Add, InterpError, Project, Recipe
from interp.cli.app import app
from interp.core.files import write_json
from interp.editing.certificate.record import Certificate, TiedHead
from interp.editing.fold.plan import Plan
from interp.editing.options import FoldOptions
from interp.interventions import Erase

EVERYWHERE = ("resid_pre.*", "resid_mid.*", "resid_post.*")
MIXED = Recipe([("writers", Project(rows())), ("mlp_out.1", Add(rows(1)[0])), ("attn_out.0", Project(rows(2), 0.5))])


def test_each_op_has_its_claim_and_its_figures(tiny, tmp_path):
    certificate = interp.export(MIXED, tiny("gpt2"), tmp_path / "out")
    assert repr(certificate).startswith("Certificate(exact, faithful: KL ")
    found = certificate.ops
    assert [(op.op, op.status) for op in found] == [("Project", "exact"), ("Add", "exact"), ("Project", "exact")]
    assert found[1].sites == ("mlp_out.1",)
    assert all(op.gap < 1e-5 for op in found)
    assert found[0].leak < 1e-6
    assert found[1].leak is None
    assert found[2].leak is None, "half of it is meant to stay"


@pytest.fixture
def unrefused(monkeypatch):
    """To leave the table is more than a quarter of these edits, which is refused."""
    monkeypatch.setattr("interp.editing.export.exporter.require_faithful", lambda certificate: None)


def test_what_is_exact_and_what_is_approximate_is_told_apart(tiny, tmp_path, unrefused):
    left = interp.export(
        Recipe([("writers", Project(rows()))]),
        tiny("llama"),
        tmp_path / "left",
        fold=FoldOptions(approximate=True, leave_embedding=True),
    )
    assert left.status == "approximate"
    (table,) = (op for op in left.ops if op.status == "approximate")
    assert table.sites == ("embed",)
    assert "does not change" in table.reason
    assert table.leak > 0.01
    (others,) = (op for op in left.ops if op.status == "exact")
    assert others.leak < 1e-6, "what each writer writes has nothing along it either way"


@pytest.mark.parametrize("op", [Project(rows(k=2)), Erase(torch.eye(32)[:2], torch.eye(32)[:2] + 0, rows(3)[0])])
def test_ops_at_the_streams_sites_are_measured_there(tiny, tmp_path, monkeypatch, op):
    recipe = Recipe([(EVERYWHERE, op)])
    certificate = interp.export(recipe, tiny("llama"), tmp_path / "out")
    (figures,) = certificate.ops
    assert len(figures.sites) == 9
    assert figures.gap < 1e-5
    assert figures.leak < 1e-5
    apply = Plan.apply
    monkeypatch.setattr(
        Plan,
        "apply",
        lambda plan, name, x, **more: x if name.endswith("1.mlp.down_proj.weight") else apply(plan, name, x, **more),
    )
    monkeypatch.setattr("interp.editing.export.exporter.require_faithful", lambda certificate: None)
    (missed,) = interp.export(recipe, tiny("llama"), tmp_path / "missed").ops
    assert missed.gap > 1e-3, "control: a writer without the edit shows at the op's sites"
    assert missed.leak > 1e-3


def test_mean_and_largest_difference_and_what_both_models_write(tiny, tmp_path, unrefused):
    model = tiny("llama")
    found = interp.export(MIXED, tiny("gpt2"), tmp_path / "out", prompts=["w5 w6 w7", "w8"])
    assert 0 < found.mean_abs_logit_diff < found.max_abs_logit_diff
    assert (found.generated_tokens, found.generated_agreement) == ((4 + 2) * 16, 1.0)
    coarse = interp.export(
        Recipe([("writers", Project(rows(k=8)))]),
        model,
        tmp_path / "coarse",
        fold=FoldOptions(approximate=True, leave_embedding=True),
    )
    assert coarse.generated_agreement < 1, "control: where the edit is another, so is what is written"


def test_it_is_kept_as_json_in_the_card_and_told_by_verify(tiny, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    tiny("gpt2").hf.save_pretrained(source)
    tiny("gpt2").tokenizer.save_pretrained(source)
    certificate = interp.export(MIXED, source, out)
    assert Certificate.read(out / "interp_certificate.json") == certificate
    card = (out / "README.md").read_text()
    for op in certificate.ops:
        assert str(op) in card
    assert interp.verify(out).ops[0].sites == certificate.ops[0].sites
    told = CliRunner().invoke(app, ["verify", str(out)])
    assert told.exit_code == 0
    assert "op 2: Add at mlp_out.1: exact, gap " in told.stdout
    assert "agreement of generated text: 100.00% (of " in told.stdout


def test_rows_name_the_limit_that_each_claim_is_compared_with():
    within = sample_records.certificate()
    above = replace(within, fold=replace(within.fold, off=1e-3))
    limit = "interp's limit 1e-05"
    rows = [{name: reading for name, _, reading in each.rows()} for each in (within, above)]
    assert [row["before rounding: largest gap at a writer"] for row in rows] == [f"within {limit}", f"ABOVE {limit}"]
    approximate = {name: reading for name, _, reading in replace(within, status="approximate").rows()}
    assert approximate["before rounding: KL to the hooked model, nats"] == "not claimed"


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    certificate = interp.export(MIXED, tiny("gpt2"), tmp_path_factory.mktemp("export") / "out")
    return replace(certificate, tied=TiedHead(0.5, 3.0, 2.9))


def places(value, place=()):
    """The place of each value in a nested one, the outermost first."""
    yield place
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*place, key))


def changed(values, place, value):
    values = copy.deepcopy(values)
    inner = values
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return values


def test_every_figure_and_claim_that_was_changed_is_named(measured, tmp_path):
    values = measured.to_json()
    write_json(tmp_path / "it.json", values)
    assert Certificate.read(tmp_path / "it.json") == measured
    assert measured.differs(measured) is None, "control"
    others = {"approximate": "exact", "exact": "approximate"}
    count = 0
    for place in places(values):
        value = values
        for key in place:
            value = value[key]
        if not isinstance(value, dict | list):
            other = others.get(value, value + "x") if isinstance(value, str) else 9 + (value or 0)
            write_json(tmp_path / "it.json", changed(values, place, other))
            assert Certificate.read(tmp_path / "it.json").differs(measured) == ".".join(
                map(str, place[: 3 if "sites" in place else None])
            )
            count += 1
    assert count > 40
    assert replace(measured, tied=None).differs(measured).startswith("tied")
    assert replace(measured, tied=None).differs(measured, older=True) is None


def test_a_certificate_of_other_types_is_refused_in_one_line(measured, tmp_path):
    values, file = measured.to_json(), tmp_path / "it.json"
    refused = 0
    for place in places(values):
        for other in (None, "x", -1, True, [], {}, [1], [{}], {"a": 1}):
            write_json(file, changed({"it": values}, ("it", *place), other)["it"])
            try:
                Certificate.read(file)._repr_html_()
            except InterpError as problem:
                refused += 1
                assert "\n" not in str(problem)
                assert "not a certificate" in str(problem)
    assert refused > 300
