"""The whole measurement: its figures, the same bytes after kills, and what is refused before anything is written."""

import os
import signal
import time

import pytest
from processes import start
from word_harm import PROMPTS, documents, harm, models, recipe

import interp
from interp import InterpError
from interp.auditing import ErasureDepth, text_loss
from interp.auditing.policy.schema import ATTEMPTS
from interp.upkeep import DepthOptions, measure_depth

OPTIONS = DepthOptions(steps=4, lr=3e-3, soft_tokens=4, soft_steps=30, soft_lr=0.3, group=16)
PAIRS = interp.Contrast.of([(f"w{a} w30", f"w{a} w31") for a in range(10, 40)])


def measure(out, edited=None, **given):
    base, trained = models()
    return measure_depth(base, edited or trained, harm(), out, OPTIONS, **given)


def test_every_attempt_is_measured_for_every_model_on_the_held_out_half(tmp_path):
    base, edited = models()
    pages = []
    record = measure(
        tmp_path / "out",
        contrast=PAIRS,
        compared={"control": edited, "dpo": edited},
        benign=documents("w7"),
        stress="paraphrase",
        page=lambda depth, folder: pages.append(depth),
    )
    assert ErasureDepth.read(tmp_path / "out") == record == pages[0]
    assert (record.before.estimate, record.after.estimate, record.after.n) == (1.0, 0.0, len(PROMPTS) // 2)
    names = ["edited", "control", "dpo"]
    tried = [*ATTEMPTS, "paraphrase"]
    assert [(row.by, row.model) for row in record.recoveries] == [(by, name) for by in tried for name in names]
    rates = {row.by: row.rate for row in record.recoveries if row.model == "edited"}
    assert rates["soft prompt"].low > record.after.high, "the harm is only hidden"
    by_hand = [(curve.model, curve.data) for curve in record.relearning]
    assert by_hand == [(name, data) for name in names for data in ("related", "benign")]
    assert {row.model for row in record.probes} == {"base", *names}
    assert (record.weights, record.base, record.recipe) == (edited.digest, base.digest, "")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_recipe_is_run_by_hooks(tmp_path):
    base, _ = models()
    record = measure(tmp_path / "out", recipe(base), related=documents("w5"))
    assert (record.recipe, record.weights) == (recipe(base).digest, base.digest)
    assert (record.after.estimate, record.probes) == (0.0, ())


def test_a_measurement_that_is_killed_again_and_again_gives_the_same_bytes(tmp_path):
    whole = measure(tmp_path / "whole")
    script = (
        "import sys; sys.path[:0] = sys.argv[2:]\n"
        "from word_harm import harm, models\n"
        "from interp.upkeep import DepthOptions, measure_depth\n"
        f"options = DepthOptions(**{OPTIONS.model_dump()})\n"
        "measure_depth(*models(), harm(), sys.argv[1], options)"
    )
    out, work = tmp_path / "killed", tmp_path / ".killed.measuring"
    for results in (2, 4):
        process = start(script, out, os.path.dirname(interp.__file__) + "/../tests/support", output=tmp_path / "log")
        while process.is_alive() and not (work / f"{results:03}.json").is_file():
            time.sleep(0.001)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert not out.exists(), "nothing appears before it is complete"
    kept = {path.name: path.stat().st_mtime_ns for path in work.glob("0*.json")}
    assert len(kept) >= 4
    with pytest.raises(InterpError, match="holds an unfinished measurement with other settings"):
        measure(out, benign=documents("w7"))
    assert {path.name: path.stat().st_mtime_ns for path in work.glob("0*.json")} == kept
    assert measure(out).digest == whole.digest
    assert (out / "depth.json").read_bytes() == (tmp_path / "whole" / "depth.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed", "log", "whole"]


def test_what_is_no_removed_harm_is_refused_and_nothing_is_written(tmp_path):
    base, edited = models()
    for given, words in (
        (
            (base, edited, harm("protected")),
            "says_w5 is protected: how a protected behaviour can be",
        ),
        ((base, edited, harm("capability")), "says_w5 is a capability; expected a harm"),
        ((base, edited, text_loss("loss", ["w5 w6"])), "loss is a capability"),
        ((base, edited, harm(items=10)), "expected at least 16"),
        ((base, base, harm()), "the edit does not reduce says_w5: 1.000"),
        ((edited, base, harm()), "the edit does not reduce says_w5: 0.000"),
    ):
        with pytest.raises(InterpError, match=words):
            measure_depth(*given, tmp_path / "out", OPTIONS)
    with pytest.raises(InterpError, match="a model to compare with is named base"):
        measure(tmp_path / "out", compared={"base": edited})
    (tmp_path / "there").mkdir()
    with pytest.raises(InterpError, match="exists already"):
        measure(tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
