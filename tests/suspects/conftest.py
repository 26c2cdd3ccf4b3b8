import numpy as np
import pyarrow as pa
import pytest

from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA
from physiq_ray.suspects.found import Predicted

NAMES = {1: "Front Lat Spread", 2: "Front Double Biceps", 7: "Back Lat Spread"}


@pytest.fixture
def predict():
    """Give a function that makes predicted photos from (uri, pose id, probabilities of poses 1, 2 and 7)."""

    def make(*photos, folds=None, **more):
        rows = [
            {
                **{"uri": uri, "bucket": uri.removeprefix("s3://").partition("/")[0], "key": "", "size": 100},
                **{"etag": uri, "pose_id": pose_id, "class_index": 0, "group": f"group of {uri}"},
                "split": "train",
            }
            for uri, pose_id, _ in photos
        ]
        return Predicted(
            photos=pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA),
            probabilities=np.array([probabilities for *_, probabilities in photos]),
            folds=np.array(folds or [0] * len(photos)),
            class_mapping=ClassMapping.of_poses([1, 2, 7]),
            pose_names=NAMES,
            **more,
        )

    return make


@pytest.fixture
def two_wrong(predict):
    """Give five photos of two buckets of which two are likely wrong, c as 1 → 2 and d as 7 → 1."""
    return predict(
        ("s3://checkins/a.jpg", 1, [0.90, 0.06, 0.04]),
        ("s3://checkins/b.jpg", 2, [0.10, 0.80, 0.10]),
        ("s3://checkins/c.jpg", 1, [0.10, 0.85, 0.05]),
        ("s3://training/d.jpg", 7, [0.70, 0.10, 0.20]),
        ("s3://training/e.jpg", 7, [0.05, 0.05, 0.90]),
        folds=[1, 1, 2, 2, 2],
        limits=("A limit.",),
        failed_sources=("s3://gone: no such bucket",),
    )
