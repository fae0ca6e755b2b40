"""What Inspect finds by interp's entry point: the model provider `interp/MODEL` and the task `interp/behaviour`.

Nothing heavy is imported until one of them is used.
"""

from importlib.util import find_spec
from typing import Any

from interp.bridges import _inspect_models  # noqa: F401  # the provider

if find_spec("inspect_ai"):
    from inspect_ai import task

    @task
    def behaviour(
        suite: str, name: str, items: int = 300, seed: int = 0, data: str | None = None, replies: bool | None = None
    ) -> Any:
        """A behaviour of a suite; see `interp.suite` and `inspect_task`."""
        from interp.auditing import suites
        from interp.bridges.inspect_tasks import inspect_task

        (named,) = suites.named_behaviours(suites.suite(suite, items, seed, data), [name])
        return inspect_task(named, replies=replies)
