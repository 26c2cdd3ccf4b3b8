"""Drafts of labels for photos that no label names; no command treats them as labels."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from models import save_constant_model

from physiq_ray.checkpoint import load_model_state
from physiq_ray.errors import LabelError, StorageError
from physiq_ray.floor import floor_of_confidence
from physiq_ray.labels import load_labels
from physiq_ray.prediction.answer import Answer, FloorCheck, PoseProbability
from physiq_ray.prediction.drafts import Novelty, draft_labels, to_draft

RANKED = (
    PoseProbability(7, "Back", 0.7),
    PoseProbability(2, "Front", 0.25),
    PoseProbability(1, "Side", 0.05),
)


@pytest.mark.parametrize(("threshold", "pose_id"), [(0.5, 7), (0.9, None)])
def test_a_draft_has_the_answer_of_the_model_and_how_sure_it_is(
    threshold: float, pose_id: int | None
) -> None:
    answer = Answer(RANKED, "7d3d1d26144e", 1.3, FloorCheck("probability", 0.7, threshold))

    assert to_draft("s3://checkins/a.jpg", answer) == {
        "poseId": pose_id,
        "uri": "s3://checkins/a.jpg",
        "draft": True,
        "confidence": 0.7,
        "margin": 0.45,
        "model": "7d3d1d26144e",
    }


def test_a_model_of_one_pose_is_as_certain_as_it_can_be() -> None:
    assert to_draft("a.jpg", Answer(RANKED[:1], "v", 1.0, None))["margin"] == 0.7


def test_photos_are_compared_with_the_nearest_labelled_one() -> None:
    novelty = Novelty(["a", "c"])

    assert novelty.measure(["a"], torch.tensor([[3.0, 0.0]])) == [None]
    # 45° to one of two labelled photos, then 60° and 30°, then 0° to the photo of the same batch.
    assert novelty.measure(["b"], torch.tensor([[1.0, 1.0]])) == pytest.approx([1 - 2**-0.5])
    distances = novelty.measure(["c", "d", "e"], torch.tensor([[0.0, 9.0], [1.0, 3**0.5], [0.0, 1.0]]))

    assert distances[0] is None
    assert distances[1:] == pytest.approx([1 - 3**0.5 / 2, 0], abs=1e-6)


def test_without_labelled_photos_nothing_is_said_about_likeness() -> None:
    assert Novelty([]).measure(["a", "b"], torch.eye(2)) == [None, None]
    assert "unlike" not in to_draft("a.jpg", Answer(RANKED, "v", 1.0, None), None)


@pytest.fixture
def photos(tmp_path: Path, make_photo: Any) -> Path:
    """Write five photos, the last like the second, of which labels name two, and one that cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpeg").write_bytes(make_photo(1 if number == 4 else number))
    (folder / "broken.jpeg").write_bytes(b"no photo")
    records = [{"poseId": 1, "s3Filename": "1.jpeg"}, {"poseId": None, "s3Filename": "3.jpeg"}]
    (tmp_path / "labels.json").write_text(json.dumps(records))
    return folder


@pytest.mark.slow
def test_the_command_drafts_what_no_label_names_and_no_command_takes_drafts_for_labels(
    ray_local: None, run_here: Any, photos: Path, tmp_path: Path
) -> None:
    save_constant_model(tmp_path, [9.0, 1.0], str(tmp_path / "model"), floor_of_confidence(0.6))
    drafts = tmp_path / "drafts.jsonl"

    flags = ("--model", "model", "--labels", "labels.json", "--draft-labels", "drafts.jsonl")

    done = run_here("predict", "photos", *flags)

    assert done.returncode == 1, done.stderr  # a photo cannot be read
    assert done.stdout == "3 drafts, 2 photos labelled already\n  drafts.jsonl\n"
    assert "photos/broken.jpeg: " in done.stderr
    found = [json.loads(line) for line in drafts.read_text().splitlines()]
    assert [record.pop("uri") for record in found] == [str(photos / f"{name}.jpeg") for name in (0, 2, 4)]
    unlike = [record.pop("unlike") for record in found]
    assert unlike[2] == pytest.approx(0, abs=1e-3)
    assert min(unlike[:2]) > 0.01
    version = load_model_state(str(tmp_path / "model")).version
    assert (
        found
        == [
            # 9 : 1 at temperature 2 is 3 : 1.
            {"poseId": 1, "draft": True, "confidence": 0.75, "margin": 0.5, "model": version}
        ]
        * 3
    )

    refused = run_here("audit", "--sources", "photos", "--labels", "drafts.jsonl")
    assert refused.returncode == 1
    assert "drafts.jsonl: line 1: a draft of predict --draft-labels, which nobody has" in refused.stderr


def test_one_draft_among_labels_is_refused_with_its_place(tmp_path: Path) -> None:
    records = [{"poseId": 1, "uri": "a.jpg", "draft": False}, {"poseId": 1, "uri": "b.jpg", "draft": True}]
    (tmp_path / "labels.json").write_text(json.dumps(records))

    with pytest.raises(LabelError, match=r"labels\.json: record 2: a draft of predict --draft-labels, which"):
        load_labels([str(tmp_path / "labels.json")], {1: "Front"})


@pytest.mark.slow
def test_a_source_that_cannot_be_listed_is_named_and_its_photos_get_no_draft(
    s3_direct: Any, tmp_path: Path
) -> None:
    save_constant_model(tmp_path, [9.0, 1.0], str(tmp_path / "model"))
    (tmp_path / "labels.json").write_text(json.dumps([{"poseId": 1, "s3Filename": "1.jpeg"}]))

    drafts = draft_labels(
        ["s3://is-not-there"],
        load_labels([str(tmp_path / "labels.json")], {1: "Front"}),
        load_model_state(str(tmp_path / "model")),
        str(tmp_path / "drafts.jsonl"),
        source_buckets={},
    )

    assert (drafts.num_drafts, drafts.num_labelled, len(drafts.failures)) == (0, 0, 1)
    assert "is-not-there" in drafts.failures[0]
    assert (tmp_path / "drafts.jsonl").read_bytes() == b""


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    save_constant_model(tmp_path, [9.0, 1.0], str(tmp_path / "model"))
    (tmp_path / "empty").mkdir()
    (tmp_path / "labels.json").write_text(json.dumps([{"poseId": 1, "s3Filename": "1.jpeg"}]))
    labels = load_labels([str(tmp_path / "labels.json")], {1: "Front"})

    with pytest.raises(StorageError, match="drafts"):
        draft_labels(
            [str(tmp_path / "empty")],
            labels,
            load_model_state(str(tmp_path / "model")),
            str(tmp_path / "labels.json" / "drafts.jsonl"),
            source_buckets={},
        )
