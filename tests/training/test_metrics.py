"""The metrics of a run: what is exported for which event."""

import pytest

from physiq_ray.training import metrics
from physiq_ray.training.events import BatchProgress, EpochDone, Note


class Recorded:
    """In place of Ray's metrics: the values by name and tags."""

    values: dict[tuple[str, ...], float]

    def __init__(self, name, description, tag_keys):
        self.name, self.tag_keys = name, tag_keys

    def key(self, tags):
        assert set(tags) == set(self.tag_keys)
        return (self.name, *(tags[key] for key in self.tag_keys))

    def set(self, value, tags):
        self.values[self.key(tags)] = value

    def inc(self, value, tags):
        assert value > 0  # Ray refuses others
        self.values[self.key(tags)] = self.values.get(self.key(tags), 0) + value


@pytest.fixture
def values(monkeypatch):
    """Replace Ray's metrics; give their values."""
    values = {}
    monkeypatch.setattr(Recorded, "values", values, raising=False)
    monkeypatch.setattr(metrics, "Gauge", Recorded)
    monkeypatch.setattr(metrics, "Counter", Recorded)
    return values


def progress(epoch, split, rank, num_photos, *, total=100, waited_s=0.0):
    return BatchProgress(epoch, split, rank, num_photos, 1.0, 1, total, waited_s)


def test_sums_of_all_ranks_and_epochs_become_counters(values):
    with metrics.exported("spring") as handle:
        handle(progress(1, "train", 0, 10, waited_s=2.0))
        handle(progress(1, "train", 1, 15, waited_s=1.0))
        assert values["physiq_train_running", "spring"] == 1
        assert values["physiq_train_epochs", "spring"] == pytest.approx(0.25)
        handle(progress(1, "train", 0, 50, waited_s=2.5))
        handle(progress(1, "validation", 0, 8, total=8, waited_s=2.5))
        handle(progress(1, "train", 1, 50, waited_s=1.0))  # still in the training, when rank 0 validates
        assert values["physiq_train_epochs", "spring"] == 1
        handle(progress(2, "train", 0, 30, waited_s=3.0))
        handle(Note("a sentence"))
    assert values["physiq_train_photos", "spring", "train"] == 50 + 50 + 30
    assert values["physiq_train_photos", "spring", "validation"] == 8
    assert values["physiq_train_wait_seconds", "spring", "0"] == 3
    assert values["physiq_train_wait_seconds", "spring", "1"] == 1
    assert values["physiq_train_epochs", "spring"] == pytest.approx(1.3)
    assert values["physiq_train_running", "spring"] == 0


def test_a_worker_that_was_replaced_counts_from_zero_again(values):
    with metrics.exported("spring") as handle:
        handle(progress(3, "train", 0, 60, waited_s=9.0))
        handle(progress(3, "train", 0, 20, waited_s=1.0))
    assert values["physiq_train_photos", "spring", "train"] == 80
    assert values["physiq_train_wait_seconds", "spring", "0"] == 10
    assert values["physiq_train_epochs", "spring"] == pytest.approx(2.2)


def test_an_epoch_gives_loss_and_accuracy_of_both_splits(values):
    epoch = {"train_loss": 2.0, "validation_loss": 1.5, "train_accuracy": 0.25, "validation_accuracy": 0.5}
    with metrics.exported("spring") as handle:
        handle(EpochDone(epoch))
    assert values["physiq_train_loss", "spring", "train"] == 2
    assert values["physiq_train_loss", "spring", "validation"] == 1.5
    assert values["physiq_train_accuracy", "spring", "train"] == 0.25
    assert values["physiq_train_accuracy", "spring", "validation"] == 0.5


def test_gauges_are_set_again_while_no_event_arrives(values):
    run = metrics.TrainingMetrics("spring")
    run.handle(progress(1, "train", 0, 10))
    values.clear()  # as Ray does after a while
    run.refresh()
    assert values["physiq_train_running", "spring"] == 1
    assert values["physiq_train_epochs", "spring"] == pytest.approx(0.1)
