"""The system's Chromium, without a network."""

import shutil
import subprocess
from pathlib import Path

import pytest

needed = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")


def browse(page: Path, *options: str) -> str:
    """What headless Chromium prints when it opens a page."""
    quiet = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND")
    folder = f"--user-data-dir={page.parent / 'browser'}"
    command = ["chromium", *quiet, *options, "--virtual-time-budget=20000", folder, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
