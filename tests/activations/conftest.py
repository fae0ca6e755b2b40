"""A copy of the store that the tests of reading share, to be damaged."""

import pytest


@pytest.fixture
def copy(stored, tmp_path):
    """The store in a folder of its own, to be damaged."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for file in stored.folder.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder
