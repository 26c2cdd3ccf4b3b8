"""Photos predicted by models that were not trained on them, by the command where Ray takes part."""

import io
import json
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from building import POSES, build_manifest, labels_with_groups, list_bucket
from models import save_constant_model
from nodes import ENVIRONMENT, Nodes
from PIL import Image
from rich.console import Console
from running import free_ports

from physiq_ray.config import Settings
from physiq_ray.errors import DataError, SettingError
from physiq_ray.evaluation.candidates import Candidates
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.progress import Display
from physiq_ray.suspects.found import find_suspects
from physiq_ray.suspects.predicted import choose_photos, predict_by_folds


@pytest.fixture
def manifest():
    """Build the manifest of a run: six photos to train on, two to validate with, two to test."""
    splits = ["train", "train", "train", "validation", "test"]
    records = [(f"{pose}-{n}.jpg", pose, None, split) for pose in (1, 2) for n, split in enumerate(splits)]
    listing = list_bucket("checkins", *(key for key, *_ in records))
    return build_manifest([listing], labels_with_groups(*records), POSES)


def test_photos_that_the_model_was_trained_on_are_left_out_with_a_sentence(manifest):
    table, limits = choose_photos(Candidates(manifest, "", manifest))
    assert table["key"].to_pylist() == ["1-3.jpg", "1-4.jpg", "2-3.jpg", "2-4.jpg"]
    assert limits == (
        "6 photos are not ranked: the model was trained on them, and has learned their labels, wrong ones "
        "too; --folds 5 ranks all photos.",
        "2 of the ranked photos chose the epoch and the temperature of the model, so it believes their "
        "labels a little too much.",
    )


def test_training_photos_are_ranked_if_wanted_with_a_sentence(manifest):
    table, limits = choose_photos(Candidates(manifest, "", manifest), with_training_photos=True)
    assert table.num_rows == 10
    assert limits[0].startswith("The model was trained on 6 of the 10 photos. It has learned their labels, ")


def test_without_the_manifest_of_the_training_all_photos_are_ranked_with_a_sentence(manifest):
    table, limits = choose_photos(Candidates(manifest, "`s3://checkins`", None))
    assert table.num_rows == 10
    assert [sentence.partition(" the model")[0] for sentence in limits] == [
        "It is not known which of these photos"
    ]


def test_new_photos_have_no_limits(manifest):
    others = build_manifest(
        [list_bucket("others", "a.jpg", "b.jpg", "c.jpg", "d.jpg")],
        labels_with_groups(*((f"{name}.jpg", 1 + n % 2) for n, name in enumerate("abcd"))),
        POSES,
    )
    table, limits = choose_photos(Candidates(others, "`s3://others`", manifest))
    assert (table.num_rows, limits) == (4, ())


def test_a_model_that_was_trained_on_all_photos_ranks_none(manifest):
    trained = Manifest(manifest.split("train"), manifest.class_mapping)
    with pytest.raises(DataError, match=r"was trained on all 6 photos, .*; rank them with --folds 5"):
        choose_photos(Candidates(trained, "", manifest))


@pytest.fixture
def photos(tmp_path, make_photo):
    """Lay down the photos and the manifest of the run of a model that predicts pose 1 for all photos.

    Photos 0 and 1 were trained on, 2 and 3 show pose 1, 4 shows pose 2, and 5 is broken.
    """
    rows = []
    for number, (pose_id, split) in enumerate(
        [(1, "train"), (2, "train"), (1, "validation"), (1, "test"), (2, "test"), (2, "validation")]
    ):
        path = tmp_path / "photos" / f"{number} é.jpeg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(make_photo(number) if number != 5 else b"no photo")
        rows.append(
            {
                **{"uri": str(path), "bucket": str(path.parent), "key": path.name},
                **{"size": path.stat().st_size, "etag": str(number), "pose_id": pose_id},
                **{"class_index": pose_id - 1, "group": str(path), "split": split},
            }
        )
    table = pa.Table.from_pylist(rows, schema=MANIFEST_SCHEMA)
    (tmp_path / "runs" / "first").mkdir(parents=True)
    (tmp_path / "runs" / "first" / "manifest.parquet").write_bytes(
        Manifest(table, ClassMapping.of_poses([1, 2])).to_parquet()
    )
    save_constant_model(tmp_path, [3.0, 1.0], str(tmp_path / "output"))
    return tmp_path / "photos"


@pytest.mark.slow
def test_a_model_ranks_the_photos_that_it_was_not_trained_on(ray_local, run_here, photos, tmp_path):
    done = run_here("suspects")
    assert done.returncode == 1, done.stderr  # a photo is broken
    assert "3 photos ranked: 1 labels are likely wrong, those of the first 1\n" in done.stdout
    assert f"  {photos}: 1 of 3 (33.3%)\n" in done.stdout
    assert "2 photos are not ranked: the model was trained on them" in done.stdout
    assert f"physiq-ray suspects: {photos}/5 é.jpeg: not an image" in done.stderr
    records = [json.loads(line) for line in (tmp_path / "suspects/suspects.jsonl").read_text().splitlines()]
    share = 3**0.5 / (3**0.5 + 1)  # of 3 : 1 at temperature 2
    assert [(Path(record["uri"]).name, record["poseId"], record["likelyWrong"]) for record in records] == [
        ("4 é.jpeg", 2, True),
        ("2 é.jpeg", 1, False),
        ("3 é.jpeg", 1, False),
    ]
    assert records[0]["labelledProbability"] == pytest.approx(1 - share, abs=1e-3)
    assert records[0]["suggestedProbability"] == pytest.approx(share, abs=1e-3)
    with Image.open(tmp_path / "suspects" / "suspects.png") as sheet:
        assert sheet.format == "PNG"


def coloured_photo(seed, colour):
    """Draw noise around a colour: a pose that a few steps can learn."""
    pixels = np.random.default_rng(seed).normal(colour, 20, (64, 64, 3)).clip(0, 255).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def coloured(tmp_path):
    """Lay down 16 red and 16 blue photos of eight athletes, with the label of one red photo swapped."""
    records = []
    for number in range(32):
        pose_id, name = 1 + number % 2, f"athlete-{number // 4} {number}.png"
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(coloured_photo(number, (200, 60, 60) if pose_id == 1 else (60, 60, 200)))
        records.append({"poseId": 2 if number == 20 else pose_id, "key": name})
    (tmp_path / "labels.json").write_text(json.dumps(records))
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "Red"}, {"id": 2, "name": "Blue"}]')
    return {
        **{"sources": (str(tmp_path / "photos"),), "labels": (str(tmp_path / "labels.json"),)},
        **{"poses": str(tmp_path / "poses.json"), "group_pattern": r"athlete-\d+", "weights": "random"},
        **{"image_size": 64, "batch_size": 4, "epochs": 3, "learning_rate": 1e-3, "precision": "fp32"},
        **{"storage": str(tmp_path / "runs"), "run_name": "colours"},
    }


def as_flags(settings):
    """Give settings as the words of a command line."""
    for name, value in settings.items():
        yield f"--{name.replace('_', '-')}"
        yield from map(str, value if isinstance(value, tuple) else [value])


@pytest.mark.long
def test_two_folds_rank_every_photo_and_find_the_wrong_label(run_cli, coloured, tmp_path):
    done = run_cli("suspects", "--folds", "2", *as_flags(coloured), "--json", timeout=280)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["num_ranked"] == 32
    assert report["buckets"][0]["bucket"] == str(tmp_path / "photos")
    records = [json.loads(line) for line in (tmp_path / "suspects/suspects.jsonl").read_text().splitlines()]
    assert Path(records[0]["uri"]).name == "athlete-5 20.png"
    assert (records[0]["labelledPose"], records[0]["suggestedPose"]) == ("Blue", "Red")
    assert len({record["uri"] for record in records}) == 32
    folds = {}
    for record in records:
        folds.setdefault(Path(record["uri"]).name.split(" ")[0], set()).add(record["fold"])
    assert all(len(found) == 1 for found in folds.values())  # an athlete is in one fold
    assert {fold for found in folds.values() for fold in found} == {1, 2}
    for number in (1, 2):
        others = pa.parquet.read_table(tmp_path / f"runs/colours/fold-{number}-of-2/manifest.parquet")
        held_out = {record["uri"] for record in records if record["fold"] == number}
        assert held_out.isdisjoint(others["uri"].to_pylist())


@pytest.mark.long
def test_a_resumed_run_trains_only_the_folds_without_a_model(ray_local, coloured, tmp_path):
    settings, folder = Settings.model_validate(coloured | {"epochs": 1}), tmp_path / "runs" / "colours"

    def predict(given, **options):
        shown = io.StringIO()
        return predict_by_folds(
            given, 2, Display(Console(file=shown, width=200)), **options
        ), shown.getvalue()

    first, _ = predict(settings)
    kept = (folder / "fold-1-of-2" / "model" / "pose_classifier_complete.pth").stat().st_mtime_ns
    shutil.rmtree(folder / "fold-2-of-2" / "model")
    # The photos of a run and the names of its poses do not change.
    (tmp_path / "labels.json").write_text("[]")
    (tmp_path / "poses.json").unlink()

    again, shown = predict(Settings(run_name="colours", storage=str(tmp_path / "runs")), resume=True)

    assert "resumed after epoch 1" in shown
    assert "fold-1-of-2" not in shown
    assert (folder / "fold-1-of-2" / "model" / "pose_classifier_complete.pth").stat().st_mtime_ns == kept
    assert again.photos.equals(first.photos)
    assert find_suspects(again).ranked == find_suspects(first).ranked
    with pytest.raises(SettingError, match="--resume needs --run-name"):
        predict(Settings(), resume=True)


@pytest.fixture
def two_nodes(s3):
    """Start a cluster of two nodes with two CPUs each; its folder is short, because sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="physiq-") as name:
        nodes = Nodes(Path(name), *free_ports(2))
        try:
            nodes.start_head()
            nodes.add()
            yield nodes
        finally:
            nodes.stop()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_nodes_train_two_folds_at_the_same_time(two_nodes, run_cli, coloured, tmp_path):
    done = run_cli(
        *("suspects", "--folds", "2", *as_flags(coloured | {"epochs": 1})),
        env={**ENVIRONMENT, "RAY_ADDRESS": two_nodes.address},
        timeout=500,
    )
    assert done.returncode == 0, done.stderr
    assert "training 2 of 2 runs at a time\n" in done.stderr
    lines = done.stderr.splitlines()
    first_lines = [line.split("  ")[0] for line in lines if "photos to train on, 4 to validate" in line]
    assert sorted(first_lines) == ["fold-1-of-2", "fold-2-of-2"]
    ends = [number for number, line in enumerate(lines) if "  1/1 " in line]
    assert len(ends) == 2
    assert all("photos to train on" not in line for line in lines[min(ends) :])  # both had started before
    assert "32 photos ranked" in done.stdout
