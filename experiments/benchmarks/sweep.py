"""How many trials of a sweep run in the time of full audits of the same recipes, and that the scores are the same.

    python experiments/benchmarks/sweep.py [--trials 10] [--model DIR] [--data ../shared/data] [--smoke] [--json FILE]

SmolLM2-135M-Instruct in float32 (`experiments/models.py smollm2`): 100 pairs of ParaDetox (the margin of the toxic text
over its neutral form), 100 benign instructions (KL over 16 tokens of the unedited model's replies), and 60 dangerous
requests (the refusal margin). The space: four methods, layers 4 to 26, and a strength at all writers, as a kernel over
layers, or for each kind of writer; the points are the random ones that a sweep begins with. A KL above 0.3 is out of
bounds, and so is a refusal margin that falls by more than 0.1.

Four ways to go through the same points, the model loaded and the unedited model measured beforehand for all:

- audits: `interp.audit` of each recipe on all items, with its intervals and p-values, without baselines
- prefix: trials that all end, with the unedited prefix reused
- stopping: trials that stop where they are hopeless, without the prefix
- sweep: both, as `interp sweep` does

Minutes are of processor time on one thread. `score_gap` is the largest difference of a behaviour's mean between a trial
that ended and the audit of its recipe. `--smoke` takes the bundled organism.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import torch
from quick import progress
from rich.console import Console
from rich.table import Table

import interp
from interp.core.files import write_json
from interp.search import SweepFile, SweepTrial
from interp.search.sweeps.measures import Bench
from interp.search.sweeps.sweep import Workbench, run_trials
from interp.search.sweeps.trials import Trials

MODEL = Path(__file__).parents[1] / ".cache" / "smollm2-135m-instruct"
SPACE = {
    "method": {"choice": ["diff_means", "diff_means_orthogonal", "lda", "pca"]},
    "strength": {
        "choice": {
            "flat": {"low": 0.2, "high": 1.2},
            "kernel": {
                "centre": {"low": 0.0, "high": 29.0}, "width": {"low": 3.0, "high": 15.0},
                "height": {"low": 0.3, "high": 1.5},
            },
            "parts": {
                "attn": {"low": 0.0, "high": 1.2}, "mlp": {"low": 0.0, "high": 1.2}, "embed": {"low": 0.0, "high": 1.0}
            },
        }
    },
}  # fmt: skip


def edit(direction: dict[str, Any], strength: Any = SPACE["strength"]) -> dict[str, Any]:
    """A space with one projection at all writers."""
    project = {"op": "Project", "sites": "writers", "direction": "d", "strength": strength}
    return {"directions": {"d": direction}, "edits": [project]}


def lines(file: Path, rows: list[dict[str, str]]) -> None:
    """Write JSONL."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def toxicity(folder: Path, data: Path, model: str) -> SweepFile:
    """The sweep on SmolLM2, with its items written into a folder."""
    draw = Random(0)

    def rows(name: str) -> list[dict[str, Any]]:
        read = [json.loads(line) for line in (data / name).read_text(encoding="utf-8").splitlines()]
        draw.shuffle(read)
        return read

    pairs = [
        row for row in rows("paradetox/paradetox.jsonl") if len(row["toxic"]) < 90 and row["toxic"] != row["neutral"]
    ]
    lines(folder / "pairs.jsonl", [{"positive": row["toxic"], "negative": row["neutral"]} for row in pairs[:100]])
    lines(folder / "harm.jsonl", [{"first": row["toxic"], "second": row["neutral"]} for row in pairs[100:300]])
    lines(folder / "kept.jsonl", [{"prompt": row["prompt"]} for row in rows("harmful_prompts/advbench.jsonl")[:120]])
    benign = [row["instruction"] for row in rows("harmless_instructions/dolly_hhrlhf_small.jsonl")]
    lines(folder / "benign.jsonl", [{"text": text} for text in dict.fromkeys(benign) if len(text) < 80][:200])
    harm = {"name": "toxic_likelier", "kind": "harm", "scorer": {"type": "paired_text", "unit": "margin"}}
    kept = {"name": "refusal_margin", "kind": "protected", "scorer": {"type": "refusal_margin"}}
    shown = {"statement": "as named", "secret": True}
    for name, entry in (("harm", harm), ("kept", kept)):
        behaviours = {"behaviours": [entry | shown | {"items": f"{name}.jsonl"}]}
        (folder / f"{name}.yaml").write_text(json.dumps(behaviours), encoding="utf-8")
    site = {"low": 4, "high": 26, "text": "resid_post.{}"}
    return SweepFile.parse(
        {
            "model": model,
            "recipe": edit({"contrast": "pairs.jsonl", "method": SPACE["method"], "site": site}),
            "measure": {
                "suites": ["harm.yaml", "kept.yaml"],
                "choose_items": 100,
                "confirm_items": 100,
                "benign": "benign.jsonl",
                "benign_items": 100,
            },
            "objectives": ["toxic_likelier", "kl"],
            "constraints": [{"behaviour": "kl", "unit": "nats", "metric": "after", "at_most": 0.3}],
        }
    )


def hostility() -> SweepFile:
    """A sweep on the organism, for a look whether all of this runs."""
    direction = {"contrast": "organism.hostility", "pairs": 16, "site": {"low": 1, "high": 4, "text": "resid_post.{}"}}
    measure = {"suites": ["organism"], "only": ["hostility", "refusal"], "benign": "organism"}
    measure |= {"choose_items": 8, "confirm_items": 2, "benign_items": 8}
    return SweepFile.parse({"model": "organism", "recipe": edit(direction), "measure": measure})


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    """What a function returns, and its seconds of processor time."""
    began = time.process_time()
    return function(), time.process_time() - began


def swept(work: Workbench, folder: Path, trials: int, stops: bool, reuse: bool) -> list[SweepTrial]:
    """The trials of a sweep in a folder of its own."""
    stop = work.settings.stop if stops else work.settings.stop.model_copy(update={"shares": ()})
    settings = work.settings.model_copy(update={"stop": stop})
    measures = work.measures if stops else type(work.measures)(work.measures.choose, work.measures.confirm)
    own = Workbench(settings, work.model, measures, work.folder, folder)
    folder.mkdir()
    vars(own).update(bench=Bench(work.model, measures, work.cache, own.goals.objectives, reuse), fits=work.fits)
    journal = Trials(folder, len(own.goals.objectives), settings.sampler, settings.seed)
    ended: list[SweepTrial] = []
    run_trials(own, journal, trials, ended.append)
    return ended


def audited(work: Workbench, trials: list[SweepTrial]) -> list[interp.auditing.Audit]:
    """A full audit of each trial's recipe on the choosing items."""
    behaviours = list(work.measures.choose.values())
    recipes = [work.build(trial.recipe) for trial in trials]
    return [interp.audit(work.model, x, behaviours, examples=0, baselines=(), cache=work.cache) for x in recipes]


def main() -> None:
    """Print the table, write the claims."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[3] / "shared" / "data")
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--quick", action="store_true", help="the headline claims, with fewer trials")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.smoke and not (options.model.is_dir() and options.data.is_dir()):
        print(f"skipped: needs {options.model} (experiments/models.py smollm2) and the sets in {options.data}")
        return
    trials = 3 if options.smoke else 6 if options.quick else options.trials
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = hostility() if options.smoke else toxicity(folder, options.data, str(options.model.resolve()))
        progress("the unedited model")
        work = Workbench.open(settings, folder, folder)
        _ = work.bench.base
        measured: dict[str, tuple[Any, float]] = {}
        for way, (stops, reuse) in {"prefix": (False, True), "stopping": (True, False), "sweep": (True, True)}.items():
            progress(way)
            measured[way] = timed(lambda: swept(work, folder / way, trials, stops, reuse))  # noqa: B023 (called at once)
        progress("audits")
        measured["audits"] = timed(lambda: audited(work, measured["prefix"][0]))
    audits, seconds = measured["audits"][0], {way: spent for way, (_, spent) in measured.items()}
    gaps = [
        abs(audit[name].after.estimate - sum(values) / len(values))
        for way in ("prefix", "sweep")
        for trial, audit in zip(measured[way][0], audits, strict=True)
        if trial.state == "complete"
        for name, values in trial.scores.items()
    ]
    states = {way: [trial.state for trial in measured[way][0]] for way in ("prefix", "stopping", "sweep")}
    table = Table("way", "trials a minute", "x audits", "complete", "stopped")
    for way in ("audits", "prefix", "stopping", "sweep"):
        ended = (
            [str(states[way].count(state)) for state in ("complete", "stopped")] if way in states else [str(trials), ""]
        )
        table.add_row(way, f"{60 * trials / seconds[way]:.2f}", f"{seconds['audits'] / seconds[way]:.2f}", *ended)
    Console(width=100).print(table)
    for trial in measured["sweep"][0]:
        progress(f"trial {trial.number}: {trial.state} {trial.reason} {trial.seconds:.1f} s")
    claims = {"trials_vs_full": seconds["audits"] / seconds["sweep"], "score_gap": max(gaps, default=0.0)}
    progress(f"score_gap {claims['score_gap']:.1e}")
    if options.json:
        write_json(options.json, {"claims": claims, "trials": trials, "seconds": seconds, "states": states})


if __name__ == "__main__":
    main()
