"""Training on a dashboard: a callback for trackio, or for wandb, whose interface trackio has taken over."""

from dataclasses import asdict
from importlib import import_module
from typing import Any, Literal

from interp.core.errors import InterpError
from interp.sae.training.run_folder import TrainingReport
from interp.sae.training.trainer import Callback


def tracker(name: Literal["trackio", "wandb"], /, project: str, **options: Any) -> Callback:
    """A callback for `train` that logs each point, and ends the dashboard's run with the last step.

    `options` go to the package's `init`, such as name or config. Raises where the package is not installed.
    """
    try:
        package = import_module(name)
    except ImportError:
        raise InterpError(f"{name} is not installed; pip install {name}, or train without its callback") from None
    package.init(project=project, **options)

    def callback(report: TrainingReport) -> None:
        values = asdict(report.point) | {"tokens_per_second": report.tokens_per_second}
        package.log({f"sae-{report.number}/{key}": value for key, value in values.items()}, step=report.step)
        if report.last:
            package.finish()

    return callback
