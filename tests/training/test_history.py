import json
import struct

import pytest
from tensorboardX.proto.event_pb2 import Event

from physiq_ray.training.events import EpochDone, Resumed
from physiq_ray.training.history import HistoryFiles


def epoch(number):
    names = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "learning_rate")
    return {"epoch": number, "seconds": 2.0, "time": 1e9 + number} | dict.fromkeys(names, number / 8)


def read_scalars(path):
    """Read a TFRecord file: length, its checksum, an event, its checksum, over and over."""
    data, scalars = path.read_bytes(), []
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        event = Event.FromString(data[12 : 12 + length])
        scalars += [
            (value.tag, event.step, value.simple_value, event.wall_time) for value in event.summary.value
        ]
        data = data[16 + length :]
    return scalars


def test_a_resumed_run_leaves_one_curve_with_its_times(tmp_path):
    files = HistoryFiles(str(tmp_path), "first")
    files.handle(EpochDone(epoch(1)))
    files.handle(EpochDone(epoch(2)))
    files.handle(Resumed((epoch(1),)))  # the second epoch's checkpoint was lost
    files.handle(EpochDone(epoch(2)))

    assert json.loads((tmp_path / "history.json").read_text()) == [epoch(1), epoch(2)]
    (log,) = (tmp_path / "tensorboard").iterdir()
    scalars = read_scalars(log)
    assert log.name == "events.out.tfevents.first"
    assert [row for row in scalars if row[0] == "loss/validation"] == [
        ("loss/validation", 1, 0.125, 1e9 + 1),
        ("loss/validation", 2, 0.25, 1e9 + 2),
    ]
    assert {row[0] for row in scalars} == {
        *("loss/train", "loss/validation", "accuracy/train", "accuracy/validation"),
        *("learning_rate", "seconds"),
    }


@pytest.mark.parametrize("output", ["/dev/null/nowhere", "s3://no-such-bucket-here/model"])
def test_an_unreachable_output_does_not_stop_the_run(output, s3):
    HistoryFiles(output, "first").handle(EpochDone(epoch(1)))
