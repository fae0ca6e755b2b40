"""What jobs need on given machines: memory, disk, time and price, with the arithmetic.

1. A YAML file describes a model, machines and jobs, such as `docs/plans/large.yaml`.
2. Rates that it does not give are measured on this machine, in a few seconds.
3. Each figure is a formula over what the file says, the rates and the figures before it. Formula and inputs are shown.
4. `processes that help` is the number at which a term takes over that more processes do not shorten: a machine's disk
   in harvests and scans, the network in training. An audit has no more parts than behaviours and models, a sweep than
   trials.

A figure that rests on a rate measured here says that it is extrapolated: rates differ with sizes and machines. Memory
is that of weights, optimiser and the largest buffers; a framework's own is extra.
"""

import math
import os
import re
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator
from torch.nn.functional import linear

from interp.core.config import Config
from interp.core.errors import InterpError
from interp.models.loading import load
from interp.sae.config import SaeConfig
from interp.sae.training.state import TrainingState

_BLOCK = 1 << 26  # bytes that are written, sent and summed to measure rates


class ModelSize(Config):
    """The size of a model."""

    parameters: PositiveFloat = Field(description="number of weights")
    layers: PositiveInt = Field(description="number of layers")
    d_model: PositiveInt = Field(description="width of the residual stream")
    weight_bytes: PositiveFloat = Field(2, description="bytes of a weight")


class Machines(Config):
    """Machines that are alike, and their rates; one that is not given is measured here."""

    count: PositiveInt = Field(1, description="number of machines")
    processes: PositiveInt = Field(1, description="processes, and devices, of each")
    memory_gb: PositiveFloat = Field(16, description="memory of a process, in GB")
    price: NonNegativeFloat | None = Field(None, description="price of a machine for an hour")
    products: PositiveFloat | None = Field(None, description="FLOP/s of matrix products, of a process")
    pass_share: PositiveFloat | None = Field(None, description="share of `products` that forward passes reach")
    step_share: PositiveFloat | None = Field(
        None, description="share that an autoencoder's encoder reaches in training"
    )
    disk_rate: PositiveFloat | None = Field(None, description="bytes per second of a machine's disk")
    memory_rate: PositiveFloat | None = Field(None, description="bytes per second that a process reads from its memory")
    network_rate: PositiveFloat | None = Field(None, description="bytes per second that a process sends to others")


class HarvestJob(Config):
    """A harvest into stores, one a process."""

    tokens: PositiveFloat = Field(description="tokens to store")
    sites: PositiveInt = Field(1, description="sites of the model's width")
    depth: PositiveFloat = Field(1.0, le=1, description="share of the model up to the last site")
    number_bytes: PositiveFloat = Field(2, description="bytes of a stored number")
    shard_tokens: PositiveInt = Field(65536, description="tokens of a shard, which is held in memory")


class TrainJob(Config):
    """The training of an autoencoder whose latents the processes share."""

    latents: PositiveFloat = Field(description="number of latents")
    tokens: PositiveFloat = Field(description="tokens to train on")
    k: PositiveInt = Field(32, description="latents that fire per token")
    batch_size: PositiveInt = Field(4096, description="tokens per step")
    number_bytes: PositiveFloat = Field(2, description="bytes of a stored number")


class ScanJob(Config):
    """A scan of an autoencoder's latents on a store into a feature book."""

    latents: PositiveFloat = Field(description="number of latents")
    tokens: PositiveFloat = Field(description="tokens of the store")
    number_bytes: PositiveFloat = Field(2, description="bytes of a stored number")
    examples: PositiveInt = Field(36, description="examples of each latent")
    context: PositiveInt = Field(33, description="tokens of an example")


class AuditJob(Config):
    """An audit of behaviours."""

    behaviours: PositiveInt = Field(description="number of behaviours")
    items: PositiveInt = Field(200, description="items of each")
    models: PositiveInt = Field(2, description="models that are compared, the base among them")
    item_tokens: PositiveInt = Field(200, description="tokens of an item's prompt and answers")
    reply_tokens: int = Field(64, ge=0, description="tokens that are generated for an item")
    batch_size: PositiveInt = Field(32, description="items that are generated together")


class SweepJob(AuditJob):
    """A search whose trials are audits."""

    models: PositiveInt = Field(1, description="models that a trial measures")
    trials: PositiveInt = Field(description="number of trials")


class JobPlan(Config):
    """Jobs on machines.

    Example:
        >>> from interp.pipeline import JobPlan
        >>> plan = JobPlan.parse({
        ...     "model": {"parameters": 8e9, "layers": 32, "d_model": 4096},
        ...     "machines": {"products": 4e14, "pass_share": 0.4, "disk_rate": 2e9, "processes": 8, "price": 20.0},
        ...     "harvest": {"tokens": 1e9},
        ... })
        >>> [(row["figure"], row["value"]) for row in plan.figures() if row["figure"] in ("disk", "time", "cost")]
        [('disk', '8.21 TB'), ('time', '3.47 h'), ('cost', '69.44')]
    """

    model: ModelSize
    machines: Machines = Machines()
    harvest: HarvestJob | None = None
    train: TrainJob | None = None
    scan: ScanJob | None = None
    audit: AuditJob | None = None
    sweep: SweepJob | None = None

    @model_validator(mode="after")
    def _has_jobs(self) -> "JobPlan":
        if not any(getattr(self, name) for name in _FORMULAS):
            raise InterpError(f"no job; expected one or more of {', '.join(_FORMULAS)}")
        return self

    def figures(self) -> list[dict[str, Any]]:
        """One row a figure: job, figure, value, number, formula with its inputs, and what it rests on."""
        given: dict[str, Any] = self.model.model_dump() | self.machines.model_dump(exclude_none=True)
        given |= {"workers": self.machines.count * self.machines.processes, "trials": 1}
        jobs = {name: job for name in _FORMULAS if (job := getattr(self, name))}
        used = {word for name in jobs for formula in _FORMULAS[name].values() for word in _names(formula)}
        measured = {name: rate() for name, rate in _RATES.items() if name in used and name not in given}
        rows = [_row("rates", name, value, "a short measurement", "measured here") for name, value in measured.items()]
        for name, job in jobs.items():
            values, uncertain = given | measured | job.model_dump(), set(measured)
            cost = {"cost": "time / 3600 * count * price"} if "price" in given else {}
            for figure, formula in (_FORMULAS[name] | cost).items():
                inputs = [word for word in dict.fromkeys(_names(formula)) if word in values]
                value = float(eval(formula, {"max": max, "min": min, "ceil": math.ceil}, values))  # written below
                shown = ", ".join(f"{word} {_shown(word, values[word])}" for word in inputs)
                basis = "extrapolated" if uncertain.intersection(inputs) else "computed"
                uncertain |= {figure} if basis == "extrapolated" else set()
                values[figure] = value
                rows.append(_row(name, figure, value, f"{formula}, with {shown}", basis))
        return rows


# Figures of each job, in order, over the plan's numbers, the rates and the figures before.
_AUDIT = {
    "scoring": "2 * parameters * behaviours * items * models * item_tokens * trials / "
    "(products * pass_share * min(workers, parts))",
    "generating": "parameters * weight_bytes * behaviours * items * models * reply_tokens * trials / batch_size / "
    "(memory_rate * min(workers, parts))",
    "time": "scoring + generating",
    "memory": "parameters * weight_bytes + 4 * layers * d_model * batch_size * (item_tokens + reply_tokens)",
}
_FORMULAS = {
    "harvest": {
        "computing": "2 * parameters * depth * tokens / (products * pass_share * workers)",
        "disk": "tokens * (sites * d_model * number_bytes + 20)",
        "writing": "disk / (disk_rate * count)",
        "time": "max(computing, writing)",
        "memory": "parameters * weight_bytes + shard_tokens * sites * d_model * number_bytes",
        "processes that help": "computing * workers / writing",
    },
    "train": {
        "computing": "2 * latents * d_model * tokens / (products * step_share * workers)",
        "sending": "4 * tokens * (2 * d_model / workers + k) * (workers - 1) / network_rate",
        "reading": "tokens * d_model * number_bytes / disk_rate",
        "time": "max(computing + sending, reading)",
        "memory": "(36 * d_model + 2048) * latents / workers + 24 * batch_size * d_model + 2**28",
        "processes that fit": "ceil((36 * d_model + 2048) * latents / "
        "(memory_gb * 1e9 - 24 * batch_size * d_model - 2**28))",
        "memory of the first process at the end": "24 * latents * d_model",
        "disk": "3 * 24 * latents * d_model",
        "processes that help": "2 * latents * d_model / (products * step_share) / (8 * d_model / network_rate)",
    },
    "scan": {
        "computing": "2 * latents * d_model * tokens / (products * step_share * workers)",
        "reading": "tokens * d_model * number_bytes / disk_rate",
        "time": "max(computing, reading)",
        "disk": "8 * latents * examples * context",
        "memory": "8 * latents * d_model + 8 * latents * examples * context",
        "processes that help": "computing * workers / reading",
    },
    "audit": {"parts": "behaviours * models"} | _AUDIT | {"processes that help": "parts"},
    "sweep": {"parts": "trials"} | _AUDIT | {"processes that help": "parts"},
}
_UNITS = dict.fromkeys(("computing", "writing", "sending", "reading", "scoring", "generating", "time"), "s")
_UNITS |= dict.fromkeys(("disk", "memory", "memory of the first process at the end"), "B")
_UNITS |= dict.fromkeys(("disk_rate", "memory_rate", "network_rate"), "B/s") | {"products": "FLOP/s"}


def _names(formula: str) -> list[str]:
    return re.findall(r"[a-z_]+", re.sub(r"\de\d", "", formula))


def _row(job: str, figure: str, value: float | int, formula: str, basis: str) -> dict[str, Any]:
    return {"job": job, "figure": figure, "value": _shown(figure, value), "formula": formula, "basis": basis} | {
        "number": value
    }


def _shown(name: str, value: float | int) -> str:
    """A number with its unit, in the size that people read."""
    unit = _UNITS.get(name, "")
    if unit == "s":
        size, unit = next(
            (size, unit) for size, unit in ((86400, "days"), (3600, "h"), (60, "min"), (0, "s")) if value >= size
        )
        return f"{value / (size or 1):.3g} {unit}"
    if unit and value >= 1000:
        step = min(5, int(math.log10(value)) // 3)
        return f"{value / 1000**step:.3g} {' kMGTP'[step]}{unit}"
    return f"{value:.4g} {unit}".strip()


def _products() -> float:
    """FLOP/s of products in float32, the best of five."""
    x, rows = torch.ones(512, 1024), torch.ones(4096, 1024)
    return 2 * 512 * 1024 * 4096 / _least(lambda: linear(x, rows), 5)


def _pass_share() -> float:
    """FLOP/s of the organism's forward passes, as a share of the products'."""
    model = load("organism")
    tokens = torch.ones(16, 128, dtype=torch.long)
    weights = sum(x.numel() for x in model.hf.parameters())
    with torch.no_grad():
        return 2 * weights * tokens.numel() / _least(lambda: model.hf(tokens), 3) / _products()


def _step_share() -> float:
    """FLOP/s of the encoder's product alone, at the speed of steps of 4,096 latents, as a share of the products'."""
    state, x = TrainingState(SaeConfig(d_sae=4096), 512), torch.randn(1024, 512)
    return 2 * 4096 * x.numel() / _least(lambda: state.update(x, 100), 3) / _products()


def _disk_rate() -> float:
    """Bytes per second of a file that is written to the current folder and flushed."""
    with tempfile.NamedTemporaryFile(dir=".") as file:
        block = os.urandom(_BLOCK)

        def write() -> None:
            file.seek(0)
            file.write(block)
            file.flush()
            os.fsync(file.fileno())

        return _BLOCK / _least(write, 2)


def _memory_rate() -> float:
    """Bytes per second of a sum over a tensor."""
    x = torch.ones(_BLOCK)
    return 4 * _BLOCK / _least(x.sum, 3)


def _network_rate() -> float:
    """Bytes per second between two sockets of this machine."""
    here, there = socket.socketpair()
    with here, there:
        sender = threading.Thread(target=here.sendall, args=(bytes(_BLOCK),))
        began, left = time.perf_counter(), _BLOCK
        sender.start()
        while left:
            left -= len(there.recv(1 << 20))
        sender.join()
        return _BLOCK / (time.perf_counter() - began)


def _least(call: Callable[[], Any], times: int) -> float:
    """The shortest time of a call, in seconds."""
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


_RATES = {
    "products": _products,
    "pass_share": _pass_share,
    "step_share": _step_share,
    "disk_rate": _disk_rate,
    "memory_rate": _memory_rate,
    "network_rate": _network_rate,
}
