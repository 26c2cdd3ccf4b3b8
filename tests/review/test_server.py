"""The requests of the page in a real process, and those of clients that must not be answered."""

import io
import json
import re
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from reviewing import POSES, Page, labels_in, lines_of, running_review

from physiq_ray.cli import main

TOKEN = "of-the-coaches-only"
NAMES = ("1.jpg", "2.jpg", "3.jpg")
JSON = {"Content-Type": "application/json"}

pytestmark = pytest.mark.slow


def save_photo(path: Path) -> None:
    """Save a photo that is stored sideways, with its place and camera in EXIF data."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", (1200, 900), "red")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    image.save(path, "JPEG", exif=exif)


def row_of(page: Page, name: str, **options: Any) -> int:
    [item] = page.get(f"/search?q={name}", **options).json()["items"]
    return int(item["row"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("review")
    for name in NAMES:
        save_photo(folder / "photos" / name)
    (folder / "photos/broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    poses = ",".join(f'{{"id": {key}, "name": "{name}"}}' for key, name in POSES.items())
    (folder / "poses.json").write_text(f"[{poses}]")
    (folder / "secret.txt").write_text("secret")
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Iterator[Page]:
    with running_review(folder, "--sources", "photos", "--journal", "open.jsonl") as page:
        yield page


@pytest.fixture(scope="module")
def closed(folder: Path) -> Iterator[Page]:
    """Give a review that listens on all networks, and so requires a token."""
    (folder / "tokens.txt").write_text(f"{TOKEN}\n")
    flags = ("--sources", "photos", "--journal", "closed.jsonl", "--host", "0.0.0.0")
    with running_review(folder, *flags, "--tokens", "tokens.txt") as page:
        yield page


def test_a_photo_is_upright_and_has_no_exif_data(page: Page) -> None:
    row = row_of(page, "1.jpg")
    answer = page.get(f"/photo/{row}")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert b"SecretCamera" not in answer.content
    assert b"Exif" not in answer.content
    image = Image.open(io.BytesIO(answer.content))
    assert image.size == (800, 1067)
    assert Image.open(io.BytesIO(page.get(f"/photo/{row}?zoom=1").content)).size == (900, 1200)


def test_a_decision_is_in_the_journal_when_it_is_answered(page: Page, folder: Path) -> None:
    row = page.get("/queue").json()["items"][1]["row"]
    answer = page.post("/decide", {"row": row, "pose": 7})

    assert answer.json()["decided"] == {"pose": 7}
    assert lines_of(folder / "open.jsonl")[-1]["poseId"] == 7
    assert page.post("/undo", {}).json()["decided"] is None


def test_the_progress_names_the_poses_that_audit_reports(page: Page) -> None:
    poses = page.get("/progress").json()["poses"]

    assert [(pose["id"], pose["thin"]) for pose in poses] == [
        *((1, "pose 1 Front Lat Spread"), (5, "pose 5 Back Double Biceps"), (7, "pose 7 Back Lat Spread"))
    ]


def test_a_damaged_photo_is_an_error_with_its_reason(page: Page) -> None:
    answer = page.get(f"/photo/{row_of(page, 'broken.jpg')}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unreadable")


def test_every_response_has_the_security_headers(page: Page) -> None:
    for path in ("/", "/page.js", "/queue", "/photo/0", "/nothing", "/queue?from=x"):
        headers = page.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"], path
        assert "unsafe-inline" not in headers["content-security-policy"], path
        assert headers["x-content-type-options"] == "nosniff", path
        assert headers["cross-origin-resource-policy"] == "same-origin", path
        assert headers["cache-control"] == "no-store", path
        assert "server" not in headers, path


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "", "10.0.0.1", "[", "127.0.0.1@x"]
)
def test_on_loopback_another_host_is_refused_against_dns_rebinding(page: Page, host: str) -> None:
    answer = page.get("/queue", headers={"Host": host})

    assert answer.status_code in (400, 403)
    assert "items" not in answer.text


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:1"])
def test_a_page_of_another_origin_is_refused(page: Page, origin: str) -> None:
    answer = page.post("/decide", {"row": 0, "pose": 7}, headers={"Origin": origin})

    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "wrong_origin")


@pytest.mark.parametrize(
    ("headers", "body", "status"),
    [
        ({"Content-Type": "text/plain"}, b'{"row": 0, "pose": 7}', 415),
        (JSON, b"{", 400),
        (JSON, b"[" * 4000, 400),
        (JSON, b"[]", 400),
        (JSON, b'{"row": "0", "pose": 7}', 400),
        (JSON, b'{"row": true, "pose": 7}', 400),
        (JSON, b'{"row": 0}', 400),
        (JSON, b'{"row": 0, "pose": "../../x"}', 400),
        (JSON, b'{"row": -1, "pose": 7}', 404),
        (JSON, b'{"row": 99999999999999999999, "pose": 7}', 404),
        (JSON, b'{"row": 0, "pose": 999}', 422),
        (JSON, b'{"row": 0, "x": "' + b"x" * 5000 + b'"}', 413),
    ],
)
def test_a_wrong_body_is_refused_and_writes_nothing(
    page: Page, folder: Path, headers: dict[str, str], body: bytes, status: int
) -> None:
    before = (folder / "open.jsonl").read_bytes()

    answer = page.post("/decide", None, data=body, headers=headers)

    assert answer.status_code == status
    assert (folder / "open.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "path",
    [
        "/../secret.txt",
        "/photo/../../secret.txt",
        "/photo/%2e%2e%2fsecret.txt",
        "/photo/..%5csecret.txt",
        "//secret.txt",
        "/page/page.html",
        "/run.py",
        "/photo/-1",
        "/photo/4",
        "/photo/1e3",
        "/photo/99999999999999999999",
        "/photo/0/../0\0",
        "/queue?from=-1",
        "/queue?from=99999999999999",
        "/search?q=%00",
    ],
)
def test_a_path_trick_gives_no_file_and_no_fault(page: Page, path: str) -> None:
    with socket.create_connection(("127.0.0.1", int(page.url.rpartition(":")[2])), timeout=10) as client:
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        response = b""
        while block := client.recv(65536):
            response += block

    assert b"secret" not in response.partition(b"\r\n\r\n")[2]
    assert response[9:12] in (b"400", b"404", b"200")
    assert response[9:12] != b"200" or b'{"items":[]}' in response


@pytest.mark.parametrize("review", ["", "0123456789abcdef"])
def test_a_page_of_an_earlier_start_cannot_label_photos_by_numbers_that_changed(
    page: Page, folder: Path, review: str
) -> None:
    before = (folder / "open.jsonl").read_bytes()

    answers = [
        page.post("/decide", {"row": 0, "pose": 7}, headers={"X-Review": review}),
        page.post("/undo", {}, headers={"X-Review": review}),
        page.get("/photo/0", headers={"X-Review": review}),
        page.get("/queue", headers={"X-Review": review}),
    ]

    assert [answer.json()["error"]["code"] for answer in answers] == ["restarted"] * 4
    assert (folder / "open.jsonl").read_bytes() == before


def test_large_headers_are_refused(page: Page) -> None:
    assert page.get("/queue", headers={"X-Filler": "x" * 40_000}).status_code in (400, 431)


@pytest.mark.parametrize("path", ["/session", "/queue", "/photo/0", "/search?q=1", "/progress"])
@pytest.mark.parametrize(
    "value", [None, "", "Bearer", "Bearer wrong", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN}x"]
)
def test_off_loopback_nothing_but_the_page_is_given_without_the_token(
    closed: Page, path: str, value: str | None
) -> None:
    answer = closed.get(path, headers={} if value is None else {"Authorization": value})

    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert set(answer.json()) == {"error"}


def test_off_loopback_the_token_opens_the_review(closed: Page) -> None:
    headers = {"Authorization": f"Bearer {TOKEN}"}

    row = row_of(closed, "1.jpg", headers=headers)
    assert closed.get(f"/photo/{row}", headers=headers).status_code == 200
    assert closed.post("/decide", {"row": 0, "pose": 7}).status_code == 401
    assert closed.post("/decide", {"row": 0, "pose": 7}, headers=headers).status_code == 200
    for path in ("/", "/page.css", "/page.js"):
        assert closed.get(path).status_code == 200


def test_a_review_without_a_decision_leaves_no_file(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "poses.json").write_text((folder / "poses.json").read_text())
    with running_review(tmp_path, "--sources", folder / "photos") as page:
        assert len(list(tmp_path.glob("review-*.jsonl"))) == 1

    assert page.process.returncode == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["poses.json", "review.log"]


def test_off_loopback_a_token_is_required_at_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    assert main(["review", "--sources", "photos", "--host", "0.0.0.0"]) == 2
    assert "give --tokens FILE" in capsys.readouterr().err


def test_a_port_in_use_is_named(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    port = page.url.rpartition(":")[2]

    assert main(["review", "--sources", "photos", "--port", port]) == 1
    assert f"--port {port}: cannot be listened on" in capsys.readouterr().err


def test_with_merge_the_label_file_follows_each_decision_and_undo(folder: Path) -> None:
    flags = ("--sources", "photos", "--journal", "merged.jsonl", "--journals", "empty", "--merge")
    with running_review(folder, *flags) as page:
        for name, pose in (("1.jpg", 7), ("2.jpg", 5), ("3.jpg", None)):
            page.post("/decide", {"row": row_of(page, name), "pose": pose})
        page.post("/undo", {})

    assert page.process.returncode == 0
    assert labels_in(folder / "labels.json") == {"1.jpg": 7, "2.jpg": 5}


@pytest.mark.long
def test_two_reviews_at_once_on_one_label_file_lose_nothing(tmp_path: Path) -> None:
    for number in range(40):
        save_photo(tmp_path / f"photos/{number}.jpg")
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 7, "name": "Seven"}]')

    def work(page: Page, first_pose: int) -> None:
        for item in page.get("/queue?count=50").json()["items"]:
            number = int(item["key"].removesuffix(".jpg"))
            pose = first_pose if number < 10 else 7
            assert page.post("/decide", {"row": item["row"], "pose": pose}).status_code == 200

    flags = ("--sources", "photos", "--merge")
    with (
        running_review(tmp_path, *flags, "--journal", "a.jsonl") as one,
        running_review(tmp_path, *flags, "--journal", "b.jsonl") as two,
        ThreadPoolExecutor(2) as threads,
    ):
        list(threads.map(work, (one, two), (1, 7)))

    labels = json.loads((tmp_path / "labels.json").read_text())
    assert len(labels) == 40
    journals = [lines_of(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    assert [len(lines) for lines in journals] == [40, 40]
    for name, pose in labels_in(tmp_path / "labels.json").items():
        assert pose == 7 or int(name.removesuffix(".jpg")) < 10
    # Somebody's pose stands for the ten photos, and the other one was told.
    assert (tmp_path / "review.log").read_text().count("\n") >= 4
    assert sorted((one.process.returncode, two.process.returncode)) in ([0, 1], [1, 1])


@pytest.mark.long
def test_of_100_000_photos_the_first_is_shown_in_2_s_and_memory_stays_flat(tmp_path: Path) -> None:
    for number in range(100_000):
        target = tmp_path / f"photos/{number % 500:03d}/{number:06d}.jpg"
        if number % 20_000 == 0:  # ext4 allows 65,000 links to a file
            source = tmp_path / f"photos/{number}.jpg"
            save_photo(source)
        target.parent.mkdir(exist_ok=True)
        target.hardlink_to(source)
    labels = [{"poseId": 7, "s3Filename": f"{number:06d}.jpg"} for number in range(20_000)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 7, "name": "Seven"}]')

    with running_review(tmp_path, "--sources", "photos", "--order", "spread") as page:
        start_s = time.monotonic()
        [first] = page.get("/queue?count=1").json()["items"]
        assert page.get(f"/photo/{first['row']}").status_code == 200
        assert time.monotonic() - start_s < 2
        log = (tmp_path / "review.log").read_text()
        assert float(re.search(r"prepared in (.*) s", log)[1]) < 2  # type: ignore[index]
        process = psutil.Process(page.process.pid)

        def label(start: int, count: int) -> int:
            for item in page.get(f"/queue?from={start}&count={count}").json()["items"]:
                assert page.get(f"/photo/{item['row']}").status_code == 200
                assert page.post("/decide", {"row": item["row"], "pose": 7}).status_code == 200
            return process.memory_info().rss

        before = label(0, 50)
        for start in range(50, 500, 50):
            after = label(start, 50)
        assert after - before < 80 * 2**20
        assert page.get("/search?q=099999").json()["items"][0]["key"] == "499/099999.jpg"
