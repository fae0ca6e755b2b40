"""Interp's models in Inspect: the provider `interp/MODEL`. Nothing heavy is imported until one is asked for."""

from importlib.util import find_spec

if find_spec("inspect_ai"):
    from inspect_ai.model import modelapi

    @modelapi("interp")
    def interp_models() -> type:
        """The class of interp's models."""
        from interp.bridges.inspect_provider import InspectModel

        return InspectModel
