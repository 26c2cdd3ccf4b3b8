import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from physiq_ray.storage import is_photo
from physiq_ray.syncing.paths import find_clashes, flat_name, local_path, probe_case

HOSTILE = st.text(
    st.one_of(
        st.sampled_from("/.%~\\:aAcC25Eeé\u0301\x00\x7f\x85 "),
        st.characters(exclude_categories=["Cs"]),
    ),
    min_size=1,
)
KEYS = st.one_of(
    HOSTILE,
    st.lists(st.sampled_from(["", ".", "..", "a", "a.jpg", "A.JPG", "C:", "%2F", "%~"]), min_size=1)
    .map("/".join)
    .filter(bool),
)
PHOTO_KEYS = KEYS.map(lambda key: f"{key}.jpg").filter(is_photo)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("2026/a b.jpg", "2026/a b.jpg"),
        ("../../etc/a.jpg", "%2E%2E/%2E%2E/etc/a.jpg"),
        ("./a.jpg", "%2E/a.jpg"),
        ("...jpg", "...jpg"),
        ("/abs.jpg", "%2Fabs.jpg"),
        ("a//b.jpg", "a/%2Fb.jpg"),
        ("a///b.jpg", "a/%2F%2Fb.jpg"),
        ("a\\..\\b.jpg", "a%5C..%5Cb.jpg"),
        ("C:/a.jpg", "C%3A/a.jpg"),
        ("x/c:a.jpg", "x/c%3Aa.jpg"),
        ("12:30.jpg", "12:30.jpg"),
        ("a.jpg/b.jpg", "a%2Ejpg/b.jpg"),
        ("a.v2/b.jpg", "a.v2/b.jpg"),
        ("50%.jpg", "50%.jpg"),
        ("50%25.jpg", "50%2525.jpg"),
        ("a%2fb.jpg", "a%252fb.jpg"),
        ("a%~b.jpg", "a%25~b.jpg"),
        ("a\nb\x7f\x85.jpg", "a%0Ab%7F%C2%85.jpg"),
        ("größe/写真.jpg", "größe/写真.jpg"),
    ],
)
def test_a_key_is_translated_to_a_path(key: str, path: str) -> None:
    assert local_path("bucket", key, 255) == f"bucket/{path}"


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ('12:30 <a>|b?*"c.jpg', "12%3A30 %3Ca%3E%7Cb%3F%2A%22c.jpg"),
        ("day 1./b. /c .jpg", "day 1%2E/b%2E%20/c .jpg"),
        ("CON.jpg", "%43ON.jpg"),
        ("aux/nul .a.jpg", "%61ux/%6Eul .a.jpg"),
        ("COM1.jpg", "%43OM1.jpg"),
        ("lpt\u00b2.jpg", "%6Cpt\u00b2.jpg"),
        ("con//PRN.png", "%63on/%2F%50RN.png"),
        ("../CON.jpg/a.jpg", "%2E%2E/%43ON%2Ejpg/a.jpg"),
        ("console.jpg", "console.jpg"),
        ("com.jpg", "com.jpg"),
        ("a.CON.jpg", "a.CON.jpg"),
        ("%43ON.jpg", "%2543ON.jpg"),
    ],
)
def test_on_windows_more_is_escaped(key: str, path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("physiq_ray.syncing.paths.sys.platform", "win32")
    assert local_path("bucket", key, 255) == f"bucket/{path}"
    assert unquote(path.replace("/%2F", "//")) == key
    assert local_path("con", "a.jpg", 255) == "%63on/a.jpg"


def test_bucket_and_key_make_one_name_for_a_sorted_folder() -> None:
    assert flat_name("checkin-poses", "2026/a.jpg", 255) == "checkin-poses%2F2026%2Fa.jpg"
    assert flat_name("checkin-poses", "2026%2Fa.jpg", 255) == "checkin-poses%2F2026%252Fa.jpg"


@pytest.mark.slow
@given(st.lists(PHOTO_KEYS, unique=True, max_size=8))
@example(["a.jpg", "a.jpg/b.jpg", "a%2Ejpg/b.jpg"])
@example(["a//b.jpg", "a/b.jpg", "a/%2Fb.jpg", "a/%252Fb.jpg"])
def test_photos_have_distinct_paths_inside_the_folder_and_no_file_is_a_folder(keys: list[str]) -> None:
    paths = [local_path("bucket", key, 255) for key in keys]
    assert len(set(paths)) == len(keys)
    folders = set()
    for path in paths:
        parts = path.split("/")
        assert parts[0] == "bucket"
        assert not {"", ".", ".."} & set(parts)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\\]", path)
        assert not any(re.match("[A-Za-z]:", part) for part in parts)
        assert all(len(part.encode()) <= 255 for part in parts)
        folders |= {"/".join(parts[:number]) for number in range(1, len(parts))}
    assert not folders & set(paths)


@given(KEYS)
@example("a%%01")
@example("a/")
@example("/")
@example("%\x01")
def test_an_unquoted_path_is_the_key(key: str) -> None:
    assert unquote(local_path("bucket", key, 10_000)) == f"bucket/{key}"


@pytest.mark.slow
@given(st.lists(PHOTO_KEYS, unique=True, max_size=8))
def test_sorted_names_are_distinct_and_one_part_each(keys: list[str]) -> None:
    names = [flat_name("bucket", key, 255) for key in keys]
    assert len(set(names)) == len(keys)
    assert not any("/" in name or len(name.encode()) > 255 or not is_photo(name) for name in names)


@given(st.lists(st.text("aé写%", min_size=12).map(lambda text: f"{text}.jpeg"), unique=True, max_size=8))
def test_names_that_are_too_long_are_cut_between_characters_and_stay_distinct(keys: list[str]) -> None:
    names = [local_path("bucket", key, 30).removeprefix("bucket/") for key in keys]
    assert len(set(names)) == len(keys)
    for name, key in zip(names, keys, strict=True):
        assert len(name.encode()) <= 30
        assert name.endswith(".jpeg")
        if "%~" in name:
            kept, mark = name.rsplit("%~", 1)
            assert re.fullmatch("[0-9a-f]{12}.jpeg", mark)
            assert key.startswith(unquote(kept)) or "%" in key


@given(st.lists(KEYS, min_size=1, max_size=6, unique=True))
def test_the_path_of_a_key_does_not_depend_on_other_keys(keys: list[str]) -> None:
    assert [local_path("b", key, 60) for key in keys] == [local_path("b", key, 60) for key in reversed(keys)][
        ::-1
    ]


def test_the_first_of_names_that_a_file_system_cannot_distinguish_is_kept() -> None:
    paths = ["b/a.jpg", "b/A.jpg", "B/a.jpg", "b/e\u0301.jpg", "b/\u00e9.jpg", "b/c.jpg"]
    assert find_clashes(paths, is_case_sensitive=False) == {
        "b/A.jpg": "B/a.jpg",
        "b/a.jpg": "B/a.jpg",
        "b/\u00e9.jpg": "b/e\u0301.jpg",
    }
    assert find_clashes(paths, is_case_sensitive=True) == {}


def test_the_probe_finds_whether_a_folder_is_case_sensitive(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    assert probe_case(tmp_path) is not (tmp_path / "X").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
