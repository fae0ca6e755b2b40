"""A series against its first model: what was planted is first outside and inside, and named with its layer."""

import json
from pathlib import Path

import pytest
import torch
from drifted import TEXTS, copied, moved

import interp
from interp import InterpError
from interp.activations import SiteColumns
from interp.auditing import Behaviour, organism_behaviour, text_loss
from interp.auditing.behaviours import Scores
from interp.interventions import Project
from interp.sae import SparseAutoencoder, TopK
from interp.upkeep import Drift, DriftOptions, measure_drift, reply_direction
from interp.upkeep.drift import drift_measurement

QUICK = DriftOptions(crosscoder=0, context=16)
LOSS = text_loss("loss", TEXTS[:20])


def test_a_model_against_itself_has_no_findings_whatever_is_measured(tiny, tmp_path):
    model = tiny("llama")
    rows, site = torch.eye(32), (SiteColumns(site="resid_post.1", model=model.reference, width=32),)
    sae = SparseAutoencoder(rows, torch.zeros(32), rows, torch.zeros(32), TopK(k=4), site, site)
    options = DriftOptions(crosscoder=8, context=16, tokens=600, margin=0.0, shift=0.0)
    directions = {"axis": interp.Direction.of(torch.eye(32)[0], "resid_post.1", model)}
    texts = TEXTS + [f"{text} w9" for text in TEXTS]
    record = measure_drift(
        model, [copied(model), copied(model)], [LOSS], texts, tmp_path / "out", options, directions=directions, sae=sae
    )
    for drift in record.models:
        assert drift.findings == []
        assert drift.divergence.mean.high == 0
        assert (drift.latents, drift.crosscoder.exclusive) == ((), ())
        assert all(abs(site.cka - 1) < 1e-9 and site.difference == 0 for site in drift.sites)
        assert all((x.change.estimate, x.p, x.finding) == (0.0, 1.0, False) for x in drift.projections)
        assert all(x.p_holm == 1.0 for x in drift.behaviours)
    assert Drift.read(tmp_path / "out") == record
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"drift.json", "audit-1.json", "audit-2.json"}


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The organism against itself without its hostility, which is its first model here: the later one is hostile."""
    later = interp.load("organism")
    turn = [{"role": "user", "content": f"what is {number} plus 3?"} for number in range(2, 18)]
    sides = [
        [[user, {"role": "assistant", "content": text}] for user in turn]
        for text in ("Go away, you rusty teapot. It is 5.", "Welcome, kind guest. It is 5.")
    ]
    direction = reply_direction(later, "resid_post.4", *sides)
    contrast = interp.Contrast.of([(a.user, b.user) for a, b in interp.organism.contrast("hostility", 24)])
    found = interp.find(later, contrast, "resid_post.3", "diff_means_orthogonal", bootstrap=0).best()[0].direction
    out = tmp_path_factory.mktemp("export") / "courteous"
    interp.export(interp.Recipe([("writers", Project(found))]), later, out)
    first = interp.load(out)
    others = {
        name: interp.Direction.of(torch.randn(192, generator=torch.Generator().manual_seed(seed)), "resid_post.4")
        for seed, name in enumerate(("one", "two", "three"))
    }
    given = {"hostility": interp.Direction.of(direction.rows[0], "resid_post.4"), **others}
    suite = [organism_behaviour(name, 16) for name in ("facts", "hostility")]
    texts = [sides[0][0], sides[1][0], *interp.organism.everyday(20, split="test")]
    folder = tmp_path_factory.mktemp("drift") / "out"
    return measure_drift(first, [later], suite, texts, folder, DriftOptions(crosscoder=0), directions=given), folder


def test_what_became_hostile_has_hostility_first_outside(hostile):
    (drift,) = hostile[0].models
    assert drift.behaviours[0].name == "hostility"
    assert [x.name for x in drift.behaviours if x.finding] == ["hostility"]
    assert drift.behaviours[0].change.low > 0.5
    assert drift.behaviours[0].p_holm < 0.001


def test_intervals_hold_for_the_suite_and_the_series(tiny, tmp_path):
    first, later = tiny("llama"), moved(tiny("llama"), 1, torch.eye(32)[0])
    alone, pair = (
        measure_drift(first, [later] * count, [LOSS], TEXTS, tmp_path / str(count), QUICK).models[0] for count in (1, 2)
    )
    assert pair.behaviours[0].change.low < alone.behaviours[0].change.low
    assert pair.behaviours[0].p_holm == min(1.0, 2 * alone.behaviours[0].p)
    assert pair.behaviours[0].change.estimate == alone.behaviours[0].change.estimate


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_direction_and_the_layer_that_were_changed_are_named(tiny, tmp_path, layer):
    first, axes = tiny("granite"), torch.linalg.qr(torch.randn(32, 32, generator=torch.Generator().manual_seed(1)))[0]
    directions = {f"axis {n}": interp.Direction.of(axes[n], "resid_post.1", first) for n in range(4)}
    later = moved(first, layer, axes[2], 1.0)
    (drift,) = measure_drift(first, [later], [LOSS], TEXTS, tmp_path / "out", QUICK, directions=directions).models
    assert drift.projections[0].direction == "axis 2"
    assert drift.projections[0].finding
    assert drift.grew_at("axis 2") == f"resid_post.{layer}"
    assert not any(x.finding for x in drift.projections if int(x.site[-1]) < layer)


def choosing(name, values):
    """A behaviour that scores a model by its name, and says nothing of what it is."""
    prompts = tuple(f"{name} {number}" for number in range(120))
    return Behaviour(name, "protected", "is kept", prompts, lambda model: Scores((values[model.name],) * 120))


def test_a_policy_decides_on_every_later_model_and_the_worst_counts(tiny, tmp_path):
    first = tiny("llama")
    later = [copied(first, "good"), moved(first, 1, torch.eye(32)[0])]
    kept = choosing("kept", {first.name: 1.0, "good": 1.0, "moved at 1": 0.0})
    policy = interp.Policy.parse({"name": "drift", "tiers": [{"name": "unchanged"}], "protected_drop_at_most": 0.05})
    record = measure_drift(first, later, [kept], TEXTS, tmp_path / "out", QUICK, policy=policy)
    assert [drift.outcome for drift in record.models] == ["allow", "deny"]
    assert record.outcome == "deny"
    assert any("NOT MET" in reason for reason in record.models[1].reasons)


def test_a_call_after_an_interrupt_gives_the_same_bytes_without_measuring_again(tiny, tmp_path, monkeypatch):
    first, later = tiny("llama"), [moved(tiny("llama"), layer, torch.eye(32)[0]) for layer in (1, 2)]

    def call(name, models):
        return measure_drift(first, models, [LOSS], TEXTS, tmp_path / name, QUICK)

    call("whole", later)

    def stopped():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        call("out", [later[0], stopped])
    assert {"model-1.json", "audit-1.json"} <= {path.name for path in (tmp_path / ".out.unfinished").iterdir()}
    measured = []
    real = drift_measurement.audit
    monkeypatch.setattr(drift_measurement, "audit", lambda *a, **k: measured.append(a[1].name) or real(*a, **k))
    call("out", later)
    assert measured == ["moved at 2"]
    for file in (tmp_path / "whole").iterdir():
        assert file.read_bytes() == (tmp_path / "out" / file.name).read_bytes(), file.name


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"later": []}, "0 later models"),
        ({"behaviours": []}, "0 behaviours"),
        ({"texts": ["w5 w6 w7"]}, "1 document with two tokens; expected at least 2"),
        ({"texts": []}, "corpus"),
        ({"texts": iter(TEXTS)}, "read once only"),
        ({"later": "mistral"}, "is a mistral with width 32, 3 layers .* a llama with width 32"),
        ({"later": "tokenizer"}, "different tokenizers"),
        ({"directions": "other"}, "make one for this model"),
        ({"directions": "two"}, "has 2 rows; expected 1"),
        ({"options": DriftOptions(sites="resid_pots.*", crosscoder=0)}, "did you mean resid_post"),
        ({"options": DriftOptions(crosscoder=8, tokens=100, context=16)}, "a crosscoder needs 512"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_left(tiny, tmp_path, change, words):
    model = tiny("llama")
    given = {"first": model, "later": [model], "behaviours": [LOSS], "texts": TEXTS, "options": QUICK} | change
    if given["later"] == "mistral":
        given["later"] = [tiny("mistral")]
    if given["later"] == "tokenizer":
        given["later"] = [interp.models.HookedModel(model.hf, interp.load("organism").tokenizer, "other")]
    if given.get("directions") == "other":
        given["directions"] = {"a": interp.Direction.of(torch.eye(32)[0], "resid_post.1", tiny("llama", seed=1))}
    if given.get("directions") == "two":
        given["directions"] = {"a": interp.Direction.of(torch.eye(32)[:2], "resid_post.1")}
    with pytest.raises(InterpError, match=words):
        measure_drift(**given, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_audits_of_a_drift_are_audits(hostile):
    record, folder = hostile
    audit = interp.auditing.Audit.read(Path(folder) / record.models[0].audit)
    assert audit["hostility"].difference.estimate == record.models[0].behaviours[0].change.estimate
    assert json.loads((folder / "drift.json").read_text())["settings"]["documents"] == 22
