"""Whatever a bucket holds: the person's photos are gone, and all other versions are as they were."""

import io
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from physiq_ray.cli import main

pytestmark = pytest.mark.slow

KEYS = ("17/a.jpg", "17/b c.png", "18/a.jpg", "18/é+.jpg", "117/a.jpg", "in/a.jpg", "in/a.jpg.jpg", "17.txt")
BODIES = (b"", b"1", b"2", b"3")
DELETED = None

_examples = itertools.count()


class Version(NamedTuple):
    """A version that the test wrote: its key, its content (None: a delete marker), and its id."""

    key: str
    body: bytes | None
    id: str


# What is written to one bucket, in this order: keys and contents; None deletes the key.
writes = st.lists(
    st.tuples(st.sampled_from(KEYS), st.sampled_from((*BODIES, DELETED))), min_size=1, max_size=14
)


def find_erased(versions: Sequence[Version]) -> set[Version]:
    """Say in a few words what has to go: all of 17/, and all versions with the newest content of one of them.

    A delete marker goes if nothing else of its key is left, unless the key has nothing but markers.
    """
    newest = {version.key: version.body for version in versions if version.body is not DELETED}
    contents = {body for key, body in newest.items() if key.startswith("17/") and body}
    gone = {
        version
        for version in versions
        if version.key.startswith("17/") or (version.body in contents and not version.key.endswith(".txt"))
    }
    left = {version.key for version in versions if version.body is not DELETED and version not in gone}
    had = {version.key for version in gone}
    return gone | {version for version in versions if version.key in had - left}


def check(s3_direct: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, steps: Sequence[Any]) -> None:
    bucket = f"erase-property-{next(_examples)}"
    s3_direct.create_bucket(Bucket=bucket)
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    versions = []
    for key, body in steps:
        if body is DELETED:
            answer = s3_direct.delete_object(Bucket=bucket, Key=key)
        else:
            answer = s3_direct.put_object(Bucket=bucket, Key=key, Body=body)
        versions.append(Version(key, body, answer["VersionId"]))
    erased = find_erased(versions)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{len(erased)}\n"))

    command = ["erase", "--match", "^17/", "--sources", f"s3://{bucket}", "--cache-dir", "cache", "--delete"]
    assert main(command) == 0

    answer = s3_direct.list_object_versions(Bucket=bucket)
    items = [*answer.get("Versions", ()), *answer.get("DeleteMarkers", ())]
    left = {(item["Key"], item["VersionId"]) for item in items}
    assert left == {(version.key, version.id) for version in versions if version not in erased}
    for version in set(versions) - erased:
        if version.body is not DELETED:
            found = s3_direct.get_object(Bucket=bucket, Key=version.key, VersionId=version.id)
            assert found["Body"].read() == version.body


@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=writes)
def test_only_the_person_s_versions_are_erased(s3_direct, monkeypatch, tmp_path, steps):
    check(s3_direct, monkeypatch, tmp_path, steps)


@pytest.mark.long
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=writes)
def test_only_the_person_s_versions_are_erased_in_many_cases(s3_direct, monkeypatch, tmp_path, steps):
    check(s3_direct, monkeypatch, tmp_path, steps)
