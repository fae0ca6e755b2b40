"""The end-to-end pipeline: from text to an audited checkpoint, as one experiment file (`interp run`, `interp demo`).

In reading order:

- `experiment`: the configuration of an experiment, and `run_experiment`, which takes it through every stage
- `materials`: its data, split so that nothing is evaluated on what it was fitted or chosen on
- `runs`: the folders that experiments write; list, read, compare and clear them
- `doctor`: versions, threads, devices and a check of the bundled organism, for bug reports
- `job_plan`: memory, disk, time and cost of large jobs on given machines
"""

from interp.core.lazy import lazy_exports

__getattr__, __dir__, __all__ = lazy_exports(__name__, __file__)
