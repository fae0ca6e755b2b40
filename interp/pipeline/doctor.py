"""What a bug report needs: versions, threads, devices, and whether the bundled organism loads and answers."""

import os
from typing import Any

import torch

from interp.core.digests import versions
from interp.models.loading import load
from interp.sae.training import selection


def diagnose() -> dict[str, Any]:
    """Plain values. Raises where the bundled organism can't be loaded."""
    model = load("organism")
    reply = model.generate([model.chat("Hello.")], max_new_tokens=16)[0]
    devices = ["cpu"] + [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **versions(),
        "transformer_lens": _transformer_lens(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "selection": selection.native(),
        "devices": ", ".join(devices),
        "organism": model.digest[:12],
        "organism_says": reply,
    }


def _transformer_lens() -> str:
    from importlib.metadata import version

    return version("transformer-lens")
