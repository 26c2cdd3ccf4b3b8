"""The run in MLflow: its real client on its file store, which needs no server."""

import time

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from physiq_ray.errors import SettingError, TrainingError
from physiq_ray.training import tracking
from physiq_ray.training.events import EpochDone
from physiq_ray.training.fit import InterruptedRunError

NO_SERVER = "http://127.0.0.1:9"


@pytest.fixture
def address(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return f"file:{tmp_path}/mlruns"


def epoch(number):
    names = ("train_loss", "validation_loss", "train_accuracy", "validation_accuracy", "learning_rate")
    return {"epoch": number, "seconds": 2.0, "time": 1e9 + number} | dict.fromkeys(names, number / 8)


def follow(address, *, epochs=(), params=None, notes=None, ends_with=None):
    """Track the run "first" through some epochs to its end."""
    note = (notes if notes is not None else []).append
    with tracking.tracked(address, "first", params or {}, note) as handlers:
        for number in epochs:
            for handle in handlers:
                handle(EpochDone(epoch(number)))
        if ends_with is not None:
            raise ends_with


def logged(address):
    """Give the only run there is, and its validation losses as (epoch, value, ms)."""
    client = MlflowClient(tracking_uri=address)
    experiment = client.get_experiment_by_name("physiq-ray")
    (run,) = client.search_runs([experiment.experiment_id])
    losses = client.get_metric_history(run.info.run_id, "loss/validation")
    return run, [(metric.step, metric.value, metric.timestamp) for metric in losses]


def test_epochs_and_settings_are_logged(address):
    follow(address, epochs=(1, 2), params={"epochs": 2, "sources": ["s3://poses"]})

    run, losses = logged(address)
    assert losses == [(1, 0.125, 1_000_000_001_000), (2, 0.25, 1_000_000_002_000)]
    assert run.info.run_name == "first"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "2", "sources": "['s3://poses']"}
    assert set(run.data.metrics) == set(tracking.SCALARS)


def test_a_resumed_run_is_logged_in_the_same_mlflow_run(address):
    stopped = InterruptedRunError("interrupted")
    stopped.__cause__ = KeyboardInterrupt()
    with pytest.raises(InterruptedRunError):
        follow(address, epochs=(1,), params={"epochs": 1}, ends_with=stopped)
    assert logged(address)[0].info.status == "KILLED"

    with tracking.tracked(address, "first", {"epochs": 2}, print):
        assert logged(address)[0].info.status == "RUNNING"
    follow(address, epochs=(2,), params={"epochs": 2})  # MLflow refuses another value of a parameter

    run, losses = logged(address)
    assert [step for step, _, _ in losses] == [1, 2]
    assert run.info.status == "FINISHED"
    assert run.data.params == {"epochs": "1"}


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt(), "KILLED"), (TrainingError("no GPU"), "FAILED")]
)
def test_a_run_that_ends_early_is_logged_as_killed_or_failed(address, error, status):
    with pytest.raises(type(error)):
        follow(address, ends_with=error)

    assert logged(address)[0].info.status == status


def test_an_epoch_that_could_not_be_sent_is_sent_with_the_next(address, monkeypatch):
    log_batch, failures = MlflowClient.log_batch, iter([MlflowException("away")])

    def log(client, run_id, metrics=(), params=()):
        if metrics and (failure := next(failures, None)):
            raise failure
        log_batch(client, run_id, metrics=metrics, params=params)

    monkeypatch.setattr(MlflowClient, "log_batch", log)

    follow(address, epochs=(1, 2))

    assert [step for step, _, _ in logged(address)[1]] == [1, 2]


def test_an_unreachable_server_at_the_end_is_reported_and_does_not_fail_the_run(address, monkeypatch):
    def fail(*args, **kwargs):
        raise MlflowException("gone")

    notes = []
    monkeypatch.setattr(MlflowClient, "set_terminated", fail)

    follow(address, epochs=(1,), notes=notes)

    assert notes == [f"mlflow={address}: the run's end could not be logged: gone"]


def test_epochs_that_were_never_sent_are_reported(address, monkeypatch):
    log_batch = MlflowClient.log_batch

    def log_only_params(client, run_id, metrics=(), params=()):
        if metrics:
            raise MlflowException("gone")
        log_batch(client, run_id, metrics=metrics, params=params)

    notes = []
    monkeypatch.setattr(MlflowClient, "log_batch", log_only_params)

    follow(address, epochs=(1, 2), notes=notes)

    assert notes == [f"mlflow={address}: the last epochs could not be sent"]


def test_a_server_that_does_not_respond_is_an_error_before_the_training():
    started_s = time.monotonic()

    with pytest.raises(TrainingError, match=f"mlflow={NO_SERVER}: .*(refused|retries)"):
        follow(NO_SERVER)

    assert time.monotonic() - started_s < 30


def test_the_error_without_mlflow_names_the_package_to_install(monkeypatch):
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda name: None)

    with pytest.raises(SettingError, match=r"pip install 'physiq-ray\[mlflow\]'"):
        follow(NO_SERVER)


def test_without_an_address_nothing_is_tracked():
    with tracking.tracked(None, "first", {}, print) as handlers:
        assert handlers == []
