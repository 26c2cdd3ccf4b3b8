import pytest

from physiq_ray.storage import is_photo


@pytest.mark.parametrize(
    "key",
    [
        *("a.jpg", "x/A.JPEG", "a.b.png", "a.WebP", "a.tif", "a.heic", "a.gif", "a.avif", "a.HIF"),
        *("a.jfif", "a.jpe", "a.mpo", "a.DNG", "a.cr3", "a.nef", "a.ARW", "a.jp2", "a.jxl"),
    ],
)
def test_photos_are_recognised_by_their_extensions(key: str) -> None:
    assert is_photo(key)


@pytest.mark.parametrize("key", ["a.jpg.txt", "jpg", ".jpg", "a.jpg/notes", "a.mp4", "Thumbs.db", ""])
def test_other_objects_are_not_photos(key: str) -> None:
    assert not is_photo(key)
