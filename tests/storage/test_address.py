from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.errors import SettingError
from physiq_ray.storage import Bucket, Folder, absolute_uri, join_uri, parse_source, parse_sources, split_uri


@pytest.mark.parametrize(
    ("text", "source", "written"),
    [
        ("s3://checkins", Bucket("checkins"), "s3://checkins"),
        ("s3://checkins/", Bucket("checkins"), "s3://checkins"),
        ("s3://checkins/2024", Bucket("checkins", "2024/"), "s3://checkins/2024"),
        ("s3://checkins/2024/a b/", Bucket("checkins", "2024/a b/"), "s3://checkins/2024/a b"),
        ("s3://my.bucket-1/x", Bucket("my.bucket-1", "x/"), "s3://my.bucket-1/x"),
        ("/photos", Folder(Path("/photos")), "/photos"),
    ],
)
def test_an_address_becomes_a_source(text: str, source: Bucket | Folder, written: str) -> None:
    assert parse_source(text) == source
    assert str(source) == written


def test_a_folder_s_path_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/coach")

    assert parse_source("photos") == Folder(tmp_path / "photos")
    assert parse_source("~/photos") == Folder(Path("/home/coach/photos"))
    assert parse_source("photos").name == f"{tmp_path}/photos"


@pytest.mark.parametrize(
    "text",
    [
        "s3://",
        "s3:///key",
        "s3://ab",
        "s3://Checkins",
        "s3://check_ins",
        "s3://-checkins",
        "s3://checkins.",
        "s3://" + "x" * 64,
        "s3://check ins/a",
    ],
)
def test_an_invalid_bucket_name_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"^sources: 's3://.*cannot be the name of a bucket$"):
        parse_source(text)


@pytest.mark.parametrize("text", ["gs://checkins", "https://checkins.s3.amazonaws.com", "S3://checkins"])
def test_another_scheme_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match=r"is not supported; give s3:// or a folder$"):
        parse_source(text)


@pytest.mark.parametrize("text", ["", "  "])
def test_an_empty_address_is_refused(text: str) -> None:
    with pytest.raises(SettingError, match="an empty address"):
        parse_source(text)


def test_an_empty_list_of_sources_is_refused() -> None:
    with pytest.raises(SettingError, match=r"^sources: none given; .*PHYSIQ_SOURCES$"):
        parse_sources([])


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["s3://aaa", "s3://aaa/x"], "s3://aaa/x lies within s3://aaa;"),
        (["s3://aaa/x/y", "s3://aaa/x"], "s3://aaa/x/y lies within s3://aaa/x;"),
        (["s3://aaa/x", "s3://aaa/x/"], "s3://aaa/x lies within s3://aaa/x;"),
        (["/photos", "/photos/2024"], "/photos/2024 lies within /photos;"),
        (["/photos", "/other/../photos"], "/photos lies within /other/../photos;"),
    ],
)
def test_sources_that_contain_each_other_are_refused(texts: list[str], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        parse_sources(texts)

    assert str(caught.value) == f"sources: {message} give one of the two"


def test_a_link_to_a_folder_counts_as_the_same_source(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "photos")

    with pytest.raises(SettingError, match="lies within"):
        parse_sources([f"{tmp_path}/photos", f"{tmp_path}/link"])


def test_sources_with_a_common_beginning_do_not_contain_each_other() -> None:
    texts = ["s3://aaa/x", "s3://aaa/x2", "s3://aaab", "/photos", "/photos2", "aaa"]

    assert len(parse_sources(texts)) == 6


@given(st.text(min_size=1))
def test_split_uri_gives_any_key_back(key: str) -> None:
    assert split_uri(f"s3://checkins/{key}") == ("checkins", key)
    assert split_uri(join_uri("s3://checkins/", key)) == ("checkins", key)


def test_join_uri_appends_names_to_a_prefix_and_to_a_folder() -> None:
    assert join_uri("s3://models/poses/", "a", "b.pth") == "s3://models/poses/a/b.pth"
    assert join_uri("s3://models", "b.pth") == "s3://models/b.pth"
    assert join_uri("output/", "a", "b.pth") == "output/a/b.pth"


def test_absolute_uri_changes_only_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert absolute_uri("s3://models/poses") == "s3://models/poses"
    assert absolute_uri("runs") == f"{tmp_path}/runs"
