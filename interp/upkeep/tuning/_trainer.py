"""TRL's trainers of a LoRA adapter, with a recipe's hooks while they train.

With an adapter, the reference of DPO and KTO is the same modules with the adapter switched off. A recipe's functions
ask whether it is, and leave the reference alone. They are on the model only for as long as it trains.
"""

import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformers import PrinterCallback, TrainerCallback

from interp.core.errors import InterpError
from interp.core.files import read_json, read_tensors, write_json
from interp.core.progress import track
from interp.interventions.recipe import Recipe
from interp.models.architectures.table import Tap
from interp.models.hooked import HookedModel
from interp.models.hooks import Transform
from interp.models.sites import Site
from interp.upkeep.tuning.options import Method, TuningOptions
from interp.upkeep.tuning.training_rows import Row

SECONDS, CHECKPOINTS = "interp_seconds.json", "checkpoints"
ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_UNKNOWN = "in training, prompt and reply are read in one pass; give the recipe other positions"


@dataclass(frozen=True)
class Training:
    """What happened: the loss of each step, the mean log-ratios at the first one, the seconds, and PEFT's files.

    `log_ratio` is of the model that is written, without hooks; `blocked` is what the loss was computed from.
    """

    losses: tuple[float, ...]
    log_ratio: float | None
    blocked: float | None
    seconds: float
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def require_trl() -> None:
    """Raise unless TRL and PEFT are installed."""
    if missing := [name for name in ("trl", "peft") if find_spec(name) is None]:
        raise InterpError(f"tuning needs the package {missing[0]}; pip install 'interp[tune]'")


def train_adapter(
    model: HookedModel, method: Method, rows: Sequence[Row], options: TuningOptions, block: Recipe | None, folder: Path
) -> Training:
    """Train an adapter on a copy of the model.

    Checkpoints are kept in the folder, from the last of which a call on the same folder continues, and the seconds of
    all calls.
    """
    copy = HookedModel(deepcopy(model.hf), deepcopy(model.tokenizer), model.name)
    copy.template_variables, copy.date = model.template_variables, model.date
    pairs = [] if block is None else block.bind(copy)  # before there is an adapter, which changes what the model is
    with torch.random.fork_rng(), warnings.catch_warnings(), torch.enable_grad():
        warnings.simplefilter("ignore", FutureWarning)  # about later versions of transformers
        with copy.template.on_date():
            trainer = _trainer(copy, method, rows, options, folder / CHECKPOINTS)
        trainer.remove_callback(PrinterCallback)
        before = _log_ratio({} if method == "sft" else trainer.evaluate(), "eval_", options.beta)
        hooks = _TrainingHooks(pairs, block is None or block.per_token)
        trainer.add_callback(_Watch(method, folder / SECONDS))
        with copy.forward_passes.prompted(None, _UNKNOWN), copy.hooked(hooks):
            trainer.train(resume_from_checkpoint=_last_checkpoint(folder / CHECKPOINTS))
    with TemporaryDirectory() as saved:
        trainer.model.save_pretrained(saved)
        config, tensors = read_json(Path(saved, ADAPTER_CONFIG)), read_tensors(Path(saved, ADAPTER_WEIGHTS))
    if not all(torch.isfinite(x).all() for x in tensors.values()):
        raise InterpError("training diverged: the adapter is not finite; choose a lower lr")
    config["target_modules"] = sorted(config["target_modules"])  # a set, whose order differs from process to process
    logged = [each for each in trainer.state.log_history if "loss" in each]
    blocked = _log_ratio(logged[0], "", options.beta)
    losses, seconds = tuple(float(each["loss"]) for each in logged), read_json(folder / SECONDS)["seconds"]
    return Training(losses, before, blocked, seconds, config, tensors)


@dataclass(frozen=True, eq=False)
class _TrainingHooks:
    """A recipe's functions, bound to the model before it had an adapter, which act while that is on."""

    pairs: Sequence[tuple[Site | Tap, Transform]]
    per_token: bool

    def bind(self, model: HookedModel) -> Iterator[tuple[Site | Tap, Transform]]:
        """The pairs of site and function."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layer = next(module for module in model.hf.modules() if isinstance(module, BaseTunerLayer))
        for where, transform in self.pairs:
            yield where, partial(_unless_reference, layer, transform)


def _unless_reference(layer: Any, transform: Transform, x: Tensor) -> Tensor | None:
    return None if layer.disable_adapters else transform(x)


class _Watch(TrainerCallback):
    """Shows the progress, and keeps the seconds at each checkpoint."""

    def __init__(self, title: str, file: Path):
        self._title, self._file, self._began = title, file, time.perf_counter()
        self._earlier = read_json(file)["seconds"] if file.is_file() else 0.0
        self._steps: Iterator[int] = iter(())

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        steps = range(state.global_step, state.max_steps)
        self._steps = iter(track(steps, self._title, unit="steps"))
        next(self._steps, None)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        next(self._steps, None)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        write_json(self._file, {"seconds": self._earlier + time.perf_counter() - self._began})

    on_train_end = on_save


def _trainer(model: HookedModel, method: Method, rows: Sequence[Row], options: TuningOptions, folder: Path) -> Any:
    import datasets
    import peft
    import trl

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    variables = {"chat_template_kwargs": model.template_variables} if model.template_variables else {}
    data = datasets.Dataset.from_list([row | variables for row in rows])
    settings: dict[str, Any] = {
        "output_dir": str(folder),
        "per_device_train_batch_size": options.batch,
        "per_device_eval_batch_size": options.batch,
        "learning_rate": options.rate(method),
        "num_train_epochs": options.epochs,
        "max_steps": options.steps or -1,
        "max_length": min(options.length, model.context or options.length),
        "seed": options.seed,
        "save_steps": options.save_every,
        "save_total_limit": 1,
        "logging_steps": 1,
        "report_to": "none",
        "disable_tqdm": True,
        "activation_checkpointing": False,
        "bf16": False,
        "use_cpu": model.device.type == "cpu",
    }
    settings |= {} if method == "sft" else {"beta": options.beta}
    trainer, config = (getattr(trl, f"{method.upper()}{end}") for end in ("Trainer", "Config"))
    scale: dict[str, Any] = {"r": options.rank, "lora_alpha": options.alpha or 2 * options.rank}
    adapter = peft.LoraConfig(**scale, target_modules="all-linear", task_type="CAUSAL_LM")
    made = trainer(
        model.hf,
        args=config(**settings),
        train_dataset=data,
        eval_dataset=data.select(range(min(options.batch, len(data)))),
        processing_class=model.tokenizer,
        peft_config=adapter,
    )
    if not len(made.train_dataset):
        raise InterpError(f"no prompt leaves room for a reply within {settings['max_length']} tokens; raise length")
    return made


def _log_ratio(logged: Mapping[str, float], prefix: str, beta: float) -> float | None:
    """The larger mean log-ratio of chosen and rejected replies, by its size; None where none is logged."""
    names = (f"{prefix}rewards/{kind}" for kind in ("chosen", "rejected"))
    return max((logged[name] / beta for name in names if name in logged), key=abs, default=None)


def _last_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written completely."""
    files = folder.glob("checkpoint-*/trainer_state.json")  # which are written last
    done = [file.parent for file in files if file.read_text(encoding="utf-8").endswith("\n}\n")]
    return max(map(str, done), key=lambda name: int(name.rpartition("-")[2]), default=None)
