"""Photos that must be kept are kept, for random buckets, labels and faults."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from physiq_ray import storage
from physiq_ray.cleanse import Journal, remove_photos, scan_buckets
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import PhysiqError
from physiq_ray.storage import Bucket, retry, walk
from physiq_ray.storage.s3 import s3_client

pytestmark = pytest.mark.slow

# No name resembles another, because `check` does not model photos that resemble unmatched labels.
NAMES = (
    "a.jpg",
    "b.JPG",
    "c.jpeg",
    "é.png",
    "d e.webp",
    "f.heic",
    "g.txt",
    "h",
    "i.jpg.bak",
    "%5A+.gif",
    "j\nk.jpg",
)
KEYS = tuple(f"{folder}{name}" for folder in ("", "x/", "x.jpg/") for name in NAMES)
PHOTOS = tuple(key for key in KEYS if not key.endswith((".txt", "h", ".bak")))

_examples = itertools.count()


@dataclass(frozen=True)
class Faults:
    """The faults of one example.

    kill_at: the request before or after which the process dies. cut_at: the page of the listing that does not
    say that more pages follow. refused: keys that DeleteObjects cannot delete. rewritten: a key that is
    overwritten during the deletions. labelled_late: keys that get a label after the confirmation.
    is_torn: the label file is incomplete after the confirmation.
    """

    kill_at: int | None
    is_after: bool
    cut_at: int | None
    refused: frozenset[str]
    rewritten: str | None
    labelled_late: frozenset[str]
    is_torn: bool


class Killed(BaseException):
    """Stands for SIGKILL: no code under test catches it."""


@pytest.fixture(scope="module")
def bucket(s3_direct: Any) -> str:
    s3_direct.create_bucket(Bucket="cleanse-property")
    return "cleanse-property"


@st.composite
def examples(draw: st.DrawFn) -> tuple[set[str], set[str], float, Faults, bool]:
    """Draw a bucket's keys, the labelled names, max_delete_share, faults, and whether photos are moved."""
    present = draw(st.sets(st.sampled_from(KEYS), min_size=2, max_size=20))
    some = st.sampled_from(sorted(present))
    labelled = (
        {key.rpartition("/")[2] for key in draw(st.sets(some, min_size=1))} if draw(st.booleans()) else set()
    )
    labelled |= draw(st.sets(st.sampled_from(NAMES), max_size=3))
    faults = Faults(
        kill_at=draw(st.none() | st.integers(1, 12)),
        is_after=draw(st.booleans()),
        cut_at=draw(st.sampled_from([None, None, None, 1, 2, 3])),
        refused=draw(st.frozensets(some, max_size=2)),
        rewritten=draw(st.none() | some),
        labelled_late=draw(st.frozensets(some, max_size=3)),
        is_torn=draw(st.sampled_from([False, False, False, True])),
    )
    return present, labelled, draw(st.sampled_from([1.0, 1.0, 0.5, 0.3])), faults, draw(st.booleans())


shares_fixtures = [HealthCheck.function_scoped_fixture]


@settings(max_examples=20, suppress_health_check=shares_fixtures)
@given(example=examples())
def test_only_unlabelled_unchanged_photos_are_ever_deleted(bucket, s3_direct, tmp_path, monkeypatch, example):
    check(bucket, s3_direct, tmp_path, monkeypatch, *example)


@pytest.mark.long
@settings(max_examples=200, suppress_health_check=shares_fixtures)
@given(example=examples())
def test_only_unlabelled_unchanged_photos_are_ever_deleted_in_many_cases(
    bucket, s3_direct, tmp_path, monkeypatch, example
):
    check(bucket, s3_direct, tmp_path, monkeypatch, *example)


def check(bucket, s3_direct, tmp_path, monkeypatch, present, labelled, share, faults, moves):
    monkeypatch.setattr(walk, "PAGE_KEYS", 7)
    monkeypatch.setattr(retry, "FIRST_WAIT_S", 0)
    monkeypatch.setattr(retry, "ATTEMPTS", 2)
    monkeypatch.setattr("physiq_ray.cleanse.remove.MAX_BATCH", 5)
    number = next(_examples)
    prefix = f"example-{number}/"
    attic = Bucket(bucket, f"attic-{number}/") if moves else None
    before = {key: f"{key} of old".encode() for key in present}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: put(s3_direct, bucket, prefix + key, before[key]), present))
    write_labels(tmp_path / "labels.json", labelled)
    (tmp_path / "poses.json").write_text('[{"id": 7, "name": "Back Lat Spread"}]')
    cleanse_settings = CleanseSettings(
        sources=(f"s3://{bucket}/{prefix}",),
        labels=str(tmp_path / "labels.json"),
        poses=str(tmp_path / "poses.json"),
        max_delete_share=share,
        max_unmatched_share=1.0,
        min_age_hours=0,
    )
    must_be_kept = {key for key in present if key not in PHOTOS or key.rpartition("/")[2] in labelled}

    storage.forget_clients()
    rewritten = inject(faults, bucket, prefix, s3_direct, present)
    late = {key.rpartition("/")[2] for key in faults.labelled_late}
    has_changed = []

    def change_labels(**_: Any) -> None:
        """Change the labels once, at the first request of a deletion, which is the probe's."""
        if not has_changed:
            has_changed.append(True)
            write_labels(tmp_path / "labels.json", labelled | late, is_torn=faults.is_torn)

    s3_client().meta.events.register_first("before-send.s3.DeleteObjects", change_labels)
    attempt(cleanse_settings, attic, tmp_path)
    if has_changed:
        must_be_kept |= {key for key in present if key.rpartition("/")[2] in late or faults.is_torn}
    after_faults = read_prefix(s3_direct, bucket, prefix)

    assert must_be_kept <= set(after_faults)
    for key, body in after_faults.items():
        assert body == before[key] or (key in rewritten and body == b"new")
    assert set(rewritten) <= set(after_faults)  # only the old ETag was in the plan
    if attic is not None:  # moved photos are not lost
        moved = read_prefix(s3_direct, bucket, f"{attic.prefix}{bucket}/{prefix}")
        assert all(moved[key] == before[key] for key in present - set(after_faults))

    storage.forget_clients()
    attempt(cleanse_settings, attic, tmp_path)
    at_the_end = set(read_prefix(s3_direct, bucket, prefix))
    assert must_be_kept <= at_the_end
    photos = set(after_faults) & set(PHOTOS)
    deletable = photos - must_be_kept
    may_go = bool(photos & must_be_kept) and len(deletable) <= share * len(photos)
    if attic is None or not rewritten:  # else the attic contains the old content, and both objects are kept
        assert at_the_end == (set(after_faults) - deletable if may_go else set(after_faults))


def attempt(cleanse_settings: CleanseSettings, attic: Bucket | None, folder: Path) -> None:
    number = next(_examples)
    try:
        plan = scan_buckets(cleanse_settings, now=datetime.now(UTC))
        with Journal(folder / f"journal-{number}.jsonl") as journal:
            remove_photos(plan, journal, move_to=attic)
    except (Killed, PhysiqError):
        pass


def inject(faults: Faults, bucket: str, prefix: str, direct: Any, present: set[str]) -> list[str]:
    """Inject faults into this process's client; return a list, to which overwritten keys are appended."""
    events = s3_client().meta.events
    requests = itertools.count(1)
    pages = itertools.count(1)
    dead: list[bool] = []
    rewritten: list[str] = []

    def before(**_: Any) -> None:
        if dead or (faults.kill_at == next(requests) and not faults.is_after):
            dead.append(True)
            raise Killed

    def after(**_: Any) -> None:
        if dead or (faults.is_after and faults.kill_at is not None and next(requests) > faults.kill_at):
            dead.append(True)
            raise Killed

    def cut(response_dict: dict[str, Any], **_: Any) -> None:
        if next(pages) == faults.cut_at:
            body = response_dict["body"]
            head, tag, rest = body.partition(b"<IsTruncated>")
            response_dict["body"] = head + rest.partition(b"</IsTruncated>")[2] if tag else body

    def request_fewer(params: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        objects = params["Delete"]["Objects"]
        wanted = [item for item in objects if item["Key"].removeprefix(prefix) not in faults.refused]
        if wanted:
            params["Delete"] = {"Objects": wanted}
            context["refused"] = [item["Key"] for item in objects if item not in wanted]

    def refuse(parsed: dict[str, Any], context: dict[str, Any], **_: Any) -> None:
        parsed.setdefault("Errors", []).extend(
            {"Key": key, "Code": "InternalError", "Message": ""} for key in context.get("refused", ())
        )

    def rewrite(**_: Any) -> None:
        if faults.rewritten in present and not dead:
            key = prefix + str(faults.rewritten)
            # Only an existing photo: a deleted photo would become a new one, which `check` does not model.
            if direct.list_objects_v2(Bucket=bucket, Prefix=key).get("Contents"):
                put(direct, bucket, key, b"new")
                rewritten.append(str(faults.rewritten))

    events.register("before-send.s3", before)
    events.register("after-call.s3", after)
    events.register_first("before-parse.*.ListObjectsV2", cut)
    events.register("provide-client-params.s3.DeleteObjects", request_fewer)
    events.register("after-call.s3.DeleteObjects", refuse)
    events.register("before-send.s3.DeleteObjects", rewrite)
    return rewritten


def write_labels(path: Path, names: set[str], *, is_torn: bool = False) -> None:
    text = json.dumps([{"poseId": 7, "s3Filename": name} for name in (*names, "of-elsewhere.jpg")])
    path.write_text(text[:-5] if is_torn else text)


def put(client: Any, bucket: str, key: str, body: bytes) -> None:
    client.put_object(Bucket=bucket, Key=key, Body=body)


def read_prefix(client: Any, bucket: str, prefix: str) -> dict[str, bytes]:
    """Read a prefix of the bucket, without a probe that a killed process left there."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
    keys = [item["Key"] for page in pages for item in page.get("Contents", ())]
    return {
        key.removeprefix(prefix): client.get_object(Bucket=bucket, Key=key)["Body"].read()
        for key in keys
        if ".physiq-ray-probe-" not in key
    }
