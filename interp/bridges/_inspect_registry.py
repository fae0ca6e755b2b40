"""What Inspect finds by interp's entry point: the model provider `interp/MODEL` and the task `interp/behaviour`.

Nothing heavy is imported until one of them is used.
"""

from importlib.util import find_spec
from typing import Any

if find_spec("inspect_ai"):
    from inspect_ai import task
    from inspect_ai.model import modelapi

    @modelapi("interp")
    def interp_models() -> type:
        """The class of interp's models."""
        from interp.bridges.inspect_provider import InspectModel

        return InspectModel

    @task
    def behaviour(
        suite: str, name: str, items: int = 300, seed: int = 0, data: str | None = None, replies: bool | None = None
    ) -> Any:
        """A behaviour of a suite; see `interp.suite` and `inspect_task`."""
        from interp.auditing import suites
        from interp.bridges.inspect_tasks import inspect_task

        (named,) = suites.named_behaviours(suites.suite(suite, items, seed, data), [name])
        return inspect_task(named, replies=replies)
