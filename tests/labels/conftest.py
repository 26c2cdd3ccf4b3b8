from pathlib import Path

import pytest


@pytest.fixture
def labels_file(tmp_path: Path) -> Path:
    return tmp_path / "db_labels.json"
