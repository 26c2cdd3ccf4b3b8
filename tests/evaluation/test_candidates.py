from pathlib import Path

import pytest

from physiq_ray.checkpoint import ModelState
from physiq_ray.config import Settings
from physiq_ray.errors import SettingError
from physiq_ray.evaluation.candidates import find_candidates
from physiq_ray.labels import ClassMapping


def test_a_missing_manifest_is_a_setting_error(tmp_path: Path) -> None:
    state = ModelState(
        state_dict={}, class_mapping=ClassMapping.of_poses((1, 2)), pose_names={1: "A", 2: "B"}
    )
    with pytest.raises(SettingError, match=r"^sources: .*gone\.parquet.*; give --sources or --manifest$"):
        find_candidates(Settings(manifest=str(tmp_path / "gone.parquet")), state)
