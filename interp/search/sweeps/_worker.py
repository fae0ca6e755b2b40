"""A worker of a sweep: `python -m interp.search.sweeps._worker FOLDER TRIALS PARENT`, as `run_sweep` starts it."""

import os
import sys
import threading
import time
from pathlib import Path

from interp.core.errors import InterpError, note
from interp.search.sweeps.sweep import Workbench, run_trials
from interp.search.sweeps.sweep_file import SETTINGS, SweepFile, read_settings
from interp.search.sweeps.trials import Trials


def work_on() -> None:
    """Run trials until there are as many as asked for; end with the process that started this one."""
    out, total = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_end_with, args=(int(sys.argv[3]),), daemon=True).start()
    known = read_settings(out)
    settings = SweepFile.parse(known["settings"], str(out / SETTINGS))
    work = Workbench.open(settings, Path(known["folder"]), out)
    try:
        run_trials(work, Trials(out, len(work.goals.objectives), settings.sampler, settings.seed), total)
    except KeyboardInterrupt:
        sys.exit(130)  # the process that started this one says what to do
    except InterpError as problem:
        note(str(problem))
        sys.exit(2)


def _end_with(parent: int) -> None:
    """End this process when its parent has ended; what it leaves running, the next run queues again."""
    above = os.getppid()
    try:
        while os.getppid() == above:
            os.kill(parent, 0)  # raises where it has ended before this one could see it
            time.sleep(0.2)
    finally:
        os._exit(1)


if __name__ == "__main__":
    work_on()
