import pyarrow as pa
import pytest
import torch

from physiq_ray.evaluation import Answers
from physiq_ray.evaluation.dimensions import MOST_GROUPS, find_dimensions, month_of


def dimensions_of(rows, brightness=None, groups=(), right=None):
    """Give name → {slice: numbers of its photos}; rows: (bucket, key, bytes) of each photo."""
    labels = torch.arange(len(rows)) % 2
    right = torch.ones(len(rows), dtype=torch.bool) if right is None else torch.tensor(right)
    answer = torch.where(right, labels, 1 - labels)
    uris = tuple(f"s3://{bucket}/{key}" for bucket, key, _ in rows)
    answers = Answers(uris, labels, torch.nn.functional.one_hot(answer, 2).float(), tuple(groups))
    columns = zip(*reversed(rows), strict=True)  # the manifest has another order than the answers
    photos = pa.table(dict(zip(("bucket", "key", "size"), map(list, columns), strict=True)))
    photos = photos.append_column("uri", pa.array(uris[::-1]))
    found = find_dimensions(answers, photos, ["Front", "Back"], brightness or {})
    return {
        item.name: {
            name: [number for number, of in enumerate(item.codes.tolist()) if of == code]
            for code, name in enumerate(item.names)
        }
        for item in found
    }


@pytest.mark.parametrize(
    ("key", "month"),
    [
        ("2024/05/17/a.jpg", "2024-05"),
        ("checkins/2024-05-17 a.jpg", "2024-05"),
        ("checkins/2024-05/a.jpg", "2024-05"),
        ("2024_12.jpg", "2024-12"),
        ("2024.12.01.jpg", "2024-12"),
        ("IMG_20231101_123456.jpg", "2023-11"),
        ("checkins/1757471824350-IMG1813.jpeg", "2025-09"),
        ("1757471824350.jpeg", "2025-09"),
        ("2024/05.jpg", None),
        ("2024/051.jpg", None),
        ("2024-13-01.jpg", None),
        ("12024-05-01.jpg", None),
        ("20241345.jpg", None),
        ("IMG-1757471824350.jpeg", None),
        ("17574718243501.jpeg", None),
        ("a.jpg", None),
    ],
)
def test_the_month_is_that_of_the_date_or_of_the_upload_in_the_key(key, month):
    assert month_of(key) == month


def test_photos_are_divided_by_what_the_manifest_knows_of_them():
    rows = [("b", "2024-05-01.jpg", 10_000), ("a", "2024-06-01.jpg", 10_000), ("b", "none.jpg", 10_000)]
    assert dimensions_of(rows) == {
        "bucket": {"a": [1], "b": [0, 2]},
        "pose": {"Front": [0, 2], "Back": [1]},
        "month": {"2024-05": [0], "2024-06": [1]},
    }


def test_sizes_are_cut_into_four_parts_of_equally_many_photos():
    sizes = [7_000, 1_000, 8_000_000, 3_000, 5_000, 2_000, 4_000, 6_000]
    found = dimensions_of([("b", f"{size}.jpg", size) for size in sizes])
    assert found["size"] == {
        "up to 2.75 kB": [1, 5],
        "2.75 kB to 4.5 kB": [3, 6],
        "4.5 kB to 6.25 kB": [4, 7],
        "over 6.25 kB": [0, 2],
    }


def test_equal_sizes_stay_together_and_equal_photos_are_not_divided():
    sizes = [1_000] * 6 + [2_000_000, 3_000_000]
    found = dimensions_of([("b", f"{number}.jpg", size) for number, size in enumerate(sizes)])
    assert [numbers for numbers in found["size"].values() if numbers] == [[0, 1, 2, 3, 4, 5], [6, 7]]
    same = dimensions_of([("b", f"{number}.jpg", 9) for number in range(8)])
    assert set(same) == {"pose"}


def test_brightness_is_a_dimension_where_it_was_measured():
    rows = [("b", f"{number}.jpg", 9) for number in range(9)]
    brightness = {f"s3://b/{number}.jpg": number / 10 for number in range(8)}
    assert dimensions_of(rows, brightness)["brightness"] == {
        "up to 18%": [0, 1],
        "18% to 35%": [2, 3],
        "35% to 52%": [4, 5],
        "over 52%": [6, 7],
    }


def test_the_groups_that_cost_the_most_right_answers_are_listed():
    groups = [f"athlete-{number // 4:02d}" for number in range(4 * (MOST_GROUPS + 5))] + ["alone"]
    right = [True] * len(groups)
    for number in (8, 9, 20, 21, 22, len(groups) - 1):
        right[number] = False
    rows = [("b", f"{number}.jpg", 9) for number in range(len(groups))]
    found = dimensions_of(rows, groups=groups, right=right)["group"]
    assert len(found) == MOST_GROUPS
    assert list(found)[:2] == ["athlete-05", "athlete-02"]
    assert found["athlete-05"] == [20, 21, 22, 23]
    assert "alone" not in found
    each_alone = dimensions_of(rows, groups=[str(number) for number in range(len(rows))], right=right)
    assert "group" not in each_alone
