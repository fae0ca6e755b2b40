"""The verbs `interp tune`, fine-tuning by TRL, and `interp compare`, what it does beside edits."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from interp.cli._options import Json, Model, named_values, repeated
from interp.cli.audit import CACHE
from interp.cli.upkeep import SuiteOptions
from interp.core.config import Config
from interp.core.display import print_table, print_values
from interp.core.errors import InterpError
from interp.core.files import require_free
from interp.upkeep.tuning.options import TuningOptions


class TuneOptions(Config):
    """What to learn from, how, and where to."""

    method: Literal["sft", "dpo", "kto"] = Field(description="sft, dpo or kto")
    data: Path = Field(description="JSONL of rows, in TRL's layouts")
    out: Path = Field(description="new folder for the checkpoint, the adapter and the record")
    block: Path | None = Field(None, description="recipe whose hooks are on while training")
    device: str | None = Field(None, description="device to run on: cpu, cuda, cuda:1 or mps")
    dtype: str | None = Field(None, description="dtype of the weights, also as written [default: float32]")
    tuning: TuningOptions = TuningOptions()


def tune_command(model: Model, options: TuneOptions, as_json: Json = False) -> None:
    """Fine-tune a model with TRL, merge the adapter, and certify the checkpoint.

    To continue a run that was killed, run the same command again.
    """
    from interp.interventions.recipe import Recipe
    from interp.models.loading import load
    from interp.upkeep.tuning._trainer import require_trl
    from interp.upkeep.tuning.tuned_checkpoint import tuning_seconds
    from interp.upkeep.tuning.tuner import tune

    require_free(options.out)
    require_trl()
    block = Recipe.load(options.block) if options.block else None
    loaded = load(model, dtype=options.dtype, device=options.device)
    record = tune(loaded, options.method, options.data, options.out, options.tuning, block)
    values: dict[str, Any] = {"rows": record.rows, "steps": len(record.losses)}
    values |= {"first loss": record.losses[0], "last loss": record.losses[-1]}
    if record.log_ratio is not None:
        values |= {"log-ratio before the first step": record.log_ratio}
        values |= {"the same under the recipe": record.blocked_log_ratio} if block else {}
    print_values(as_json, values | {"seconds": round(tuning_seconds(options.out), 1)})


class CompareOptions(Config):
    """What to compare, on what, and where to."""

    measured: SuiteOptions
    edit: tuple[str, ...] = repeated("NAME=FOLDER of a recipe, or of an edited or tuned model", ...)
    out: Path = Field(description="new folder for the matrix and the audits")
    seconds: tuple[str, ...] = repeated("NAME=SECONDS that it took to make a recipe")
    instruction: str | None = Field(None, description="text of the prompt [default: stop the suite's harms]")
    seed: int = Field(0, ge=0, description="seed of the items and of the intervals")

    @property
    def costs(self) -> dict[str, float]:
        """Seconds by the name of the edit."""
        named = named_values(self.seconds, "--seconds", "NAME=SECONDS, such as edit=12")
        try:
            return {name: float(value) for name, value in named.items()}
        except ValueError:
            raise InterpError(f"--seconds {', '.join(named.values())}: not a number; expected one") from None


def compare_methods_command(model: Model, options: CompareOptions, as_json: Json = False) -> None:
    """Compare edits and tuned models with doing nothing and with an instruction, on the same held-out items.

    To continue after a kill, run the same command again.
    """
    from interp.auditing.suites import suite
    from interp.models.loading import load
    from interp.upkeep.tuning.method_comparison import compare_methods

    require_free(options.out)
    edits, costs, given = named_values(options.edit, "--edit", "NAME=FOLDER"), options.costs, options.measured
    behaviours = suite(given.suite, given.items, options.seed, given.data)
    loaded = load(model, dtype=given.dtype, device=given.device)
    scores: dict[str, Any] = {"instruction": options.instruction, "cache": given.cache or options.out.parent / CACHE}
    record = compare_methods(loaded, edits, behaviours, options.out, costs, options.seed, **scores)
    if as_json:
        print_values(True, {"columns": record.matrix.to_json(), "seconds": dict(record.seconds)})
        return
    print_table(False, record.rows(), f"{model}: score, and differences from it, * p < 0.05 over the matrix")
