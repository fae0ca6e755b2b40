"""What the benchmarks share: progress on standard error, and whether bfloat16 is worth measuring on this processor.

Each benchmark takes `--quick`: its headline claims only, in fewer and smaller rounds, within five minutes on two slow
cores. Quick figures are noisier than those in the docs. They tell whether a claim still holds, not by how much.
"""

import sys
import time

from interp.pipeline.doctor import bfloat16_unit

STARTED = time.monotonic()


def progress(text: str) -> None:
    """Say on standard error what is measured next, with the seconds since the start."""
    print(f"[{time.monotonic() - STARTED:5.0f} s] {text}", file=sys.stderr, flush=True)


def measures_bfloat16(quick: bool) -> bool:
    """Whether to measure bfloat16: always in a full run, in a quick one only where the processor has a unit for it.

    Without one, products in bfloat16 take ten times as long as in float32, and no claim is about such processors.
    """
    if quick and bfloat16_unit() == "none":
        progress("bfloat16 is left out: this processor has no unit for it (interp doctor)")
        return False
    return True
