import json
from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from checkpoints import save_checkpoint

from physiq_ray.config import Settings
from physiq_ray.errors import DataError, TrainingError
from physiq_ray.labels import ClassMapping
from physiq_ray.manifest import MANIFEST_SCHEMA, Manifest
from physiq_ray.quarantine import Unreadable
from physiq_ray.training.finish import finish
from physiq_ray.training.folder import RunFolder
from physiq_ray.training.measures import Divergence
from physiq_ray.training.outcome import Outcome
from physiq_ray.training.record import RunRecord

NAMES = {1: "One", 5: "Five"}
BROKEN = Unreadable("s3://b/00.jpeg", "decode", "not an image")


@pytest.fixture
def record():
    """Give a run of twelve training photos and four validation photos, of which three were skipped."""
    rows = [
        {
            **{"uri": f"s3://b/{number:02d}.jpeg", "bucket": "b", "key": f"{number:02d}.jpeg", "size": 9},
            **{"etag": "v", "pose_id": (1, 5)[number % 2], "class_index": number % 2},
            **{"group": str(number), "split": "train" if number < 12 else "validation"},
        }
        for number in range(16)
    ]
    manifest = Manifest(pa.Table.from_pylist(rows, MANIFEST_SCHEMA), ClassMapping.of_poses(NAMES))
    return RunRecord(manifest, 3, ("s3://away: no answer",), NAMES)


@pytest.fixture
def end(record, tmp_path):
    """Give a function that ends a run whose workers gave this outcome and whose result has these parts."""

    def call(outcome, **parts):
        settings = Settings(storage="runs", learning_rate=0.125)
        result = SimpleNamespace(return_value=outcome, **parts)
        return finish(settings, record, RunFolder("runs", "first"), result, str(tmp_path / "model"))

    return call


@pytest.fixture
def checkpoint(tmp_path, make_weights):
    """Give a function that saves the checkpoint of an epoch without answers, and its metrics."""

    def save(epoch, accuracy, score):
        weights = {name: value.clone() for name, value in make_weights(2).items() if name.startswith("fc.")}
        model = {name: torch.full_like(value, epoch) for name, value in weights.items()}
        nothing = {
            "rows": torch.empty(0, dtype=torch.int64),
            "labels": torch.empty(0, dtype=torch.int64),
            "logits": torch.empty(0, 2),
        }
        saved = save_checkpoint(tmp_path / f"epoch-{epoch}", epoch, model, nothing)
        values = {"epoch": epoch, "validation_accuracy": accuracy, "checkpoint_score": score}
        return saved, values

    return save


def test_the_model_files_are_those_of_the_best_epoch_and_the_history_is_of_all(end, checkpoint, tmp_path):
    saved = [checkpoint(1, 0.5, 0.4), checkpoint(2, 0.75, 0.7), checkpoint(3, 0.75, 0.6)]
    result = end(Outcome((BROKEN,)), checkpoint=saved[-1][0], best_checkpoints=saved)

    assert (result.best_epoch, result.best_accuracy, result.report) == (2, 0.75, None)
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3]
    assert result.num_used == {"train": 11, "validation": 4}
    assert (result.num_skipped, result.unreadable) == (3, (BROKEN,))
    assert result.failed_sources == ("s3://away: no answer",)
    assert result.validation_uris == tuple(f"s3://b/{number}.jpeg" for number in range(12, 16))
    output = tmp_path / "model"
    assert f"{output}/quarantine.jsonl" in result.files
    assert all((tmp_path / uri).exists() for uri in result.files)
    weights = torch.load(output / "pose_classifier.pth", weights_only=True)
    assert {float(value) for tensor in weights.values() for value in tensor.flatten()} == {2.0}
    assert json.loads((output / "class_mapping.json").read_text())["classes"] == ["1", "5"]
    assert len(json.loads((output / "history.json").read_text())) == 3


def test_too_many_unreadable_photos_write_the_quarantine_and_no_model(end, tmp_path):
    with pytest.raises(DataError, match=r"^9 of 16 photos$"):
        end(Outcome((BROKEN,), failure="9 of 16 photos"))
    assert [path.name for path in (tmp_path / "model").iterdir()] == ["quarantine.jsonl"]


def test_a_loss_that_is_not_finite_is_named_with_its_first_photos(end, tmp_path):
    with pytest.raises(TrainingError) as caught:
        end(Outcome((), divergence=Divergence(epoch=1, step=2, num_steps=3, rows=tuple(range(11, 1, -1)))))
    photos = ", ".join(f"s3://b/{number:02d}.jpeg" for number in range(11, 3, -1))
    assert str(caught.value) == (
        f"the loss of epoch 1, batch 2 of 3 is not finite, with {photos} and 2 more; lower "
        "learning_rate=0.125 or set max_gradient_norm; start again with: "
        "physiq-ray train --resume --run-name first"
    )
    assert not (tmp_path / "model").exists()


def test_all_photos_of_a_small_step_are_named(end):
    with pytest.raises(TrainingError, match=r"with s3://b/03\.jpeg, s3://b/01\.jpeg; lower"):
        end(Outcome((), divergence=Divergence(epoch=2, step=1, num_steps=1, rows=(3, 1))))


def test_a_validation_loss_that_is_not_finite_leaves_the_checkpoints_before_it(end):
    with pytest.raises(TrainingError) as caught:
        end(Outcome((), divergence=Divergence(epoch=3)))
    assert str(caught.value) == (
        "the validation loss of epoch 3 is not finite; lower learning_rate=0.125 or set max_gradient_norm; "
        "the checkpoints before it are safe, resume with: physiq-ray train --resume --run-name first"
    )
