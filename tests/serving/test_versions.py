"""Which version of a model file the replicas use, decided without Serve."""

import asyncio
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from running import MakeModel

from physiq_ray.config import ServingSettings
from physiq_ray.serving import versions
from physiq_ray.serving.service import Service
from physiq_ray.serving.versions import DeployedVersions, OtherVersionError

MESSAGE = (
    "model s3://models/poses: its file was replaced since the deployment (version aaa → bbb); deploy again "
    "to load it on all replicas, or put the previous file back"
)


class Serve:
    """The state that Serve reports: the last deployment of an application, and how many replicas run."""

    def __init__(self) -> None:
        self.app_name, self.deployment = "physiq_ray", "PoseService"
        self.last_deployed_time_s, self.replica_states = 1.0, {"RUNNING": 0, "STARTING": 1}

    def get_replica_context(self) -> "Serve":
        return self

    def status(self) -> "Serve":
        return self

    @property
    def applications(self) -> dict[str, "Serve"]:
        return {self.app_name: self}

    @property
    def deployments(self) -> dict[str, "Serve"]:
        return {self.deployment: self}


class Store:
    """Ray's key-value store, in memory."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    def _internal_kv_put(self, key: bytes, value: bytes, *, overwrite: bool, namespace: bytes) -> bool:
        is_there = key in self.values
        if overwrite or not is_there:
            self.values[key] = value
        return is_there

    def _internal_kv_get(self, key: bytes, *, namespace: bytes) -> bytes | None:
        return self.values.get(key)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Serve:
    """Replace Serve by one whose state a test sets."""
    serve = Serve()
    monkeypatch.setattr(versions, "serve", serve)
    monkeypatch.setattr(versions, "internal_kv", Store())
    return serve


def test_a_replica_that_finds_another_version_than_the_others_does_not_start(serve: Serve) -> None:
    first, second = DeployedVersions("build"), DeployedVersions("build")
    first.fix("s3://models/poses", "aaa")
    serve.replica_states = {"RUNNING": 1, "STARTING": 1}
    with pytest.raises(OtherVersionError) as caught:
        second.fix("s3://models/poses", "bbb")
    assert str(caught.value) == MESSAGE
    second.fix("s3://models/poses", "aaa")  # put back
    second.fix("s3://models/another", "bbb")
    assert str(pickle.loads(pickle.dumps(caught.value))) == MESSAGE


def test_a_running_replica_does_not_count_itself_among_the_others(serve: Serve) -> None:
    alone = DeployedVersions("build")
    alone.fix("s3://models/poses", "aaa")
    alone.is_running, serve.replica_states = True, {"RUNNING": 1}
    alone.fix("s3://models/poses", "bbb")  # there is no other replica
    serve.replica_states = {"RUNNING": 1, "UPDATING": 1}
    with pytest.raises(OtherVersionError, match=r"version bbb → ccc"):
        alone.fix("s3://models/poses", "ccc")


def test_if_no_replica_runs_the_version_found_becomes_the_fixed_one(serve: Serve) -> None:
    DeployedVersions("build").fix("s3://models/poses", "aaa")
    DeployedVersions("build").fix("s3://models/poses", "bbb")
    serve.replica_states = {"RUNNING": 1, "STARTING": 1}
    with pytest.raises(OtherVersionError, match=r"version bbb → aaa"):
        DeployedVersions("build").fix("s3://models/poses", "aaa")


def test_each_deployment_and_each_build_fixes_the_versions_again(serve: Serve) -> None:
    replica = DeployedVersions("build")
    replica.fix("s3://models/poses", "aaa")
    serve.replica_states = {"RUNNING": 2}
    assert not replica.is_new()
    serve.last_deployed_time_s = 2.0
    assert replica.is_new()
    assert not replica.is_new()
    replica.fix("s3://models/poses", "bbb")
    DeployedVersions("another build").fix("s3://models/poses", "ccc")


def test_the_first_verdict_on_a_model_counts_for_all_replicas_of_a_deployment(serve: Serve) -> None:
    first, second = DeployedVersions("build"), DeployedVersions("build")
    assert second.verdict_on("bbb") is None
    assert first.agree("bbb", "worse: 90 % → 80 %") == "worse: 90 % → 80 %"
    assert second.agree("bbb", "") == "worse: 90 % → 80 %"
    assert second.verdict_on("bbb") == "worse: 90 % → 80 %"
    assert (second.agree("ccc", ""), first.verdict_on("ccc")) == ("", "")
    first.fix("bbb", "ddd")  # the name of a file is no version
    assert first.verdict_on("ddd") is None

    serve.last_deployed_time_s = 2.0
    assert first.verdict_on("bbb") is None


class AnyMetrics:
    """Accepts all metrics of a service."""

    def __getattr__(self, _name: str) -> Callable[..., None]:
        return lambda *_args, **_named: None


class Fixed:
    """Accepts the given versions, or all if none is given."""

    def __init__(self, *accepted: str) -> None:
        self.accepted = accepted

    def fix(self, address: str, version: str) -> None:
        if self.accepted and version not in self.accepted:
            raise OtherVersionError(f"model {address}: {version}")


def serve_once(act: Callable[[Service], Any], fixed: Fixed, **settings: Any) -> Any:
    """Start a service, pass it to `act`, and close it."""

    async def all_of_it() -> Any:
        built_with = ServingSettings(max_batch_size=1, cpus_per_replica=1, **settings)
        service = Service(built_with, AnyMetrics(), fixed)  # type: ignore[arg-type]
        try:
            await service.models.start({})
            return await act(service)
        finally:
            service.close()

    return asyncio.run(all_of_it())


async def changed(service: Service, live: dict[str, Any]) -> tuple[str, str | None]:
    """Change the models; give the version that answers and why the change was refused."""
    await service.models.change(live)
    return service.models.current.main.state.version, service.models.refused


@pytest.fixture
def replaced(tmp_path: Path, make_model: MakeModel) -> tuple[str, Callable[[], object]]:
    """Give a model's folder and a function that replaces its file."""
    shutil.copytree(make_model(seed=0), tmp_path / "model")
    other = Path(make_model(seed=1), "pose_classifier_complete.pth")
    return str(tmp_path / "model"), lambda: shutil.copy(other, tmp_path / "model")


@pytest.mark.slow
def test_a_change_with_the_same_address_loads_the_replaced_file(
    replaced: tuple[str, Callable[[], object]],
) -> None:
    folder, replace = replaced

    async def act(service: Service) -> None:
        before = service.models.current.main
        await changed(service, {"min_confidence": 0.7})
        assert service.models.current.main is before  # the same file: not loaded again
        replace()
        version, refused = await changed(service, {})
        assert version != before.state.version
        assert refused is None

    serve_once(act, Fixed(), model=folder)


@pytest.mark.slow
def test_another_version_than_the_fixed_one_is_refused_by_a_change_and_by_a_start(
    replaced: tuple[str, Callable[[], object]], model_folder: str
) -> None:
    folder, replace = replaced
    fixed = Fixed()

    async def act(service: Service) -> None:
        before = service.models.current.main.state.version
        fixed.accepted = (before,)
        replace()
        version, refused = await changed(service, {})
        assert version == before
        assert refused is not None
        assert refused.startswith(f"model {folder}: ")

    serve_once(act, fixed, model=folder)
    with pytest.raises(OtherVersionError):
        serve_once(act, fixed, model=folder)
