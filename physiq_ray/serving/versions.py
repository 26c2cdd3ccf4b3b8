"""What all replicas of a deployment agree on: the version of a model file, and whether it is worse.

The version is the one that the first replica found.

A file may be replaced under its own name. Then a replica that restarts or is added would answer with another
model than the others, and nobody would notice. So the first replica that loads an address after a deployment
fixes the version (from the file's SHA-256) for all; a later replica that finds another version does not
start. Each deployment fixes the versions again, even with the same settings: then all replicas load what the
files contain at that time.

In the same way, the first verdict of `gate` on a new model counts for all replicas, those included that start
later and have no older model to compare with.

Both are stored in Ray's key-value store, in which "write unless it exists" is one step. Serve reports
when an application was last deployed. In addition, each build of the application has an id, because Serve
does not count `serve run` as a deployment of an application that runs already.
"""

import hashlib
import logging
from dataclasses import dataclass

from ray import serve
from ray.experimental import internal_kv

from physiq_ray.errors import ServingError

LOGGER = logging.getLogger("ray.serve")

NAMESPACE = b"physiq_ray.versions"
ANSWERING = ("RUNNING", "UPDATING")  # Serve's words for replicas that have a model


class OtherVersionError(ServingError):
    """The file at a model's address is not the version that the deployment uses."""


@dataclass(frozen=True)
class Deployment:
    """One deployment of an application; build: of `build_app`; deployed_s: by Serve's clock."""

    app: str
    build: str
    deployed_s: float

    def key(self, address: str) -> bytes:
        """Give the name under which the version of an address is stored."""
        text = f"{self.app}\0{self.build}\0{self.deployed_s!r}\0{address}"
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


class DeployedVersions:
    """The versions of the current deployment; called from threads, because it waits for Serve."""

    def __init__(self, build: str) -> None:
        """build: the id that `build_app` created."""
        self.is_running = False  # whether Serve counts this replica among those that run
        self._build = build
        self._seen: Deployment | None = None

    def is_new(self) -> bool:
        """Say whether there was a deployment since the last call of `is_new` or `fix`."""
        before, self._seen = self._seen, self._deployment()
        return before not in (None, self._seen)

    def fix(self, address: str, version: str) -> None:
        """Fix the version if none is fixed yet, else compare.

        If no other replica runs, the version found becomes the fixed one: otherwise no replica could answer,
        and there is none from which this one could differ.
        Raises OtherVersionError: another version is fixed, and another replica answers with it.
        """
        self._seen = self._deployment()
        key, value = self._seen.key(address), version.encode()
        if not internal_kv._internal_kv_put(key, value, overwrite=False, namespace=NAMESPACE):
            return
        fixed = (internal_kv._internal_kv_get(key, namespace=NAMESPACE) or value).decode()
        if fixed == version:
            return
        difference = describe_other(address, fixed=fixed, found=version)
        if self._others_run():
            raise OtherVersionError(difference)
        LOGGER.warning("%s; no other replica runs, so this version is used from now on", difference)
        internal_kv._internal_kv_put(key, value, overwrite=True, namespace=NAMESPACE)

    def verdict_on(self, version: str) -> str | None:
        """Give the verdict on a model that a replica of this deployment stored, None if there is none."""
        value = internal_kv._internal_kv_get(self._verdict_key(version), namespace=NAMESPACE)
        return None if value is None else value.decode()

    def agree(self, version: str, verdict: str) -> str:
        """Store the verdict on a model for all replicas of this deployment; give the one stored first."""
        key = self._verdict_key(version)
        internal_kv._internal_kv_put(key, verdict.encode(), overwrite=False, namespace=NAMESPACE)
        return (internal_kv._internal_kv_get(key, namespace=NAMESPACE) or b"").decode()

    def _verdict_key(self, version: str) -> bytes:
        return self._deployment().key(f"verdict\0{version}")

    def _deployment(self) -> Deployment:
        app = serve.get_replica_context().app_name
        return Deployment(app, self._build, serve.status().applications[app].last_deployed_time_s)

    def _others_run(self) -> bool:
        context = serve.get_replica_context()
        states = serve.status().applications[context.app_name].deployments[context.deployment].replica_states
        num_running = sum(count for state, count in states.items() if state in ANSWERING)
        return num_running > int(self.is_running)


def describe_other(address: str, *, fixed: str, found: str) -> str:
    """Say which version was found instead of which, and what to do."""
    return (
        f"model {address}: its file was replaced since the deployment (version {fixed} → {found}); deploy "
        "again to load it on all replicas, or put the previous file back"
    )
