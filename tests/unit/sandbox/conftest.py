"""A folder that the sandbox's account can reach."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that the sandbox's account may reach and write: pytest's own is private."""
    with tempfile.TemporaryDirectory(prefix="opened-") as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)
