import os
from pathlib import Path

import pytest

from physiq_ray.syncing.plan import ABSENT, Found, LocalFiles, Photo, needed_bytes, plan_downloads, version_ns

MD5 = "0123456789abcdef0123456789abcdef"
MULTIPART = "0123456789abcdef0123456789abcdef-2"
SECOND = 10**9


def photo(etag: str = MD5, size: int = 10, path: str = "b/a.jpg") -> Photo:
    return Photo("s3://b/a.jpg", path, size, etag, 1_700_000_000, 0)


def decision(photo: Photo, found: Found) -> str:
    plan = plan_downloads([photo], lambda _: found)
    (name,) = (name for name, photos in vars(plan).items() if photos)
    return name


VERSION = version_ns(MD5, 1_700_000_000)
PARTS_VERSION = version_ns(MULTIPART, 1_700_000_000)


@pytest.mark.parametrize(
    ("etag", "found", "expected"),
    [
        (MD5, ABSENT, "downloads"),
        (MD5, Found("b is a link"), "refused"),
        (MD5, Found("file", 11, VERSION), "downloads"),
        (MD5, Found("file", 10, VERSION), "skips"),
        (MD5, Found("file", 10, VERSION - VERSION % 100), "skips"),
        (MD5, Found("file", 10, VERSION + 1000), "comparisons"),
        (MD5, Found("file", 10, VERSION - VERSION % SECOND), "comparisons"),
        (MULTIPART, Found("file", 10, PARTS_VERSION), "skips"),
        (MULTIPART, Found("file", 10, PARTS_VERSION - PARTS_VERSION % SECOND), "skips"),
        (MULTIPART, Found("file", 10, PARTS_VERSION - PARTS_VERSION % (2 * SECOND)), "skips"),
        (MULTIPART, Found("file", 10, VERSION), "downloads"),
        (MULTIPART, Found("file", 10, PARTS_VERSION + 60 * SECOND), "downloads"),
    ],
)
def test_the_file_in_the_folder_decides_what_is_done_with_a_photo(
    etag: str, found: Found, expected: str
) -> None:
    assert decision(photo(etag), found) == expected


def test_two_versions_of_one_second_have_different_times() -> None:
    assert version_ns(MD5, 5) // SECOND == version_ns(MULTIPART, 5) // SECOND == 5
    assert version_ns(MD5, 5) != version_ns(MULTIPART, 5)


def test_a_clash_is_refused_with_the_name_it_clashes_with() -> None:
    plan = plan_downloads([photo()], lambda _: ABSENT, {"b/a.jpg": "b/A.jpg"})
    ((_, reason),) = plan.refused
    assert "cannot distinguish its name from that of b/A.jpg" in reason


def test_photos_take_whole_blocks() -> None:
    assert needed_bytes([photo(size=1), photo(size=4096), photo(size=4097), photo(size=0)]) == 4 * 4096


def test_links_and_folders_in_the_way_are_named_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    (outside / "sub").mkdir(parents=True)
    folder = tmp_path / "photos"
    (folder / "b" / "folder.jpg").mkdir(parents=True)
    (folder / "b" / "here.jpg").write_bytes(b"123")
    os.utime(folder / "b" / "here.jpg", ns=(7, 7))
    (folder / "b" / "link.jpg").symlink_to(outside / "a.jpg")
    (folder / "b" / "sub").symlink_to(outside / "sub")
    (folder / "linked").symlink_to(outside)
    files = LocalFiles(folder)
    assert files.look("b/here.jpg") == Found("file", 3, 7)
    assert files.look("b/no.jpg") == files.look("c/d/no.jpg") == ABSENT
    assert files.look("b/link.jpg").kind == "b/link.jpg is a link, which is not followed; remove it"
    assert files.look("b/sub/x/a.jpg").kind == "b/sub is a link, which is not followed; remove it"
    assert files.look("linked/sub/a.jpg").kind == "linked is a link, which is not followed; remove it"
    assert files.look("b/folder.jpg").kind == "b/folder.jpg is a folder; move it away"
    assert (
        files.look("b/here.jpg/a.jpg").kind == "b/here.jpg is a file where a folder should be; move it away"
    )
    assert LocalFiles(tmp_path / "none").look("b/a.jpg") == ABSENT
