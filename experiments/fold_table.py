"""What folds into weights, and how exactly: every architecture and op, measured. Writes docs/results/editing.md.

    python experiments/fold_table.py [--smoke] [--model FOLDER] [--json FILE] [--out FILE]

One small random model of each architecture is saved, edited tensor by tensor, loaded by plain transformers and
compared with the hooked model on random tokens: the largest difference of logits over the logits' range. On SmolLM2 the
same with KL, for what editing a tied table, leaving the embedding, casting and keeping norms cost. `--smoke` takes four
architectures and leaves SmolLM2 out.
"""

import argparse
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]

import tiny_models  # noqa: E402
from folding import IDS, POST_NORM, gap, loaded, on_disk, planned, reloaded, rows  # noqa: E402

import interp  # noqa: E402
from interp import Add, InterpError, Project, Recipe  # noqa: E402
from interp.core.linalg import orthonormal_rows  # noqa: E402
from interp.editing.fold.affine_maps import MapChange, TensorMap  # noqa: E402
from interp.editing.fold.subspaces import join_subspaces  # noqa: E402
from interp.interventions import Erase, LowRank, Replace  # noqa: E402
from interp.models.architectures.table import architecture  # noqa: E402
from interp.models.hooked import HookedModel  # noqa: E402

MODEL = ROOT / "experiments" / ".cache" / "smollm2-135m-instruct"
SMOKE = ("llama", "gpt2", "gemma2", "qwen3_moe")
WRITTEN = ("embed", "attn_out.*", "mlp_out.*")
HEAD = """# Exactness: what folds into weights

Written by `python experiments/fold_table.py --out docs/results/editing.md`.

A fold is *exact* (the weights compute what the hooks compute, for every prompt and position, up to rounding),
*approximate* (a different edit, which has to be requested), or *refused* with the reason. `interp.export` folds what is
exact; with `FoldOptions(approximate=True)`, also what is approximate. Where a norm follows what attention and MLP write
(exaone4, gemma2, gemma3, glm4, olmo2, olmo3), `writers` names the raw outputs before the norm, and the columns *band*
and *coordinates* edit the raw outputs too.

- Each figure is the largest difference of a logit between the hooked model and the exported weights (loaded by plain
  transformers), as a fraction of the range of the logits, in float32 on random tokens. As a control, the edits
  themselves change logits by {effects} of that range.
- If the norm after a writer were ignored, the fold would leave up to {naive} of what is added to the stream along the
  removed directions.
- *flag*, *Llama*: a flag in config.json adds the biases, or the model is saved under the Llama class (`rehost=True`).

"""
COLUMNS = {
    "projection": "projection of 2 directions at all writers",
    "strength": "strength 0.5 at all writers",
    "band": "projection in a band of layers",
    "joint": "two projections joined into one (`join_subspaces`)",
    "eraser": "affine eraser (LEACE's form, oblique, rank 3) at every site of the stream",
    "vector": "a vector added after a block",
    "token vector": "a vector added before the first block",
    "attention vector": "a vector added to attention's output",
    "heads": "zero ablation of heads",
    "mean heads": "mean ablation of heads",
    "write": "zero ablation of an MLP's output",
    "coordinates": "zero ablation of coordinates of attention's output",
    "norms kept": "projection, with the lengths of written vectors kept",
    "table left": "projection, with the token table unchanged",
    "one site": "projection at one site of the stream, a trained low-rank edit there, or a relative addition",
}


@dataclass(frozen=True)
class Cell:
    """How one op folds in one architecture. `gap` and `effect` are over the logits' range."""

    architecture: str
    op: str
    status: str
    how: str = ""
    gap: float | None = None
    effect: float | None = None
    reason: str = ""

    def __str__(self) -> str:
        if self.gap is None:
            return "refused"
        return f"{self.status}{f' ({self.how})' if self.how else ''} {self.gap:.0e}"


def oblique(d: int, k: int = 3) -> Erase:
    """x -> x - A (x - mu), A² = A of rank k."""
    write = rows(0, k, d).double()
    read = write + 0.3 * rows(5, k, d).double()
    return Erase(torch.linalg.solve(read @ write.T, read).float(), write.float(), rows(9, 1, d)[0])


def stream(model: HookedModel) -> tuple[str, ...]:
    """Every site of the residual stream."""
    parallel = architecture(model.config).is_parallel(model.config)
    return ("resid_pre.*", "resid_post.*") if parallel else ("resid_pre.*", "resid_mid.*", "resid_post.*")


def edits(model: HookedModel) -> dict[str, tuple[list[Recipe], dict[str, bool]]]:
    """Recipes and choices for each column; of several recipes all have to be refused."""
    ids, low = IDS % model.config.vocab_size, LowRank(rows() / rows().norm(), rows(1), torch.ones(1))
    pair = Recipe([("writers", Project(rows())), ("writers", Project(rows() + rows(1)))])
    return {
        "projection": ([Recipe([("writers", Project(rows(k=2)))])], {}),
        "strength": ([Recipe([("writers", Project(rows(), 0.5))])], {}),
        "band": ([Recipe([(("mlp_out.1", "attn_out.0-1"), Project(rows()))]).before_norms(model)], {}),
        "joint": ([join_subspaces(pair)], {}),
        "eraser": ([Recipe([(stream(model), oblique(model.d_model))])], {}),
        "vector": ([Recipe([("resid_post.1", Add(rows()[0], 0.5))])], {"rehost": True}),
        "token vector": ([Recipe([("resid_pre.0", Add(rows()[0], 0.5))])], {}),
        "attention vector": ([Recipe([("attn_out.1", Add(rows()[0], 0.5))])], {"rehost": True}),
        "heads": ([Recipe([("z.1", Replace(units=[0, 2]))])], {}),
        "mean heads": ([Recipe([("z.1", Replace.mean(model, ids, "z.1", [0, 2]))])], {"rehost": True}),
        "write": ([Recipe([("mlp_out.1", Replace())])], {}),
        "coordinates": ([Recipe([("attn_out.1", Replace(units=[3, 4]))]).before_norms(model)], {}),
        "norms kept": ([Recipe([("writers", Project(rows()))])], {"keep_norms": True}),
        "table left": ([Recipe([("writers", Project(rows()))])], {"leave_embedding": True}),
        "one site": (
            [
                Recipe([("resid_post.1", op)])
                for op in (Project(rows()), low, Add(rows()[0], relative=True), Project(rows(), 0.5))
            ],
            {},
        ),
    }


def cell(name: str, model: HookedModel, op: str, recipes: list[Recipe], choices: dict[str, bool]) -> Cell:
    """One op in one architecture, measured."""
    for recipe in recipes:
        try:
            plan = planned(model, recipe, approximate=True, **choices)
        except InterpError as refusal:
            refused = Cell(name, op, "refused", reason=str(refusal))
            continue
        how = "Llama" if "model_type" in plan.config else ("flag" if plan.created else "")
        off, effect = gap(model, recipe, plan)
        return Cell(name, op, plan.status, how, off, effect)
    return refused


def leak(model: HookedModel, recipe: Recipe) -> float:
    """The largest share of a writer's output along the rows of a recipe's projection."""
    op = recipe.edits[0].op
    removed = op.rows if isinstance(op, Project) else rows()
    acts = model.capture(IDS, WRITTEN).tensors.values()
    return max(float(((x @ removed.T).norm(dim=-1) / x.norm(dim=-1)).max()) for x in acts)


def naive(model: HookedModel) -> float:
    """What P W leaves of a projection where a norm follows."""
    recipe = Recipe([("writers", Project(rows(k=2)))])
    plan, tensors, q = planned(model, recipe, approximate=True), dict(on_disk(model)[0]), recipe.edits[0].op.rows
    head = tensors[plan.untie] if plan.untie else None
    for tensor, change in plan.changes.items():
        tensors[tensor] = MapChange(change.layout, (TensorMap(q, q),)).apply(tensors[tensor])
    extra = {} if head is None else {plan.unembedding: head}
    return leak(loaded(tensors | extra, on_disk(model)[1] | dict(plan.config)), recipe)


def table(names: Iterable[str]) -> tuple[list[Cell], float | None]:
    """All cells, and what the naive fold leaves behind norms at most."""
    cells, left = [], []
    for name in names:
        model = tiny_models.build(name)
        cells += [cell(name, model, op, *how) for op, how in edits(model).items()]
        if name in POST_NORM:
            left.append(naive(model))
        print(name, file=sys.stderr)
    return cells, max(left, default=None)


def markdown(cells: list[Cell], left: float | None) -> str:
    """The document."""
    effects = [entry.effect for entry in cells if entry.effect is not None]
    small, large = min(effects), max(effects)
    parts = [HEAD.format(effects=f"{small:.0e} to {large:.0e}", naive="" if left is None else f"{left:.0e}")]
    parts += [f"- *{op}*: {meaning}\n" for op, meaning in COLUMNS.items()]
    names = list(dict.fromkeys(entry.architecture for entry in cells))
    shown = [op for op in COLUMNS if op != "one site"]
    parts += ["\n", line(["model", *shown]), line(["---"] * (len(shown) + 1))]
    by = {(entry.architecture, entry.op): entry for entry in cells}
    parts += [line([name, *(str(by[name, op]) for op in shown)]) for name in names]
    parts += ["\n## Reasons for refusals\n\n", line(["reason", "models", "op"]), line(["---"] * 3)]
    why: dict[str, tuple[dict[str, None], dict[str, None]]] = {}
    for entry in cells:
        if entry.status == "refused":
            kind = tiny_models.CONFIGS[entry.architecture]().model_type
            reason = re.sub(r"(attn|mlp)_out\.1", "its site", entry.reason.replace(kind, "the model"))
            models, ops = why.setdefault(reason, ({}, {}))
            models[entry.architecture], ops[entry.op] = None, None
    parts += [line([reason, counted(models, names), counted(ops, COLUMNS)]) for reason, (models, ops) in why.items()]
    return "".join(parts)


def counted(some: Iterable[str], every: Iterable[str]) -> str:
    """Names, or that it is all of them, or all but some."""
    listed, rest = list(some), [name for name in every if name not in some]
    return ", ".join(listed) if len(rest) > 3 else f"all{' but ' if rest else ''}{', '.join(rest)}"


def line(cells: Iterable[str]) -> str:
    """A row of a table."""
    return f"| {' | '.join(cells)} |\n"


def smollm2(folder: Path) -> list[dict[str, float | str]]:
    """What the choices cost on SmolLM2: KL from the hooked model, on random tokens, and the leak."""
    model = interp.load(folder)
    ids = torch.randint(model.config.vocab_size, (4, 32), generator=torch.Generator().manual_seed(0))
    direction = rows(0, 1, model.d_model)
    recipe = Recipe([("writers", Project(direction))])
    base = model.logits(ids)
    with model.hooked(recipe):
        hooked = model.logits(ids)
    results: list[dict[str, float | str]] = [{"weights": "unedited: the edit's own effect", "kl": kl(hooked, base)}]

    def note(name: str, edited: HookedModel) -> None:
        edited.hf.float()
        acts = edited.capture(ids, ("attn_out.*", "mlp_out.*")).tensors.values()
        unit = direction[0] / direction.norm()
        share = max(float(((x @ unit).abs() / x.norm(dim=-1)).max()) for x in acts)
        logits = edited.logits(ids)
        gap = float((logits - hooked).abs().max() / (hooked.max() - hooked.min()))
        results.append({"weights": name, "kl": kl(hooked, logits), "gap": gap, "left": share})

    plan = planned(model, recipe)
    note("edited, unembedding untied", reloaded(model, plan))
    tied = {name: plan.apply(name, x) for name, x in on_disk(model)[0].items()}
    note("edited, table still tied", loaded(tied, on_disk(model)[1]))
    for name, choices in {"table left alone": {"leave_embedding": True}, "lengths kept": {"keep_norms": True}}.items():
        note(name, reloaded(model, planned(model, recipe, approximate=True, **choices)))
    note("bfloat16, cast", reloaded(model, plan, torch.bfloat16))
    note("bfloat16, compensated", reloaded(model, planned(model, recipe, compensate=True), torch.bfloat16))
    return results


def kl(p: Tensor, q: Tensor) -> float:
    """KL(p || q) in nats, the mean over tokens."""
    log_p, log_q = log_softmax(p.double(), -1), log_softmax(q.double(), -1)
    return float(kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1).mean())


def casts(folder: Path) -> list[dict[str, float | str]]:
    """What casts leave of the write along a direction in SmolLM2's weights, and their error over a plain cast's."""
    tensors, _ = on_disk(interp.load(folder))
    q = orthonormal_rows(rows(0, 1, 576))
    weights = [x for name, x in tensors.items() if name.endswith(("o_proj.weight", "down_proj.weight"))]
    results: list[dict[str, float | str]] = []
    for dtype in (torch.bfloat16, torch.float16):
        figures: dict[bool, list[float]] = {}
        for compensate in (False, True):
            sums = [0.0, 0.0, 0.0]
            for weight in weights:
                exact = MapChange("out_in", (TensorMap(q, q),)).apply(weight)
                change = MapChange("out_in", (TensorMap(q, q),), compensate=compensate)
                rounded = change.apply(weight, out=torch.empty_like(weight, dtype=dtype)).float()
                for n, x in enumerate((q @ rounded, q @ weight, rounded - exact)):
                    sums[n] += float(x.double().square().sum())
            figures[compensate] = [(sums[0] / sums[1]) ** 0.5, sums[2] ** 0.5]
        (plain, error), (left, more) = figures[False], figures[True]
        results.append({"dtype": str(dtype)[6:], "cast": plain, "compensated": left, "error": more / error - 1})
    return results


def real(folder: Path) -> tuple[str, dict[str, list[dict[str, float | str]]]]:
    """The part on SmolLM2, as text and as values."""
    if not folder.is_dir():
        return f"\n{folder.name} is not here (experiments/models.py makes it), so nothing was measured on it.\n", {}
    edited, cast = smollm2(folder), casts(folder)
    text = (
        "\n## SmolLM2-135M-Instruct\n\nOne random direction is projected out of every writer. The columns are "
        "KL(hooked || weights) in nats on random tokens, the largest difference of logits over their range, and the "
        "largest fraction of a writer's output left along the direction.\n\n"
    )
    text += line(["weights", "KL", "logits", "left"]) + line(["---"] * 4)
    text += "".join(line([str(row["weights"]), *(figure(row.get(x)) for x in ("kl", "gap", "left"))]) for row in edited)
    text += (
        "\nThe fraction of a writer's output that a cast to 16 bits leaves along the direction, over all attention and "
        "MLP output projections, and the increase of the rounding error with compensation:\n\n"
    )
    text += line(["type", "cast", "compensated", "error"]) + line(["---"] * 4)
    for row in cast:
        more = f"+{float(row['error']):.1%}"
        text += line([str(row["dtype"]), figure(row["cast"]), figure(row["compensated"]), more])
    return text, {"edited": edited, "casts": cast}


def figure(value: float | str | None) -> str:
    """A number as it is shown."""
    return "" if value is None else f"{value:.1e}"


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="four architectures, and no SmolLM2")
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    cells, left = table(SMOKE if args.smoke else sorted(tiny_models.CONFIGS))
    text, measured = ("", {}) if args.smoke else real(args.model)
    document = markdown(cells, left) + text
    print(document)
    if args.out:
        args.out.write_text(document)
    if args.json:
        args.json.write_text(json.dumps({"cells": [asdict(entry) for entry in cells], "smollm2": measured}, indent=2))


if __name__ == "__main__":
    main()
