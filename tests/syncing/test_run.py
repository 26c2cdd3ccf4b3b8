"""The command `physiq-ray sync`: its output, its exit status, and the folder afterwards."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from physiq_ray import storage
from physiq_ray.config import SyncSettings
from physiq_ray.errors import SettingError, StorageError
from physiq_ray.syncing import sync

COMMAND = (sys.executable, "-m", "physiq_ray.cli")


def settings(*buckets: str, **values: Any) -> SyncSettings:
    return SyncSettings(sources=tuple(f"s3://{bucket}" for bucket in buckets), **values)


def counts(report: Any) -> list[tuple[int, int, int, int]]:
    return [(len(s.gone), s.downloaded, s.skipped, len(s.failures)) for s in report.sources]


def test_each_bucket_has_a_folder_and_a_second_run_requests_no_photo(
    run_cli: Any, s3: Any, make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    first = {f"2026/{n}.jpg": os.urandom(5000) for n in range(30)}
    bucket = make_bucket(first | {"notes.txt": b"no photo"})
    other = make_bucket({"a/x.png": b"x" * 70, "b/y.png": b"y" * 30, "c/z.png": b"z"})
    arguments = ("sync", "photos", "--sources", f"s3://{bucket}", f"s3://{other}/a", f"s3://{other}/b")

    done = run_cli(*arguments)

    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[0].startswith(f"s3://{bucket}: 30 found, 30 downloaded, 0 skipped, 0 failed, 0.1 MB in ")
    assert lines[1].startswith(f"s3://{other}/a: 1 found, 1 downloaded")
    assert lines[3].startswith("total: 32 found, 32 downloaded, 0 skipped, 0 failed")
    assert lines[3].endswith(" files/s)")
    wanted = {f"{bucket}/{key}": data for key, data in first.items()}
    wanted |= {f"{other}/a/x.png": b"x" * 70, f"{other}/b/y.png": b"y" * 30}
    assert read_folder(tmp_path / "photos") == wanted

    requests = s3.read_traffic(bucket).num_requests
    again = run_cli(*arguments)

    assert (again.returncode, again.stderr) == (0, "")
    assert again.stdout.splitlines()[0] == (
        f"s3://{bucket}: 30 found, 0 downloaded, 30 skipped, 0 failed, 0.0 MB"
    )
    assert s3.read_traffic(bucket).num_requests == requests + 1  # the listing
    assert read_folder(tmp_path / "photos") == wanted


def test_a_bucket_that_is_missing_or_denied_does_not_stop_the_others(
    run_cli: Any, start_proxy: Any, make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    bucket, closed = make_bucket({"a.jpg": b"a"}), make_bucket({"a.jpg": b"a"})
    error = b"<Error><Code>AccessDenied</Code></Error>"
    start_proxy(lambda _, path: (403, {}, error) if path.startswith(f"/{closed}") else None)
    done = run_cli("sync", "f", "--sources", "s3://not-there-at-all", f"s3://{closed}", f"s3://{bucket}")
    assert done.returncode == 1
    assert done.stdout.startswith(f"s3://{bucket}: 1 found, 1 downloaded")
    missing, denied = done.stderr.splitlines()
    assert missing.startswith("NOT COMPLETE: without s3://not-there-at-all: list s3://not-there-at-all")
    assert "NoSuchBucket" in missing
    assert denied.startswith(f"NOT COMPLETE: without s3://{closed}: list s3://{closed}: AccessDenied")
    assert read_folder(tmp_path / "f") == {f"{bucket}/a.jpg": b"a"}


def test_failed_photos_are_named_and_gone_photos_are_not_failures(
    run_cli: Any, run_here: Any, start_proxy: Any, make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({**{f"no/{n:02d}.jpg": b"x" for n in range(12)}, "gone.jpg": b"g", "ok.jpg": b"o"})

    def rule(_: str, path: str) -> Any:
        if "/no/" in path:
            return 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
        return (404, {}, b"<Error><Code>NoSuchKey</Code></Error>") if "gone" in path else None

    start_proxy(rule)
    done = run_cli("sync", "f", "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert "14 found, 1 downloaded, 0 skipped, 12 failed, 1 deleted since they were listed" in done.stdout
    lines = done.stderr.splitlines()
    assert len(lines) == 11
    assert lines[0].startswith(f"physiq-ray sync: download s3://{bucket}/no/")
    assert "AccessDenied" in lines[0]
    assert lines[10] == f"physiq-ray sync: s3://{bucket}: and 2 more failed; --json names all"
    as_json = json.loads(run_here("sync", "f", "--sources", f"s3://{bucket}", "--json").stdout)
    (source,) = as_json["sources"]
    assert sorted(failure["uri"] for failure in source["failures"]) == [
        f"s3://{bucket}/no/{n:02d}.jpg" for n in range(12)
    ]
    assert source["gone"] == [f"s3://{bucket}/gone.jpg"]
    assert (as_json["total"]["found"], as_json["total"]["failed"], as_json["total"]["skipped"]) == (14, 12, 1)
    assert read_folder(tmp_path / "f") == {f"{bucket}/ok.jpg": b"o"}


def test_a_dry_run_reports_and_writes_nothing(run_here: Any, make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({f"{n}.jpg": bytes(500_000) for n in range(3)})
    done = run_here("sync", "new/photos", "--sources", f"s3://{bucket}", "--dry-run")
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        done.stdout.splitlines()[0] == f"s3://{bucket}: 3 found, 3 to download, 0 to skip, 0 failed, 1.5 MB"
    )
    assert list(tmp_path.iterdir()) == []


def test_labelled_only_downloads_only_labelled_photos(
    run_here: Any, make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"in/a.jpg": b"a", "in/b 1.JPG": b"b"})
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "poses.json").write_text('[{"id": 1, "name": "One"}]')
    arguments = ("sync", "f", "--sources", f"s3://{bucket}", "--labelled-only")
    without = run_here(*arguments)
    assert without.returncode == 1
    assert "db_labels.json: no such labels file; give its path with --labels" in without.stderr
    (tmp_path / "mappings" / "db_labels.json").write_text(
        '[{"poseId": 1, "s3Filename": "in/b%201.jpg"}]'  # percent-encoded, as some exports write names
    )
    done = run_here(*arguments)
    assert done.returncode == 0, done.stderr
    assert f"s3://{bucket}: 2 found, 1 left out, 1 downloaded" in done.stdout
    assert read_folder(tmp_path / "f") == {f"{bucket}/in/b 1.JPG": b"b"}


def test_wrong_arguments_exit_with_status_2(run_here: Any, tmp_path: Path) -> None:
    assert run_here("sync").returncode == 2
    for arguments, message in (
        (("--sources", "here"), "here is a folder; sync downloads s3:// buckets"),
        ((), "sources: none given"),
        (
            ("--sources", "s3://bucket", "--transfers", "0"),
            "--transfers='0' (number of photos downloaded at once)",
        ),
    ):
        done = run_here("sync", "f", *arguments)
        assert done.returncode == 2
        assert message in done.stderr


def test_a_file_in_place_of_the_folder_and_an_unwritable_folder_are_refused(
    make_bucket: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"a"})
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="not a folder; give the path of one"):
        sync(settings(bucket), tmp_path / "file")
    with pytest.raises(StorageError, match=r"write .*file"):
        sync(settings(bucket), tmp_path / "file" / "sub")
    with pytest.raises(StorageError, match="write /proc/none"):
        sync(settings(bucket), Path("/proc/none"))
    with pytest.raises(SettingError, match="is a folder"):
        sync(SyncSettings(sources=(str(tmp_path),)), tmp_path / "f")


def test_the_help_ends_with_examples(run_here: Any) -> None:
    done = run_here("sync", "--help")
    assert "  physiq-ray sync photos" in done.stdout.partition("examples:")[2]
    assert "--config FILE" in done.stdout


@pytest.mark.slow
def test_a_plain_sync_imports_no_heavy_library(make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({"a.jpg": b"a"})
    code = (
        "import sys; from physiq_ray.cli import main; status = main(sys.argv[1:]);"
        "print(status, [name for name in ('ray', 'torch', 'rich', 'pyarrow', 'pandas', 'numpy') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sync", "f", "--sources", f"s3://{bucket}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("\n0 []\n"), done.stderr


def test_an_object_overwritten_by_one_of_equal_size_is_downloaded_again(
    make_bucket: Any, s3_direct: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"old", "b.jpg": b"bbb"})
    sync(settings(bucket), tmp_path)
    s3_direct.put_object(Bucket=bucket, Key="a.jpg", Body=b"new")
    assert counts(sync(settings(bucket), tmp_path)) == [(0, 1, 1, 0)]
    assert (tmp_path / bucket / "a.jpg").read_bytes() == b"new"


def test_shorter_and_longer_files_are_downloaded_again(make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({"a.jpg": b"old", "b.jpg": b"bbb"})
    sync(settings(bucket), tmp_path)
    (tmp_path / bucket / "a.jpg").write_bytes(b"ol")
    (tmp_path / bucket / "b.jpg").write_bytes(b"bbbb")
    assert counts(sync(settings(bucket), tmp_path)) == [(0, 2, 0, 0)]


def test_files_of_another_tool_are_compared_once_and_then_skipped(
    s3: Any, make_bucket: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"same", "b.jpg": b"good"})
    (tmp_path / bucket).mkdir()
    (tmp_path / bucket / "a.jpg").write_bytes(b"same")
    (tmp_path / bucket / "b.jpg").write_bytes(b"evil")
    assert counts(sync(settings(bucket), tmp_path, dry_run=True)) == [(0, 0, 1, 0)]
    (report,) = sync(settings(bucket), tmp_path).sources
    assert (report.to_download, report.downloaded, report.skipped) == (1, 1, 1)
    assert (tmp_path / bucket / "b.jpg").read_bytes() == b"good"
    requests = s3.read_traffic(bucket).num_requests
    assert counts(sync(settings(bucket), tmp_path)) == [(0, 0, 2, 0)]
    assert s3.read_traffic(bucket).num_requests == requests + 1


def test_a_file_has_the_modification_time_of_its_object(
    make_bucket: Any, s3_direct: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"a"})
    sync(settings(bucket), tmp_path)
    modified = s3_direct.head_object(Bucket=bucket, Key="a.jpg")["LastModified"].timestamp()
    assert int((tmp_path / bucket / "a.jpg").stat().st_mtime) == int(modified)


@pytest.mark.slow
def test_a_multipart_object_is_downloaded_and_then_skipped(
    make_bucket: Any, s3_direct: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"small.jpg": b"s"})
    large = tmp_path / "large.jpg"
    large.write_bytes(os.urandom(20_000_000))
    s3_direct.upload_file(str(large), bucket, "large.jpg")
    folder = tmp_path / "f"
    assert counts(sync(settings(bucket), folder)) == [(0, 2, 0, 0)]
    assert (folder / bucket / "large.jpg").read_bytes() == large.read_bytes()
    assert "-" in s3_direct.head_object(Bucket=bucket, Key="large.jpg")["ETag"]
    assert counts(sync(settings(bucket), folder)) == [(0, 0, 2, 0)]
    time_ns = (folder / bucket / "large.jpg").stat().st_mtime_ns
    os.utime(
        folder / bucket / "large.jpg", ns=(0, time_ns - time_ns % 10**9)
    )  # a file system may store whole seconds only
    assert counts(sync(settings(bucket), folder)) == [(0, 0, 2, 0)]


def test_unusual_keys_stay_inside_the_folder(
    make_bucket: Any, monkeypatch: pytest.MonkeyPatch, read_folder: Any, tmp_path: Path
) -> None:
    keys = [
        *("a.jpg", "a.jpg/b.jpg", "x/a\x01.jpg", "C:/a.jpg", "50%25.jpg", "größe.jpg"),
        "long-" + "é" * 30 + ".jpg",
    ]
    bucket = make_bucket({key: key.encode() for key in keys})
    folder = tmp_path / "f"
    monkeypatch.setattr(os, "pathconf", lambda *_: 40)
    assert counts(sync(settings(bucket), folder)) == [(0, 7, 0, 0)]
    found = read_folder(folder / bucket)
    assert sorted(found.values()) == sorted(key.encode() for key in keys)
    (cut,) = (path for path in found if path.startswith("long-"))
    assert cut.startswith("long-" + "é" * 8 + "%~")
    assert set(found) - {cut} == {
        *("a.jpg", "a%2Ejpg/b.jpg", "x/a%01.jpg", "C%3A/a.jpg", "50%2525.jpg", "größe.jpg")
    }
    assert [path.name for path in tmp_path.iterdir()] == ["f"]
    assert counts(sync(settings(bucket), folder)) == [(0, 0, 7, 0)]


def test_links_and_folders_in_the_way_are_refused_by_name(make_bucket: Any, tmp_path: Path) -> None:
    outside, folder = tmp_path / "outside", tmp_path / "f"
    outside.mkdir()
    bucket = make_bucket({"linked/a.jpg": b"a", "link.jpg": b"b", "folder.jpg": b"c", "ok.jpg": b"d"})
    (folder / bucket / "folder.jpg").mkdir(parents=True)
    (folder / bucket / "linked").symlink_to(outside)
    (folder / bucket / "link.jpg").symlink_to(outside / "link.jpg")
    report = sync(settings(bucket), folder)
    assert counts(report) == [(0, 1, 0, 3)]
    assert dict(report.sources[0].failures) == {
        f"s3://{bucket}/folder.jpg": (
            f"s3://{bucket}/folder.jpg: {bucket}/folder.jpg is a folder; move it away"
        ),
        f"s3://{bucket}/link.jpg": (
            f"s3://{bucket}/link.jpg: {bucket}/link.jpg is a link, which is not followed; remove it"
        ),
        f"s3://{bucket}/linked/a.jpg": (
            f"s3://{bucket}/linked/a.jpg: {bucket}/linked is a link, which is not followed; remove it"
        ),
    }
    assert list(outside.iterdir()) == []


def test_names_that_the_file_system_cannot_distinguish_are_refused_except_the_first(
    make_bucket: Any, monkeypatch: pytest.MonkeyPatch, read_folder: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"a.jpg": b"small", "A.jpg": b"large", "b.jpg": b"b"})
    monkeypatch.setattr("physiq_ray.syncing.run.probe_case", lambda _: False)
    report = sync(settings(bucket), tmp_path)
    assert counts(report) == [(0, 2, 0, 1)]
    ((uri, sentence),) = report.sources[0].failures
    assert uri == f"s3://{bucket}/a.jpg"
    assert f"cannot distinguish its name from that of {bucket}/A.jpg" in sentence
    assert read_folder(tmp_path) == {f"{bucket}/A.jpg": b"large", f"{bucket}/b.jpg": b"b"}


@pytest.mark.slow
def test_too_little_disk_space_is_an_error_before_anything_is_written(
    make_bucket: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bucket = make_bucket({f"{n}.jpg": b"x" for n in range(100)})
    usage = shutil.disk_usage(tmp_path)._replace(free=400_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"100 photos need 0\.4 MB, 0\.4 MB are free; make room"):
        sync(settings(bucket), tmp_path / "f")
    assert not (tmp_path / "f").exists()


@pytest.mark.slow
def test_a_full_disk_ends_the_sync_and_leaves_only_complete_files(
    make_bucket: Any, read_folder: Any, tmp_path: Path, s3: Any
) -> None:
    files = {f"{n:03d}.jpg": os.urandom(2000) for n in range(50)}
    bucket = make_bucket({**files, "big.jpg": os.urandom(300_000)})
    code = (
        "import resource, sys; from physiq_ray.cli import main;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.RLIM_INFINITY));"
        "sys.exit(main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "sync", "f", "--sources", f"s3://{bucket}", "--transfers", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        f"physiq-ray sync: write f/{bucket}/big.jpg: File too large; make room and run the same command "
        "again: it keeps the complete photos\n"
    )
    assert read_folder(tmp_path / "f") == {f"{bucket}/{key}": data for key, data in files.items()}
    assert not list((tmp_path / "f").glob(".partial-*"))


@pytest.mark.slow
@pytest.mark.parametrize("is_answering", [True, False])
def test_ctrl_c_keeps_complete_photos_and_says_how_to_continue(
    make_bucket: Any, start_proxy: Any, read_folder: Any, tmp_path: Path, is_answering: bool
) -> None:
    files = {f"{n:02d}.jpg": os.urandom(2000) for n in range(40)}
    bucket = make_bucket(files)

    def slowly(method: str, path: str) -> None:
        number = path.partition(".jpg")[0][-2:]
        if number.isdigit() and int(number) > 9:
            time.sleep(0.3 if is_answering else 30)

    start_proxy(slowly)
    command = (*COMMAND, "sync", "f", "--sources", f"s3://{bucket}", "--transfers", "4")
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not len(list((tmp_path / "f").glob("*/*.jpg"))) >= 10:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (1, "")
    assert err == (
        "physiq-ray sync: interrupted; f keeps all complete photos; run the same command again to continue\n"
    )
    found = read_folder(tmp_path / "f")
    assert 10 <= len(found) < 40
    assert all(files[path.partition("/")[2]] == data for path, data in found.items())


def test_progress_is_reported_by_bucket(make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({f"{n}.jpg": b"x" * 1000 for n in range(5)})
    seen: list[tuple[str, int, int, str]] = []
    sync(settings(bucket), tmp_path, on_progress=lambda *event: seen.append(event))
    assert seen[0] == (f"list s3://{bucket}", 5, 0, "")
    assert seen[-1] == (f"s3://{bucket}", 5, 5, "0.0 MB downloaded")


def test_downloaded_files_have_the_md5s_of_the_bucket(make_bucket: Any, tmp_path: Path) -> None:
    bucket = make_bucket({f"{n}.jpg": os.urandom(100_000) for n in range(5)})
    sync(settings(bucket), tmp_path)
    (listing,) = storage.list_sources([storage.Bucket(bucket)])
    assert listing.table is not None
    for key, etag in zip(listing.table["key"].to_pylist(), listing.table["etag"].to_pylist(), strict=True):
        assert hashlib.md5((tmp_path / bucket / key).read_bytes()).hexdigest() == etag


def test_a_refusal_of_one_photo_is_reported_with_the_message_of_s3(
    run_cli: Any, start_proxy: Any, make_bucket: Any, read_folder: Any, tmp_path: Path
) -> None:
    bucket = make_bucket({"archived.jpg": b"x", "secret.jpg": b"s", "ok.jpg": b"o"})
    key = "arn:aws:kms:eu-west-1:1:key/k"
    no_kms = f"User: u is not authorized to perform: kms:Decrypt on resource: {key} because no policy allows"
    refusals = {
        "archived": "<Error><Code>InvalidObjectState</Code><Message>cold</Message></Error>",
        "secret": f"<Error><Code>AccessDenied</Code><Message>{no_kms}</Message></Error>",
    }

    def rule(_: str, path: str) -> Any:
        found = [body.encode() for name, body in refusals.items() if name in path]
        return (403, {}, found[0]) if found else None

    start_proxy(rule)
    done = run_cli("sync", "f", "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert sorted(done.stderr.splitlines()) == [
        f"physiq-ray sync: download s3://{bucket}/archived.jpg: InvalidObjectState; the object is in an "
        "archive class (Glacier): restore it, then try again (S3: cold)",
        f"physiq-ray sync: download s3://{bucket}/secret.jpg: AccessDenied; the role or key needs "
        f"kms:Decrypt on {key}, which encrypts the object (S3: {no_kms})",
    ]
    assert read_folder(tmp_path / "f") == {f"{bucket}/ok.jpg": b"o"}
