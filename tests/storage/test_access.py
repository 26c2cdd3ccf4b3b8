"""Unsigned requests, requests that the requester pays for, and S3 servers on this machine without a proxy."""

import hashlib
import json
from http.server import BaseHTTPRequestHandler

import pytest

from physiq_ray import storage
from physiq_ray.config import Settings
from physiq_ray.errors import DeniedError
from physiq_ray.sample import LocalS3
from physiq_ray.storage import Access, follow_settings, list_sources, parse_sources, read_bytes
from physiq_ray.storage.access import is_local
from physiq_ray.storage.copies import copy_object
from physiq_ray.storage.deletion import Condition, delete_objects
from physiq_ray.storage.download import download
from physiq_ray.storage.versions import Target

PHOTO = b"photo"
ETAG = hashlib.md5(PHOTO).hexdigest()
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@pytest.fixture(autouse=True)
def default_access(s3):
    """Reset the access settings before and after each test, because they belong to the process."""
    storage.use_access(Access())
    yield
    storage.use_access(Access())
    storage.forget_clients()


@pytest.fixture
def recorder(replace_s3):
    """Start a server that answers like S3; give its list of requests: (method, path, payer, is_signed)."""
    seen = []
    listing = (
        f"<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>a.jpg</Key><Size>5</Size><ETag>"
        f'"{ETAG}"</ETag><LastModified>2025-01-01T00:00:00.000Z</LastModified></Contents></ListBucketResult>'
    ).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            payer, signed = self.headers.get("x-amz-request-payer"), "Authorization" in self.headers
            seen.append((self.command, path, payer, signed))
            body = PHOTO if self.command in ("GET", "HEAD") else b""
            if self.command == "GET" and path.count("/") == 1:
                body = listing
            if self.command == "POST":
                body = b"<DeleteResult><Deleted><Key>a.jpg</Key></Deleted></DeleteResult>"
            if self.command == "PUT":
                body = b'<CopyObjectResult><ETag>"1"</ETag></CopyObjectResult>'
            is_missing = self.command == "HEAD" and path == "/attic/a.jpg"  # checked before a copy
            self.send_response(404 if is_missing else 200)
            for name, value in (
                ("Content-Length", str(len(body))),
                ("ETag", f'"{ETAG}"'),
                ("Last-Modified", "Wed, 01 Jan 2025 00:00:00 GMT"),
            ):
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

        def log_message(self, *_):
            pass

    replace_s3(Handler)
    return seen


def send_all_requests(bucket, tmp_path):
    """Send each kind of request: list, read with both clients, download, copy and delete."""
    [listing] = list_sources(parse_sources([f"s3://{bucket}"]))
    assert listing.error is None
    read_bytes(f"s3://{bucket}/a.jpg")
    read_bytes(f"s3://{bucket}/a\tb.jpg")
    download(f"s3://{bucket}/a.jpg", tmp_path / "a.jpg", len(PHOTO))
    download(f"s3://{bucket}/large.jpg", tmp_path / "large.jpg", 2**25)
    copy_object(bucket, Target("a.jpg", ETAG, 5), "attic", "a.jpg")
    delete_objects(bucket, [Target("a.jpg", ETAG, 5)], Condition.BATCH)


@pytest.mark.slow
def test_requester_pays_applies_to_all_requests_to_the_sources_buckets_and_no_others(recorder, tmp_path):
    follow_settings(Settings(requester_pays="yes"), ["checkins"])
    send_all_requests("checkins", tmp_path)
    requests = {(method, payer) for method, path, payer, _ in recorder if path.startswith("/checkins")}
    assert requests == {("GET", "requester"), ("HEAD", "requester"), ("POST", "requester")}
    # The copy goes to another bucket, but its source is in the sources' bucket.
    assert ("PUT", "/attic/a.jpg", "requester", True) in recorder
    assert all(signed for *_, signed in recorder)
    recorder.clear()
    send_all_requests("attic", tmp_path)
    assert {payer for _, _, payer, _ in recorder} == {None}
    recorder.clear()
    follow_settings(Settings(), ["checkins"])
    send_all_requests("checkins", tmp_path)
    assert {payer for _, _, payer, _ in recorder} == {None}


@pytest.mark.slow
def test_anonymous_applies_to_all_requests_to_the_sources_buckets_and_no_others(recorder, tmp_path):
    follow_settings(Settings(anonymous="yes"), ["public"])
    send_all_requests("public", tmp_path)
    assert {signed for _, path, _, signed in recorder if path.startswith("/public")} == {False}
    assert {signed for _, path, _, signed in recorder if path.startswith("/attic")} == {True}


@pytest.fixture
def public_bucket(make_bucket, s3_direct, make_photo):
    """Make a bucket that everybody can list and read, without credentials."""
    bucket = make_bucket({f"{number}.jpeg": make_photo(seed=number) for number in range(6)})
    arn = f"arn:aws:s3:::{bucket}"
    allowed = {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"]}
    policy = {"Version": "2012-10-17", "Statement": [{**allowed, "Resource": [arn, f"{arn}/*"]}]}
    s3_direct.put_bucket_policy(Bucket=bucket, Policy=json.dumps(policy))
    return bucket


def test_public_photos_need_no_credentials(public_bucket, monkeypatch):
    for name in KEYS:
        monkeypatch.delenv(name)
    storage.forget_clients()
    [denied] = list_sources(parse_sources([f"s3://{public_bucket}"]))
    assert isinstance(denied.error, DeniedError)
    follow_settings(Settings(anonymous="yes"), [public_bucket])
    [listing] = list_sources(parse_sources([f"s3://{public_bucket}"]))
    assert listing.table.num_rows == 6
    assert len({read_bytes(uri) for uri in listing.table["uri"].to_pylist()}) == 6


def test_ray_s_processes_use_the_access_settings_that_the_photos_carry(ray_local, public_bucket):
    import ray

    from physiq_ray.ingest import StoredPhotos, open_photos
    from physiq_ray.ingest.dataset import read_task

    [listing] = list_sources(parse_sources([f"s3://{public_bucket}"]))
    follow_settings(Settings(anonymous="yes"), [public_bucket])
    photos = open_photos(listing.table, image_size=64, kind="none")
    assert photos.reader == StoredPhotos(Access(anonymous=frozenset({public_bucket})))
    # The credentials of the process are refused, so only unsigned requests can succeed.
    refused = {"env_vars": dict.fromkeys(KEYS, "refused")}
    read = ray.remote(runtime_env=refused, num_cpus=0)(read_task)
    unsigned, signed = ray.get(
        [
            read.remote(listing.table, image_size=64, reader=reader)
            for reader in (photos.reader, StoredPhotos(Access()))
        ]
    )
    assert set(unsigned["step"]) == {""}
    assert set(signed["step"]) == {"fetch"}


@pytest.mark.parametrize("command", [["audit", "--json"], ["sync", "photos"]])
def test_a_command_reads_public_photos_without_credentials(run_cli, public_bucket, tmp_path, command):
    (tmp_path / "labels.json").write_text(
        json.dumps([{"poseId": n % 2 + 1, "s3Filename": f"{n}.jpeg"} for n in range(6)])
    )
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')
    files = ("--poses", "poses.json", "--labels", "labels.json")
    no_credentials = dict.fromkeys(KEYS, "")
    arguments = (*command, "--sources", f"s3://{public_bucket}", *files)
    assert run_cli(*arguments, env=no_credentials).returncode == 1
    done = run_cli(*arguments, "--anonymous", "yes", env=no_credentials)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def dead_proxy(monkeypatch):
    """Set a proxy that does not exist: a company's proxy would not reach this machine either."""
    environment = {}
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        environment |= {name: "http://127.0.0.1:9", name.upper(): "http://127.0.0.1:9"}
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    storage.forget_clients()


@pytest.mark.slow
def test_a_server_on_this_machine_is_reached_without_the_proxy(dead_proxy, s3, monkeypatch):
    with LocalS3(start_timeout_s=20) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        storage.forget_clients()
        server.create_bucket("checkins")
        server.client().put_object(Bucket="checkins", Key="a.jpg", Body=PHOTO)
        [listing] = list_sources(parse_sources(["s3://checkins"]))
        assert listing.table["uri"].to_pylist() == ["s3://checkins/a.jpg"]
        store = storage.s3.open_store("checkins")
        assert store.get("a.jpg").bytes().to_bytes() == PHOTO  # with obstore: read_bytes could use boto3
        assert server.read_traffic("checkins").num_requests >= 3


def test_a_command_reaches_a_server_on_this_machine_without_the_proxy(dead_proxy, public_bucket, run_cli):
    done = run_cli("sync", "photos", "--sources", f"s3://{public_bucket}", timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8333", True),
        ("http://127.8.0.1", True),
        ("https://[::1]:9000", True),
        ("http://localhost:9000", True),
        ("http://s3.localhost", True),
        ("https://s3.eu-west-1.amazonaws.com", False),
        ("http://10.0.0.7:9000", False),
        ("http://localhost.example.com", False),
    ],
)
def test_loopback_addresses_and_localhost_are_local(url, expected):
    assert is_local(url) is expected
