"""What a bug report needs: versions, threads, devices, and whether the bundled organism loads and answers."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from interp.core.digests import versions
from interp.models.loading import load
from interp.sae.compiled.native import native

_CPU_INFO = Path("/proc/cpuinfo")
_UNITS = ("amx_bf16", "avx512_bf16", "bf16")  # as Linux names them: x86's two, and Arm's


def bfloat16_unit() -> str:
    """The processor's unit for products in bfloat16, or "none".

    Processors without one compute in bfloat16 at half the speed of float32 or less, so that benchmarks in bfloat16
    measure nothing of use there.

    Returns:
        "amx_bf16" or "avx512_bf16" (x86), "bf16" (Arm), "none", or "unknown" on systems other than Linux.

    Example:
        >>> from interp.pipeline.doctor import bfloat16_unit
        >>> bfloat16_unit() in ("amx_bf16", "avx512_bf16", "bf16", "none", "unknown")
        True
    """
    if not _CPU_INFO.is_file():
        return "unknown"
    lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    features = {word for line in lines if line.lower().startswith(("flags", "features")) for word in line.split()}
    return next((unit for unit in _UNITS if unit in features), "none")


def diagnose() -> dict[str, Any]:
    """Collect what `interp doctor` prints.

    Returns:
        Versions of the packages by name; the number of threads and cores; whether the native selection kernel is
        built; the processor and its unit for bfloat16 (`bfloat16_unit`); the names of the devices; the digest of the
        bundled organism, and its reply to a greeting.

    Raises:
        InterpError: The bundled organism cannot be loaded.

    Example:
        >>> interp.pipeline.diagnose()["bfloat16_unit"]  # doctest: +SKIP
        'amx_bf16'
    """
    model = load("organism")
    reply = model.generate([model.chat("Hello.")], max_new_tokens=16)[0]
    devices = ["cpu"] + [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        **versions(),
        "transformer_lens": version("transformer-lens"),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": platform.machine(),
        "bfloat16_unit": bfloat16_unit(),
        "selection": native(),
        "devices": ", ".join(devices),
        "organism": model.digest[:12],
        "organism_says": reply,
    }
