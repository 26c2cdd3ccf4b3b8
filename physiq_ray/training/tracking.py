"""A copy of a run's epochs on an MLflow server, with `physiq-ray[mlflow]` and the setting `mlflow`."""

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from physiq_ray.errors import SettingError, TrainingError
from physiq_ray.training.events import EpochDone, Event
from physiq_ray.training.history import SCALARS

EXPERIMENT = "physiq-ray"
# By default MLflow retries for minutes, and the epoch table would wait for it; instead, what could not be
# sent is sent with the next epoch. MLflow would also print over the table.
ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def require_tracking(address: str | None) -> None:
    """Raise SettingError if a tracking server is set and MLflow is not installed."""
    if address is not None and importlib.util.find_spec("mlflow") is None:
        raise SettingError(f"mlflow={address}: MLflow is not installed; pip install 'physiq-ray[mlflow]'")


@contextmanager
def tracked(
    address: str | None, run_name: str, params: Mapping[str, Any], note: Callable[[str], None]
) -> Iterator[list[Callable[[Event], None]]]:
    """Create or resume the MLflow run of this name; give its event handler, or none without an address.

    address: MLflow's tracking URI, for example http://host:5000. params: logged once, when the run is new; a
    resumed run may have other values, which MLflow would refuse. At the end the run is FINISHED, FAILED, or,
    after Ctrl-C, KILLED.
    Raises SettingError: MLflow is not installed. TrainingError: no tracking server answers.
    """
    require_tracking(address)
    if address is None:
        yield []
        return
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    run = _TrackedRun(address, run_name, params, note)
    status = "FAILED"
    try:
        yield [run.handle]
        status = "FINISHED"
    except BaseException as error:
        if isinstance(error.__cause__ or error, (KeyboardInterrupt, SystemExit)):
            status = "KILLED"
        raise
    finally:
        run.end(status)


class _TrackedRun:
    def __init__(
        self, address: str, run_name: str, params: Mapping[str, Any], note: Callable[[str], None]
    ) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
        from mlflow.exceptions import MlflowException

        self._address, self._note = address, note
        self._metric, self._error = Metric, MlflowException
        self._waiting: list[Any] = []
        try:
            self._client = MlflowClient(tracking_uri=address)
            experiment = self._client.get_experiment_by_name(EXPERIMENT)
            experiment_id = (
                experiment.experiment_id if experiment else self._client.create_experiment(EXPERIMENT)
            )
            found = self._client.search_runs(
                [experiment_id], f"attributes.run_name = '{run_name}'", max_results=1
            )
            if found:
                self._id = found[0].info.run_id
                self._client.update_run(self._id, status="RUNNING")
            else:
                self._id = self._client.create_run(experiment_id, run_name=run_name).info.run_id
                self._client.log_batch(
                    self._id, params=[Param(name, str(value)) for name, value in params.items()]
                )
        except MlflowException as error:
            raise TrainingError(f"mlflow={address}: {error}") from error

    def handle(self, event: Event) -> None:
        """Log an epoch; if the server is briefly away, it gets the epoch with the next one."""
        if isinstance(event, EpochDone):
            epoch = event.metrics
            self._waiting += [
                self._metric(name, float(epoch[key]), int(epoch["time"] * 1000), epoch["epoch"])
                for name, key in SCALARS.items()
            ]
            self._send()

    def end(self, status: str) -> None:
        """Send what is still queued. If that fails, report it and end the run anyway."""
        self._send()
        if self._waiting:
            self._note(f"mlflow={self._address}: the last epochs could not be sent")
        try:
            self._client.set_terminated(self._id, status)
        except self._error as error:
            self._note(f"mlflow={self._address}: the run's end could not be logged: {error}")

    def _send(self) -> None:
        if not self._waiting:
            return
        try:
            self._client.log_batch(self._id, metrics=self._waiting)
        except self._error:
            return
        self._waiting = []
