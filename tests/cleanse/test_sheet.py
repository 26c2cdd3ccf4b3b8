"""`cleanse --sheet`: the pages of thumbnails, by their pixels, and what stops or does not stop them."""

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from models import save_constant_model
from PIL import Image

from physiq_ray import checkpoint
from physiq_ray.checkpoint import load_model_state
from physiq_ray.cleanse import sheet
from physiq_ray.cli.parser import build_parser
from physiq_ray.cli.sheet import prepare_sheet
from physiq_ray.config import CleanseSettings
from physiq_ray.errors import PredictionError, StorageError, UnreachableError
from physiq_ray.floor import Floor

RED, GREEN, BLUE = (200, 30, 30), (30, 160, 30), (30, 30, 200)
GREY = (225, 225, 225)
SHARE = ("--max-delete-share", "1", "--max-unmatched-share", "1")


def photo(colour, size=(64, 64), format="PNG", **options):
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, format, **options)
    return file.getvalue()


def read_page(path):
    with Image.open(path) as image:
        assert image.format == "JPEG"
        return np.asarray(image.convert("RGB")).astype(int)


def centre_of(page, number):
    """Give the mean colour in the middle of a tile, by its number on the page."""
    x, y = 16 + number % 8 * 216 + 100, 48 + number // 8 * 274 + 100
    return page[y - 10 : y + 10, x - 10 : x + 10].mean(axis=(0, 1))


def is_near(colour, expected):
    return np.abs(colour - np.array(expected)).max() < 12


@pytest.mark.slow
def test_each_planned_photo_has_its_place_on_a_page_of_its_source(make_bucket, label, cleanse, tmp_path):
    many = {f"{number:03d}.png": photo(GREEN if number == 49 else RED) for number in range(50)}
    first = make_bucket({**many, "label.png": photo(BLUE)})
    second = make_bucket({"blue.png": photo(BLUE), "label.png": photo(RED)})
    label("label.png")

    ran = cleanse("--sources", f"s3://{first}", f"s3://{second}", *SHARE, "--sheet", "pages")

    assert ran.status == 0, ran.err
    assert "pages: 3 pages with 51 photos\n" in ran.out
    assert "Nothing was deleted: this was only a scan." in ran.out
    names = ["sheet-0001.jpg", "sheet-0002.jpg", "sheet-0003.jpg"]
    assert sorted(path.name for path in (tmp_path / "pages").iterdir()) == names
    one, two, three = (read_page(tmp_path / "pages" / name) for name in names)
    assert (one.shape, two.shape) == ((48 + 6 * 274, 16 + 8 * 216, 3), (48 + 274, 16 + 8 * 216, 3))
    assert all(is_near(centre_of(one, number), RED) for number in range(48))
    assert is_near(centre_of(two, 0), RED)
    assert is_near(centre_of(two, 1), GREEN)
    assert is_near(centre_of(two, 2), (255, 255, 255))
    assert is_near(centre_of(three, 0), BLUE)


@pytest.mark.slow
def test_photos_are_upright_and_complete_and_unreadable_ones_are_grey(
    make_bucket, label, cleanse, tmp_path, read_bucket
):
    turned = Image.new("RGB", (80, 40), RED)
    turned.paste(BLUE, (0, 0, 40, 40))  # left half, which orientation 6 turns to the top
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    turned.save(file, "JPEG", exif=exif)
    bucket = make_bucket(
        {
            "1-turned.jpg": file.getvalue(),
            "2-panorama.png": photo(GREEN, (4000, 400)),
            "3-broken.jpg": b"\xff\xd8\xff no photo",
            "4-empty.png": b"",
            "5-日本 $x_$ é\x07 \u202e/" + "long/" * 40 + "end.png": photo(BLUE),
            "6-palette.gif": photo(RED, format="GIF"),
            "label.png": photo(RED),
        }
    )
    label("label.png")

    ran = cleanse("--sources", f"s3://{bucket}", *SHARE, "--sheet", "pages", "--json")

    assert ran.status == 0, ran.err
    drawn = json.loads(ran.out)["sheet"]
    assert (drawn["folder"], drawn["pages"]) == ("pages", 1)
    assert [sentence.partition(": ")[0] for sentence in drawn["unreadable"]] == [
        f"s3://{bucket}/3-broken.jpg",
        f"s3://{bucket}/4-empty.png",
    ]
    assert f"a grey tile on a page: s3://{bucket}/4-empty.png: empty: no bytes at all\n" in ran.err
    page = read_page(tmp_path / "pages/sheet-0001.jpg")
    # 40 × 80 pixels, upright, in the middle of the tile: photos are not enlarged.
    assert is_near(page[48 + 60 + 10, 16 + 100], BLUE)
    assert is_near(page[48 + 140 - 10, 16 + 100], RED)
    assert is_near(page[48 + 100, 16 + 70], (246, 246, 246))
    assert is_near(page[48 + 100, 232 + 3], GREEN)  # the panorama is as wide as the tile, and 20 pixels high
    assert is_near(page[48 + 100, 232 + 196], GREEN)
    assert is_near(page[48 + 120, 232 + 100], (246, 246, 246))
    assert is_near(page[48 + 190, 16 + 2 * 216 + 190], GREY)
    assert is_near(page[48 + 190, 16 + 3 * 216 + 190], GREY)
    assert is_near(centre_of(page, 4), BLUE)
    assert is_near(centre_of(page, 5), RED)
    assert len(read_bucket(bucket)) == 7


@pytest.mark.slow
def test_the_pages_are_complete_before_the_prompt_names_them(
    make_bucket, label, cleanse, tmp_path, read_bucket
):
    bucket = make_bucket({"a.png": photo(RED), "b.png": photo(BLUE)})
    label("a.png")
    source = ("--sources", f"s3://{bucket}")

    left = cleanse(*source, "--delete", "--sheet", "one", typed="no\n")
    assert left.status == 2
    assert "Type 1 to delete 1 photos (0.0 MB; look at one first), anything else to leave them: " in left.err
    assert is_near(centre_of(read_page(tmp_path / "one/sheet-0001.jpg"), 0), BLUE)
    assert set(read_bucket(bucket)) == {"a.png", "b.png"}

    assert cleanse(*source, "--plan", "plan.jsonl", "--sheet", "two").status == 0
    applied = cleanse(*source, "--apply", "plan.jsonl", "--sheet", "three", typed="1\n")
    assert applied.status == 0
    for folder in ("two", "three"):
        assert is_near(centre_of(read_page(tmp_path / folder / "sheet-0001.jpg"), 0), BLUE)
    assert set(read_bucket(bucket)) == {"a.png"}


def test_no_page_is_written_for_an_empty_or_refused_plan(make_bucket, label, cleanse, tmp_path):
    bucket = make_bucket({"a.png": photo(RED), "b.png": photo(BLUE)})
    label("nowhere.png")
    ran = cleanse("--sources", f"s3://{bucket}", "--sheet", "pages")
    assert "pages: no photo to show, so no page\n" in ran.out
    assert not (tmp_path / "pages").exists()


def test_a_photo_that_changed_since_the_listing_is_not_shown(
    make_bucket, label, cleanse, tmp_path, s3_direct, monkeypatch
):
    bucket = make_bucket({"a.png": photo(RED), "b.png": photo(BLUE)})
    label("a.png")
    read = sheet.read_bytes

    def change(uri, **options):
        s3_direct.put_object(Bucket=bucket, Key="b.png", Body=photo(GREEN))
        return read(uri, **options)

    monkeypatch.setattr(sheet, "read_bytes", change)
    ran = cleanse("--sources", f"s3://{bucket}", "--sheet", "pages")
    assert ran.status == 0
    assert f"a grey tile on a page: s3://{bucket}/b.png: " in ran.err
    assert is_near(centre_of(read_page(tmp_path / "pages/sheet-0001.jpg"), 0), GREY)


def test_only_a_new_or_empty_folder_is_used(label, cleanse, tmp_path):
    label("a.jpg")
    (tmp_path / "pages").mkdir()
    (tmp_path / "pages/sheet-0007.jpg").write_bytes(b"of an earlier plan")
    flags = ("--sources", "s3://no-such-bucket")

    full = cleanse(*flags, "--sheet", "pages")
    assert full.status == 2
    assert full.err == (
        "physiq-ray cleanse: --sheet pages: the folder is not empty; give a new one, or empty it\n"
    )
    assert (tmp_path / "pages/sheet-0007.jpg").read_bytes() == b"of an earlier plan"
    assert "--sheet s3://b/x: give a folder on this machine" in cleanse(*flags, "--sheet", "s3://b/x").err
    assert "Not a directory" in cleanse(*flags, "--sheet", "labels.json").err


def test_photos_that_stay_lose_the_tag_even_if_no_page_can_be_drawn(
    make_bucket, label, cleanse, monkeypatch, s3_direct
):
    bucket = make_bucket({"a.png": photo(RED), "b.png": photo(RED)})
    label("a.png")
    tag_set = [{"Key": "physiq-ray-unlabelled", "Value": "2026-01-31"}]
    s3_direct.put_object_tagging(Bucket=bucket, Key="a.png", Tagging={"TagSet": tag_set})
    monkeypatch.setattr(sheet, "write_bytes", fail_to_write)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--sheet", "pages", typed="1\n")

    assert ran.status == 1
    assert "the disk is full" in ran.err
    assert s3_direct.get_object_tagging(Bucket=bucket, Key="a.png")["TagSet"] == []
    assert s3_direct.get_object_tagging(Bucket=bucket, Key="b.png")["TagSet"] == []


def fail_to_write(_data, uri):
    raise StorageError(f"write {uri}: the disk is full")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--model", "m.pth"], "--model m.pth: needs --sheet"),
        (["--sheet", "pages", "--untag"], "leave out --restore and --untag"),
        (["--sheet", "pages", "--restore", "j.jsonl"], "leave out --restore and --untag"),
    ],
)
def test_contradictory_flags_are_refused(label, cleanse, flags, message):
    label("a.jpg")
    ran = cleanse(*flags)
    assert ran.status == 2
    assert message in ran.err


def test_a_server_that_stops_to_answer_ends_the_pages(make_bucket, label, cleanse, monkeypatch, tmp_path):
    bucket = make_bucket({f"{name}.png": photo(RED) for name in "abcdef"})
    label("a.png")
    monkeypatch.setattr(sheet, "OUTAGE_RUN", 3)

    def fail(uri, **_):
        raise UnreachableError(f"read {uri}: scripted")

    monkeypatch.setattr(sheet, "read_bytes", fail)
    ran = cleanse("--sources", f"s3://{bucket}", *SHARE, "--delete", "--sheet", "pages", typed="5\n")
    assert ran.status == 1
    assert "no answer for 3 photos in a row, the last scripted" in ran.err
    assert not list((tmp_path).glob("pages/*"))


def test_a_model_that_fails_on_a_photo_ends_nothing(make_bucket, label, tmp_path, monkeypatch):
    bucket = make_bucket({"b.png": photo(BLUE)})
    row = {"uri": f"s3://{bucket}/b.png", "key": "k" * 70, "size": 3, "etag": ""}

    def predict(data, uri):
        raise PredictionError(f"{uri}: not a number $x$ and more and more words")

    tile = sheet._make_tile(row | {"modified": np.datetime64("2026-11-28").item()}, predict)
    assert tile.caption == (
        "k" * 30 + "…",
        "k" * 31,
        "2026-11-28  0.0 kB",
        "no answer: not a number $x$ and"[:31],
    )


@pytest.mark.slow
def test_a_page_shows_the_answers_of_a_model(tmp_path, monkeypatch):
    save_constant_model(tmp_path, [0.7, 0.3], str(tmp_path / "model"))
    state = load_model_state(str(tmp_path / "model"))
    flags = ["--sheet", str(tmp_path / "pages"), "--model", str(tmp_path / "model")]
    args = build_parser().parse_args(["cleanse", *flags])
    answers = []
    for floor in (None, Floor("probability", 0.9)):
        with_floor = replace(state, floor=floor)
        monkeypatch.setattr(checkpoint, "load_model_state", lambda *_, found=with_floor, **__: found)
        predict = prepare_sheet(args, CleanseSettings(sources=("s3://bucket-a",)))
        answers.append(predict(photo(RED), "s3://bucket-a/a.png"))
    assert answers == ["60% Pose 1", "no known pose"]  # at temperature 2


@pytest.mark.slow
def test_a_sheet_without_a_model_needs_no_torch(make_bucket, label, tmp_path):
    bucket = make_bucket({"a.png": photo(RED), "b.png": photo(BLUE)})
    label("a.png")
    flags = ["--sources", f"s3://{bucket}", "--labels", "labels.json", "--min-age-hours", "0"]
    code = (
        "import sys; from physiq_ray.cli import main; "
        f"print(main({['cleanse', *flags, '--sheet', 'pages']!r})); "
        "print([name for name in ('torch', 'ray') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-2:] == ["0", "[]"]
    assert Path(tmp_path / "pages/sheet-0001.jpg").exists()
