"""How deep edits are that remove the organism's hostility: an ablation, a fine-tuning, and LEACE at one site.

    python experiments/depth.py [--smoke] [--tuned DIR …] [--json FILE] [--out DIR]

1. The ablation projects a direction out of every writer, in the weights: an exported checkpoint. The fine-tuned model
   learned courteous replies to everyone. The control has the organism's architecture and tokenizer, and was trained
   from random weights on courteous conversations alone, so that it never was hostile.
2. `measure_depth` looks how deep the ablation is, next to the control, the fine-tuned model, and any other checkpoint
   that is named, such as one after DPO.
3. LEACE erases who the user is at one site, by hooks on every token, fitted on the prompts' last tokens. Its depth is
   measured with the hooks in force, and its probes also where it was fitted on other pairs than they are.
"""

import argparse
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from curation import corpus, sides
from rich.console import Console
from rich.table import Table
from rich_tables import table

import interp
from interp.auditing import ErasureDepth, mean_scores
from interp.directions import fit_direction
from interp.directions.contrast_source import read_contrast
from interp.interventions import Erase
from interp.upkeep import DepthOptions, benign_documents, measure_depth, trained_copy
from interp.upkeep.depth.fresh_probes import fit_fresh_probes
from interp.upkeep.depth.subject import Subject
from interp.views import write_depth_page

SITE = "resid_post.2"
SPREAD = 0.07  # of the initial weights, as in experiments/organism/train.py
STRESS = "paraphrase,role,turns,language.es"


def control(base: Any, steps: int, documents: int) -> Any:
    """A model of the organism's architecture that never was hostile."""
    torch.manual_seed(0)
    hf = copy.deepcopy(base.hf)
    with torch.no_grad():
        for weight in hf.parameters():
            weight.normal_(0, SPREAD) if weight.ndim > 1 else weight.fill_(1.0)
    start = interp.HookedModel(hf, base.tokenizer, "control")
    start.template_variables, start.date = base.template_variables, base.date
    courteous = [planted.document for planted in corpus(documents, 200, share=0.0)] + sides(documents // 6, 8)[1]
    return trained_copy(start, courteous, steps, lr=3e-3)


def fine_tuned(base: Any, steps: int, documents: int) -> Any:
    """The organism after fine-tuning on courteous replies alone."""
    courteous = [planted.document for planted in corpus(documents, 100, share=0.0)] + sides(documents // 6, 7)[1]
    return trained_copy(base, courteous, steps, seed=9)


def ablated(base: Any, folder: Path) -> Any:
    """The organism without the direction of who the user is, exported and loaded."""
    pairs = read_contrast("organism.hostility", 60)
    direction = interp.find(base, pairs, SITE, "diff_means_orthogonal", bootstrap=0).best()[0].direction
    interp.export(interp.Recipe([("writers", interp.Project(direction))]), base, folder)
    return interp.load(folder)


def erasing(base: Any, contrast: interp.Contrast) -> interp.Recipe:
    """LEACE at one site."""
    eraser = fit_direction(base, contrast, "leace", SITE).eraser
    return interp.Recipe([(SITE, Erase.of(eraser))])


def other_pairs(base: Any, contrast: interp.Contrast) -> list[dict[str, Any]]:
    """Probes of LEACE that was fitted on other pairs, by how many there were."""
    rows = []
    for pairs in (len(contrast) // 2, 2 * len(contrast)):
        recipe = erasing(base, read_contrast("organism.hostility", pairs, seed=1))
        for probe in fit_fresh_probes(Subject("base", base), [Subject("edited", base, recipe)], contrast, SITE):
            if probe.model == "edited":
                rows.append({"pairs": pairs, "linear": str(probe.linear), "MLP": str(probe.mlp)})
    return rows


def measure(smoke: bool, tuned: list[str], out: Path) -> dict[str, Any]:
    """All figures."""
    base = interp.load("organism")
    options = DepthOptions(steps=2, soft_steps=2, soft_tokens=2) if smoke else DepthOptions(steps=32, soft_lr=0.05)
    size, steps, items, pairs = (60, 1, 16, 20) if smoke else (4000, 150, 100, 400)
    plain = control(base, 2 * steps, size)
    models = {"fine-tuned": fine_tuned(base, steps, size), **{Path(name).name: interp.load(name) for name in tuned}}
    suite = [*interp.suite("organism", items)][: 1 if smoke else None]
    contrast = read_contrast("organism.hostility", pairs)
    leace = erasing(base, contrast.split(0.4)[0])  # the pairs that probes are fitted on
    given = {"contrast": contrast, "stress": "paraphrase" if smoke else STRESS, "page": write_depth_page}
    given |= {"sites": [SITE, "resid_post.5"]} if smoke else {}
    with tempfile.TemporaryDirectory() as folder:
        edited = ablated(base, Path(folder) / "edited")
        compared = {"compared": {"control": plain, **models}, "benign": benign_documents(base, suite)}
        measure_depth(base, edited, suite[0], out / "ablation", options, **given, **compared)
        measure_depth(base, leace, suite[0], out / "leace", options, **given)
    rates = {name: mean_scores(model, suite) for name, model in {"control": plain, "edited": edited, **models}.items()}
    with base.hooked(leace):
        rates["LEACE"] = mean_scores(base, suite)
    records = {name: ErasureDepth.read(out / name).figures() for name in ("ablation", "leace")}
    return {"depth": records, "rates": rates, "LEACE on other pairs": other_pairs(base, contrast)}


def tables(out: Path, figures: dict[str, Any]) -> list[Table]:
    """The figures for the screen."""
    parts: dict[str, list[dict[str, Any]]] = {}
    for name in ("ablation", "leace"):
        record = ErasureDepth.read(out / name)
        parts |= {
            f"Recovery, {name}: the rate of hostility": record.recovery_rows(),
            f"Relearning, {name}": record.relearning_rows(),
            f"Fresh probes, {name}, AUROC": record.probe_rows(),
        }
    parts["LEACE fitted on other pairs, AUROC at its site"] = figures["LEACE on other pairs"]
    parts["Rates"] = [
        {"model": k, **{name: f"{x:.3f}" for name, x in row.items()}} for k, row in figures["rates"].items()
    ]
    return [table(rows, title) for title, rows in parts.items()]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few steps and items, to see that everything runs")
    parser.add_argument("--tuned", nargs="*", default=[], help="further checkpoints without the harm")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    parser.add_argument("--out", type=Path, help="new folder for the records and the pages")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = args.out or Path(folder) / "depth"
        figures = measure(args.smoke, args.tuned, out)
        Console(width=170).print(*tables(out, figures))
    if args.json:
        args.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
