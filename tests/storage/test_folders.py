import os
from pathlib import Path
from typing import Any

import pytest
from listings import fill, keys_of, list_one, table_of

from physiq_ray.errors import DeniedError, NotFoundError, StorageError
from physiq_ray.storage import LISTING_SCHEMA, read_bytes


def test_a_folder_is_listed_like_a_bucket(tmp_path: Path) -> None:
    fill(tmp_path, "7/a.jpg", "7/deep/b.PNG", "c.jpg", "notes.txt", "é è.jpg")

    listing = list_one(tmp_path)

    assert table_of(listing).schema == LISTING_SCHEMA
    assert keys_of(listing) == ["7/a.jpg", "7/deep/b.PNG", "c.jpg", "é è.jpg"]
    assert listing.num_others == 1
    assert set(table_of(listing)["bucket"].to_pylist()) == {str(tmp_path)}
    rows = {row["key"]: row for row in table_of(listing).to_pylist()}
    assert rows["7/deep/b.PNG"]["uri"] == f"{tmp_path}/7/deep/b.PNG"
    assert rows["7/deep/b.PNG"]["size"] == 12
    assert read_bytes(rows["é è.jpg"]["uri"]) == "é è.jpg".encode()


def test_hidden_files_and_folders_are_not_listed(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg", ".b.jpg", ".cache/c.jpg", "x/.d/e.jpg", "x/f.jpg")

    listing = list_one(tmp_path)

    assert keys_of(listing) == ["a.jpg", "x/f.jpg"]
    assert listing.num_others == 0


def test_links_to_files_are_followed_and_broken_links_are_ignored(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    (tmp_path / "b.jpg").symlink_to("a.jpg")
    (tmp_path / "c.jpg").symlink_to("gone.jpg")
    (tmp_path / "circle").symlink_to(tmp_path)

    assert keys_of(list_one(tmp_path)) == ["a.jpg", "b.jpg"]


def test_links_to_folders_are_followed_and_each_folder_is_listed_once(tmp_path: Path) -> None:
    fill(tmp_path, "elsewhere/7/x.jpg", "elsewhere/y.jpg", "elsewhere/.z/z.jpg", "photos/7/a.jpg")
    photos = tmp_path / "photos"
    (photos / "0-of-7").symlink_to("7")  # the link sorts before its target
    (photos / "7" / "back").symlink_to(photos)
    (photos / "new").symlink_to(tmp_path / "elsewhere")
    (photos / "new-2").symlink_to(tmp_path / "elsewhere" / "7")
    (tmp_path / "elsewhere" / "round").symlink_to(photos)
    (photos / ".hidden").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to(photos)

    assert keys_of(list_one(photos)) == ["7/a.jpg", "new/7/x.jpg", "new/y.jpg"]
    assert keys_of(list_one(tmp_path / "link")) == ["7/a.jpg", "new/7/x.jpg", "new/y.jpg"]


def test_a_folder_whose_status_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 300)
    assert str(list_one(long).error) == f"list {long}: File name too long"
    stat = Path.stat

    def refuse(
        path: Path, **options: Any
    ) -> os.stat_result:  # root has all permissions, so no real refusal is possible
        if path.name == "private":
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **options)

    monkeypatch.setattr(Path, "stat", refuse)
    error = list_one(tmp_path / "private").error

    assert type(error) is DeniedError
    assert str(error) == f"list {tmp_path}/private: Permission denied"


def test_an_empty_folder_gives_an_empty_table_and_no_error(tmp_path: Path) -> None:
    listing = list_one(tmp_path)

    assert listing.error is None
    assert table_of(listing).schema == LISTING_SCHEMA
    assert table_of(listing).num_rows == 0


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    error = list_one(tmp_path / "gone").error

    assert type(error) is NotFoundError
    assert str(error) == f"list {tmp_path}/gone: No such file or directory"


def test_a_file_instead_of_a_folder_is_named(tmp_path: Path) -> None:
    error = list_one(fill(tmp_path, "a.jpg") / "a.jpg").error

    assert type(error) is StorageError
    assert str(error) == f"list {tmp_path}/a.jpg: not a folder"


def test_a_sub_folder_that_cannot_be_read_makes_the_listing_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "a.jpg", "private/b.jpg")
    scandir = os.scandir

    def refuse(path: Any) -> Any:  # root has all permissions, so no real refusal is possible
        if str(path).endswith("private"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)

    listing = list_one(tmp_path)

    assert listing.table is None
    assert type(listing.error) is DeniedError
    assert str(listing.error) == f"list {tmp_path}/private: Permission denied"


def test_a_file_name_that_is_not_utf_8_is_named(tmp_path: Path) -> None:
    fill(tmp_path, "a.jpg")
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"latin-1")

    error = list_one(tmp_path).error

    assert type(error) is StorageError
    assert str(error) == f"list {tmp_path}: 'caf\\udce9.jpg' is not UTF-8; rename it"
