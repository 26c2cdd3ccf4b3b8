"""Read the folders that sync writes."""

from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def read_folder() -> Callable[[Path], dict[str, bytes]]:
    """Give a function that reads all files below a folder, hidden ones too, by their paths."""

    def read(folder: Path) -> dict[str, bytes]:
        return {
            path.relative_to(folder).as_posix(): path.read_bytes()
            for path in folder.rglob("*")
            if path.is_file()
        }

    return read
