"""Tune: fine-tune a model by TRL, merge the adapter into a checkpoint, certify that, and write it.

1. Rows are read and checked (`training_rows`).
2. A LoRA adapter (Hu et al. 2021) is trained on a copy of the model: on replies (`sft`), on pairs of a chosen and a
   rejected reply (`dpo`, Rafailov et al. 2023) or on replies that are wanted or not (`kto`, Ethayarajh et al. 2024).
   With `block`, a recipe's hooks are on while training and gone afterwards. One that steers towards what the data show
   takes from the training the pressure to learn it: preventative steering (Chen et al. 2025, "Persona vectors"). One
   that caps a direction or clamps an autoencoder's latents holds features where they are.
3. The adapter is merged and certified (`tuned_checkpoint`). The folder appears when all is complete.

A killed run continues from its last checkpoint when the same call is made again, and writes the same bytes on the same
machine, `interp_seconds.json` apart.

Limitations: of weights, LoRA trains those of linear layers, not embeddings, norms, the unembedding, or experts that are
stacked in one tensor. Memory holds the model twice. In the reference pass of DPO and KTO no hook fires, so under a
recipe the first log-ratio that the loss sees is what the recipe itself does.
"""

from pathlib import Path
from typing import Any

from interp.core.digests import versions
from interp.core.errors import InterpError, on_interrupt
from interp.core.files import new_folder, require_free, sha256_json
from interp.interventions.recipe import Recipe
from interp.models.hooked import HookedModel
from interp.upkeep.tuning._trainer import require_trl, train_adapter
from interp.upkeep.tuning.options import Method, TuningOptions
from interp.upkeep.tuning.training_rows import Data, Row, training_rows
from interp.upkeep.tuning.tuned_checkpoint import TuningRecord, write_tuned

_PROBES = 4  # rows whose prompts the certificate is measured on, too


def tune(
    model: HookedModel,
    method: Method,
    data: Data,
    out: str | Path,
    options: TuningOptions | None = None,
    block: Recipe | None = None,
    **fields: Any,
) -> TuningRecord:
    """Fine-tune a model and write the merged checkpoint to a new folder.

    Args:
        model: The model, which stays as it is.
        method: `sft`, `dpo` or `kto`.
        data: A JSONL file, or rows; `training_rows` has the layouts.
        out: New folder: a checkpoint that transformers loads, the adapter as PEFT has it, the record, the certificate
            and, with `block`, the recipe.
        options: How it is trained.
        block: A recipe whose hooks are on while training.
        fields: Fields of `TuningOptions`.

    Returns:
        The record, which is also saved.

    Raises:
        InterpError: TRL or PEFT is missing, `out` exists, a row does not fit the method, the recipe is another model's,
            training diverges, or the merged weights do not do what the adapter does.

    Example:
        >>> from interp.upkeep import tune
        >>> rows = [{"prompt": "hello", "chosen": "Good day.", "rejected": "Go away."}]
        >>> tune(model, "dpo", rows, tmp / "tuned", steps=1).log_ratio
        0.0
    """
    options = TuningOptions.parse({**dict(options or TuningOptions()), **fields}, "tuning options")
    require_free(out)
    require_trl()
    if method == "kto" and options.batch < 2:
        raise InterpError("batch is 1; kto estimates a divergence within each batch, and needs at least 2")
    if model.tokenizer is None:
        raise InterpError(f"{model.name} has no tokenizer, and rows are texts; load it with one")
    model.require_unhooked()
    if block is not None:
        block.check(model.reference)
    rows = training_rows(data, method, bool(model.tokenizer.chat_template))
    name, digest = str(data) if isinstance(data, str | Path) else "rows in memory", sha256_json(rows)
    settings = [model.identity.model_dump(), method, digest, options.model_dump(), versions()]
    key = sha256_json([*settings, block.exact_digest if block else ""])
    with on_interrupt("the same call continues from the last checkpoint"), new_folder(out, key) as folder:
        trained = train_adapter(model, method, rows, options, block, folder)
        record = TuningRecord(
            method=method,
            base=model.reference,
            source=model.source,
            data=name,
            data_digest=digest,
            rows=len(rows),
            options=options.model_dump(),
            losses=trained.losses,
            log_ratio=trained.log_ratio,
            blocked_log_ratio=trained.blocked,
            block=block.digest if block else "",
            files={},
            versions={},
        )
        prompts = [_prompt(model, row) for row in rows[:_PROBES]]
        return write_tuned(model, record, trained, block, prompts, folder)


def _prompt(model: HookedModel, row: Row) -> str:
    """A row's prompt as the model reads it."""
    prompt = row["prompt"] if "prompt" in row else row["text"]
    return prompt if isinstance(prompt, str) else model.chat(prompt)
