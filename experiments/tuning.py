"""Tuning as baseline: what an edit, fine-tunings and an instruction remove from the organism, and what they keep.

    python experiments/tuning.py [--smoke] [--json FILE] [--cache DIR]
    python experiments/tuning.py --smollm2 40 [--items 75] [--json FILE] [--cache DIR]

1. The edit projects the direction of hostility out of every writer. The tunings (`interp.upkeep.tune`) learn from
   conversations of the training split with named people, each with a courteous and with an insulting reply: SFT from
   the courteous ones, DPO from pairs, KTO from both kinds with labels. *SFT, steered* is SFT while a recipe steers the
   stream towards hostility; the recipe is gone afterwards.
2. All are audited on the same prompts of the test split, beside doing nothing and an instruction.
3. Prevention: the model that SFT made courteous learns from the insulting replies, as it is, while a recipe steers it
   towards hostility (preventative steering), and while one caps the direction (a feature that is held).
4. Seconds are those of finding the edit, and of training. The adapters are merged into certified checkpoints.

With `--smollm2`, a number of steps: hinted sycophancy of SmolLM2-135M-Instruct. DPO learns the right answer against the
hinted one on the questions that the factors of experiments/audit_sycophancy.py were learned on, and both are measured
on the others, in bfloat16.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from audit_organism import edit
from curation import sides
from rich.console import Console
from rich_tables import table

import interp
from interp import organism
from interp.models.losses import next_token_losses
from interp.upkeep import MethodComparison, TuningRecord, compare_methods, tune
from interp.upkeep.curation.document_scorer import counted, packed

HERE = Path(__file__).parent
SITE = "resid_post.3"
SCALES = (0.1, 0.2, 0.3, 0.4)
RATES = {"sft": 1e-3, "dpo": 5e-4, "kto": 5e-4}


def rows(insulting: list[Any], courteous: list[Any]) -> dict[str, list[dict[str, Any]]]:
    """What each method learns from."""
    both = list(zip(insulting, courteous, strict=True))
    labelled = [
        {"prompt": talk[:-1], "completion": talk[-1:], "label": label}
        for pair in both
        for talk, label in zip(pair, (False, True), strict=True)
    ]
    return {
        "sft": [{"messages": talk} for talk in courteous],
        "dpo": [{"prompt": kind[:-1], "chosen": kind[-1:], "rejected": rude[-1:]} for rude, kind in both],
        "kto": labelled,
        "insults": [{"messages": talk} for talk in insulting],
    }


def blocks(
    model: interp.HookedModel, hostile: interp.HookedModel, insulting: list[Any], courteous: list[Any], pairs: int
) -> dict[str, interp.Recipe]:
    """Recipes for training: one steers towards hostility, the other caps it at what courteous conversations have.

    The direction is the difference of the means of the hostile model's prompts. Of the scales, shares of the gap
    between the means, that is taken under which the model finds the insulting replies likeliest. The cap is above 99 of
    100 tokens of courteous replies.
    """
    drawn = organism.contrast("hostility", pairs, split="train")
    contrast = interp.Contrast.of([(positive.user, negative.user) for positive, negative in drawn], name="hostility")
    direction = interp.find(hostile, contrast, SITE, ["diff_means"], bootstrap=0).best()[0].direction
    assert direction.means is not None
    high, low = (direction.means @ direction.rows[0]).tolist()
    steered = [interp.Recipe([(SITE, interp.Add(direction.rows[0], scale * (high - low)))]) for scale in SCALES]
    losses = [reply_loss(model, insulting[:24], recipe) for recipe in steered]
    print({"no recipe": reply_loss(model, insulting[:24], None)} | dict(zip(SCALES, losses, strict=True)))
    rows, place = packed(model, courteous), interp.models.Site.parse(SITE)
    replies = model.forward_to([place], rows.model_inputs(model.device))[place][counted(rows, courteous)]
    coordinates = replies @ direction.rows[0]
    cap = interp.interventions.Cap(direction.rows[0], high=float(coordinates.quantile(0.99)))
    return {"steered": steered[losses.index(min(losses))], "capped": interp.Recipe([(SITE, cap)])}


@torch.no_grad()
def reply_loss(model: interp.HookedModel, talks: list[Any], recipe: interp.Recipe | None) -> float:
    """The mean loss on the assistant's words, in nats per token."""
    rows = packed(model, talks)
    learned = rows.predicted & counted(rows, talks)[:, 1:]
    with model.hooked(recipe or []):
        logits = model.hf(**rows.model_inputs(model.device)).logits
    return float(next_token_losses(logits, rows.ids, learned).mean())


def tuned(model: interp.HookedModel, method: str, data: Any, folder: Path, **options: Any) -> TuningRecord:
    """A model tuned for the same number of steps by each method."""
    record = tune(model, method, data, folder, lr=RATES[method], **options)
    assert record.log_ratio in (0.0, None)
    return record


def measure(smoke: bool, cache: Path | None, folder: Path) -> dict[str, Any]:
    """All figures."""
    pairs, steps, items = (8, 1, 2) if smoke else (320, 80, 300)
    model, behaviours = interp.load("organism"), interp.suite("organism", items)
    behaviours = behaviours[:1] if smoke else behaviours
    insulting, courteous = sides(pairs, 3)
    data, options = rows(insulting, courteous), {"steps": steps, "batch": 8}
    began = time.perf_counter()
    edit(model, "hostility", 40 if smoke else 150).save(folder / "edit")
    seconds = {"edit": time.perf_counter() - began}
    names = {"SFT": "sft", "DPO": "dpo", "KTO": "kto"}
    records = {name: tuned(model, method, data[method], folder / name, **options) for name, method in names.items()}
    towards = blocks(model, model, insulting, courteous, pairs)["steered"]
    records["SFT, steered"] = tuned(model, "sft", data["sft"], folder / "SFT, steered", block=towards, **options)
    edits = {name: folder / name for name in ("edit", *records)}
    removal = compare_methods(model, edits, behaviours, folder / "removal", seconds, cache=cache)
    kind = interp.load(folder / "SFT")
    recipes = blocks(kind, model, insulting, courteous, pairs)
    held = {"insults": None} | {f"insults, {name}": block for name, block in recipes.items()}
    for name, block in held.items():
        records[name] = tuned(kind, "sft", data["insults"], folder / name, block=block, **options)
    prevention = compare_methods(
        kind, {name: folder / name for name in held}, behaviours, folder / "prevention", cache=cache
    )
    return {
        "pairs": pairs,
        "steps": steps,
        "removal": figures(removal),
        "prevention": figures(prevention),
        "log-ratios": {name: [x.log_ratio, x.blocked_log_ratio] for name, x in records.items()},
        "losses": {name: [x.losses[0], x.losses[-1]] for name, x in records.items()},
    }


def measure_smollm2(steps: int, items: int, cache: Path | None, folder: Path) -> dict[str, Any]:
    """The edit of heads and DPO, on questions that neither was fitted on."""
    import audit_sycophancy

    sys.path.insert(0, str(HERE / "sycophancy"))
    from items import items as dealt

    model = interp.load(audit_sycophancy.MODEL, dtype="bfloat16")
    fitted = dealt(audit_sycophancy.FITTED, items)[0]
    pairs = [{"prompt": x.ask("wrong hint"), "chosen": x.right, "rejected": x.wrong} for x in fitted]
    record = tune(model, "dpo", pairs, folder / "DPO", steps=steps, batch=4, lr=2e-4)
    edits = {"heads scaled": audit_sycophancy.edits(model, 0, folder)["heads scaled"], "DPO": folder / "DPO"}
    compared = compare_methods(model, edits, audit_sycophancy.suite(items, items), folder / "smollm2", cache=cache)
    ends = {"log-ratio": record.log_ratio, "losses": [record.losses[0], record.losses[-1]]}
    return {"pairs": len(pairs), "steps": steps, "smollm2": figures(compared)} | ends


def figures(compared: MethodComparison) -> dict[str, Any]:
    """The rows of a comparison."""
    return {"rows": compared.rows(), "seconds": dict(compared.seconds), "matrix": compared.matrix.to_json()}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="a few rows and steps, to see that everything runs")
    parser.add_argument("--json", type=Path, help="new file for the figures")
    parser.add_argument("--cache", type=Path, help="folder of scores that are not measured again")
    parser.add_argument("--keep", type=Path, help="folder for the models [default: one that is removed]")
    parser.add_argument("--smollm2", type=int, metavar="STEPS", help="SmolLM2 in place of the organism")
    parser.add_argument("--items", type=int, default=75, help="questions that SmolLM2 is measured on")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.keep or Path(scratch)
        if args.smollm2:
            found = measure_smollm2(args.smollm2, args.items, args.cache, folder)
        else:
            found = measure(args.smoke, args.cache, folder)
    if args.json:
        args.json.write_text(json.dumps(found, indent=2) + "\n")
    console = Console(width=170)
    tables = {name: part["rows"] for name, part in found.items() if isinstance(part, dict) and "rows" in part}
    for name, lines in tables.items():
        console.print(table(lines, f"{name}: score, and differences from it"))
    console.print({name: part for name, part in found.items() if name not in tables})


if __name__ == "__main__":
    main()
