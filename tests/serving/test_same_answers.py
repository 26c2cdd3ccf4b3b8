"""predict, batch predict and the service refuse the same photos, whichever score decides."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from replica import MakePhoto, Run, answer_to

from physiq_ray.checkpoint import load_model_state, save_model_files
from physiq_ray.floor import Floor, Score
from physiq_ray.prediction import Predictor
from physiq_ray.prediction.batch import predict_to_parquet

pytestmark = pytest.mark.slow

NUM_PHOTOS = 12


@pytest.fixture(scope="session")
def model_with(model_folder: str, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Score, float], str]:
    """Give a function that saves the model with a floor and returns its folder."""

    def save(score: Score, threshold: float) -> str:
        numbers = torch.Generator().manual_seed(0)
        features = torch.nn.functional.normalize(torch.rand(3, 2048, generator=numbers))
        detector = torch.rand(2049, generator=numbers) - 0.5
        floor = Floor(score, threshold, {"distance": features, "detector": detector}.get(score))
        folder = str(tmp_path_factory.mktemp("floor"))
        save_model_files(replace(load_model_state(model_folder), floor=floor), folder)
        return folder

    return save


@pytest.mark.parametrize(
    "score",
    [
        "detector",
        pytest.param("probability", marks=pytest.mark.long),
        pytest.param("energy", marks=pytest.mark.long),
        pytest.param("distance", marks=pytest.mark.long),
    ],
)
def test_all_three_refuse_the_same_photos(
    ray_local: None,
    run: Run,
    make_photo: MakePhoto,
    model_with: Callable[[Score, float], str],
    tmp_path: Path,
    score: Score,
) -> None:
    photos = {f"{number:02d}.jpeg": make_photo(number) for number in range(NUM_PHOTOS)}
    (tmp_path / "photos").mkdir()
    for name, data in photos.items():
        (tmp_path / "photos" / name).write_bytes(data)

    def predict(threshold: float) -> list[dict[str, object]]:
        predictor = Predictor(load_model_state(model_with(score, threshold)))
        return [predictor.predict(data, uri=name).to_dict() for name, data in photos.items()]

    values = sorted(answer["floor"]["value"] for answer in predict(0.0))  # type: ignore[index]
    threshold = (values[5] + values[6]) / 2
    alone = predict(threshold)
    state = load_model_state(model_with(score, threshold))
    predict_to_parquet([str(tmp_path / "photos")], state, str(tmp_path / "answers"))
    rows = sorted(pq.read_table(tmp_path / "answers").to_pylist(), key=lambda row: row["uri"])
    served = run(answer_to(*photos.values()), {"model": model_with(score, threshold), "min_confidence": None})

    refused = [answer["pose"] is None for answer in alone]
    assert sum(refused) == 6
    assert [row["pose_id"] is None for row in rows] == refused
    assert [row["pose"] is None for row in rows] == refused
    assert all(row["confidence"] > 0 for row in rows)
    assert [answer["pose"] is None for answer in served] == refused
    assert {answer["floor"]["score"] for answer in served} == {score}
    assert {answer["min_confidence"] for answer in served} == {threshold if score == "probability" else None}


@pytest.mark.parametrize("score", ["energy", "distance"])
def test_min_confidence_replaces_the_model_s_floor(
    run: Run, make_photo: MakePhoto, model_with: Callable[[Score, float], str], score: Score
) -> None:
    model = model_with(score, 1e9)
    [refused] = run(answer_to(make_photo()), {"model": model, "min_confidence": None})
    [answered] = run(answer_to(make_photo()), {"model": model, "min_confidence": 0.2})

    assert refused["pose"] is None
    assert answered["pose"] is not None
    assert answered["floor"] == {"score": "probability", "value": answered["confidence"], "threshold": 0.2}


def test_a_model_without_a_floor_needs_a_confidence_of_one_half(run: Run, make_photo: MakePhoto) -> None:
    [answer] = run(answer_to(make_photo()), {"min_confidence": None})

    assert answer["min_confidence"] == 0.5
    assert (answer["pose"] is None) == (answer["confidence"] < 0.5)
