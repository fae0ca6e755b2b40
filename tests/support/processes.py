"""Python processes that start at once: forks of one process that has imported what takes seconds to import."""

import multiprocessing
import os
import runpy
import sys
import tempfile
from collections.abc import Mapping
from multiprocessing.context import ForkServerProcess
from pathlib import Path

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "interp.cli.app",
        "interp.cli.export",
        "interp.auditing.auditor",
        "interp.pipeline.experiment",
        "transformers.models.auto.tokenization_auto",
        "transformers.models.llama.modeling_llama",
    ]
)


def start(
    script: Path | str, *arguments: object, env: Mapping[str, str] | None = None, output: Path
) -> ForkServerProcess:
    """Run a script's file, or source code, as `python` would, and return its process.

    What it prints goes to `output`. The process leads a group of its own.
    """
    words = [str(script), *map(str, arguments)]
    arguments_of_main = isinstance(script, Path), words, os.getcwd(), dict(env or {}), output
    process = _CONTEXT.Process(target=_main, args=arguments_of_main)
    process.start()
    return process


def run(script: Path | str, *arguments: object, env: Mapping[str, str] | None = None, timeout: float = 280) -> str:
    """Run a script's file, or source code, as `python` would: what it printed, on both streams. It must succeed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        process = start(script, *arguments, env=env, output=output)
        process.join(timeout)
        if process.is_alive():
            process.kill()
        text = output.read_text(encoding="utf-8", errors="replace") if output.exists() else ""
    assert process.exitcode == 0, f"exit code {process.exitcode}: {text[-2000:]}"
    return text


def _main(is_file: bool, words: list[str], folder: str, environment: dict[str, str], output: Path) -> None:
    """The new process: streams, folder, environment and arguments as `python` has them, then the script."""
    os.setsid()
    os.chdir(folder)
    os.environ.update(environment)
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", encoding="utf-8", buffering=1) for stream in (1, 2))
    script, *arguments = words
    sys.argv = [script if is_file else "-c", *arguments]
    if is_file:
        sys.path.insert(0, str(Path(script).parent))
        runpy.run_path(script, run_name="__main__")
    else:
        exec(compile(script, "<code>", "exec"), {"__name__": "__main__"})
