import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import LabelError
from physiq_ray.labels import ClassMapping


def test_the_class_mapping_is_in_string_order_as_in_image_folder() -> None:
    mapping = ClassMapping.of_poses([16, 14, 11, 7, 6, 5, 2, 1, 1])

    assert mapping.to_dict() == {
        "class_to_idx": {"1": 0, "11": 1, "14": 2, "16": 3, "2": 4, "5": 5, "6": 6, "7": 7},
        "idx_to_class": {"0": "1", "1": "11", "2": "14", "3": "16", "4": "2", "5": "5", "6": "6", "7": "7"},
        "classes": ["1", "11", "14", "16", "2", "5", "6", "7"],
    }
    assert mapping.pose_ids == (1, 11, 14, 16, 2, 5, 6, 7)


def test_the_class_mapping_numbers_folders_as_torchvision_does(tmp_path: Path) -> None:
    from torchvision.datasets.folder import find_classes

    pose_ids = [1, 2, 5, 6, 7, 10, 11, 14, 16, 100, 21]
    for pose_id in pose_ids:
        (tmp_path / str(pose_id)).mkdir()

    assert find_classes(tmp_path)[1] == ClassMapping.of_poses(pose_ids).class_to_idx


@given(st.sets(st.integers(0, 2**31 - 1), min_size=1))
def test_a_class_mapping_is_equal_after_it_was_written_and_read(pose_ids: set[int]) -> None:
    mapping = ClassMapping.of_poses(pose_ids)

    assert ClassMapping.from_dict(json.loads(json.dumps(mapping.to_dict()))) == mapping


def test_a_mapping_without_the_list_of_classes_is_read() -> None:
    value = {"class_to_idx": {"2": 1, "11": 0}, "idx_to_class": {"0": "11", "1": "2"}}

    assert ClassMapping.from_dict(value).classes == ("11", "2")


def test_a_mapping_with_numbers_for_ids_is_read() -> None:
    value = {"class_to_idx": {11: 0, 2: 1}, "idx_to_class": {0: 11, 1: 2}, "classes": [11, 2]}

    assert ClassMapping.from_dict(value).classes == ("11", "2")


@pytest.mark.parametrize(
    "changed",
    [
        {"class_to_idx": {"1": 1, "11": 0}},
        {"class_to_idx": {"1": 0}},
        {"class_to_idx": {"1": 0, "11": 2}},
        {"class_to_idx": {"1": 0, "11": "one"}},
        {"class_to_idx": {"1": 0, "11": float("inf")}},
        {"class_to_idx": None},
        {"idx_to_class": {"0": "11", "1": "1"}},
        {"idx_to_class": {"0": "1"}},
        {"idx_to_class": []},
        {"classes": ["11", "1"]},
        {"classes": ["1", "11", "11"]},
        {"classes": []},
        {"classes": 2},
        {"classes": ["1", "eleven"], "class_to_idx": {"1": 0, "eleven": 1}},
        {"classes": ["1", "9" * 5000], "class_to_idx": {"1": 0, "9" * 5000: 1}},
    ],
)
def test_a_mapping_that_contradicts_itself_is_refused(changed: dict[str, Any]) -> None:
    value = {"class_to_idx": {"1": 0, "11": 1}, "idx_to_class": {"0": "1", "1": "11"}, "classes": ["1", "11"]}

    with pytest.raises(LabelError, match=r'class mapping: expected {"class_to_idx": .* in agreement, got {'):
        ClassMapping.from_dict({**value, **changed})


@pytest.mark.parametrize("value", [None, [], "1", {}, {"classes": ["1"]}, {"idx_to_class": {"0": "1"}}])
def test_a_value_that_is_not_a_mapping_is_refused(value: Any) -> None:
    with pytest.raises(LabelError, match="class mapping: expected"):
        ClassMapping.from_dict(value)
