"""The formats in which predict prints its answers."""

import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def test_csv_has_a_row_for_each_photo_even_if_it_is_unreadable(predict, make_photo, tmp_path):
    for name in ("a.jpg", "=1+1.jpg", 'b, "c".jpg', "-d.jpg"):
        (tmp_path / name).write_bytes(make_photo())
    (tmp_path / "broken.jpg").write_bytes(b"")
    (tmp_path / "list.txt").write_text('a.jpg\n=1+1.jpg\nb, "c".jpg\n-d.jpg\nbroken.jpg\nnowhere.jpg\n')

    done = predict("@list.txt", "--format", "csv", "--top", "2")

    assert done.returncode == 1
    assert done.stdout.decode("utf-8") == (
        "\ufeffuri,pose_id,pose,confidence,error,pose_id_2,pose_2,confidence_2\r\n"
        "a.jpg,2,Front Double Biceps,0.665241,,7,'@Übung,0.244728\r\n"
        "'=1+1.jpg,2,Front Double Biceps,0.665241,,7,'@Übung,0.244728\r\n"
        '"b, ""c"".jpg",2,Front Double Biceps,0.665241,,7,\'@Übung,0.244728\r\n'
        "'-d.jpg,2,Front Double Biceps,0.665241,,7,'@Übung,0.244728\r\n"
        "broken.jpg,,,,empty: no bytes at all,,,\r\n"
        "nowhere.jpg,,,,read nowhere.jpg: No such file or directory,,,\r\n"
    )
    assert done.stderr.decode() == (
        "physiq-ray predict: broken.jpg: empty: no bytes at all\n"
        "physiq-ray predict: read nowhere.jpg: No such file or directory\n"
    )


def test_csv_is_utf_8_on_an_ascii_terminal_and_names_that_cannot_be_decoded_are_escaped(
    predict, make_photo, tmp_path
):
    odd = os.fsdecode(b"\xe4.jpg")
    (tmp_path / odd).write_bytes(make_photo())
    done = predict(odd, "ü.jpg", "--format", "csv", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    rows = list(csv.reader(io.StringIO(done.stdout.decode("utf-8-sig"), newline="")))
    assert [row[0] for row in rows] == ["uri", "\\udce4.jpg", "ü.jpg"]
    assert rows[1][1:] == ["2", "Front Double Biceps", "0.665241", ""]


def test_csv_on_a_terminal_has_no_byte_order_mark(fixed_model, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo())
    ours, terminal = pty.openpty()
    subprocess.run(
        [
            *(sys.executable, "-m", "physiq_ray.cli", "predict", "a.jpg", "--model", fixed_model),
            *("--no-figures", "--format", "csv"),
        ],
        cwd=tmp_path,
        stdout=terminal,
        timeout=120,
        check=True,
    )
    assert os.read(ours, 4096).startswith(b"uri,pose_id,")
    os.close(ours)
    os.close(terminal)


def test_a_key_with_a_formula_or_a_line_break_is_one_harmless_csv_row(predict, make_bucket, make_photo):
    bucket = make_bucket({"new/two\nlines.jpg": make_photo(), "new/=HYPERLINK(1).jpg": make_photo()})
    done = predict(f"s3://{bucket}/new", "--format", "csv")
    rows = list(csv.reader(io.StringIO(done.stdout.decode("utf-8-sig"), newline="")))
    assert [row[0] for row in rows[1:]] == [
        f"s3://{bucket}/new/=HYPERLINK(1).jpg",  # the cell begins with s3://, so it is not a formula
        f"s3://{bucket}/new/two\nlines.jpg",
    ]
    assert done.returncode == 0


def test_json_lines_have_an_object_for_each_photo_and_top_limits_the_probabilities(
    predict, make_photo, tmp_path
):
    (tmp_path / "a.jpg").write_bytes(make_photo(size=(90, 120)))
    (tmp_path / "broken.jpg").write_bytes(b"not a photo")
    done = predict("broken.jpg", "a.jpg", "--format", "jsonl", "--top", "2")
    assert done.returncode == 1
    broken, answer = (json.loads(line) for line in done.stdout.decode("utf-8").splitlines())
    assert set(broken) == {"uri", "error"}
    assert broken["uri"] == "broken.jpg"
    assert broken["error"].startswith("broken.jpg: not an image")
    assert (answer["uri"], answer["pose"]) == ("a.jpg", {"id": 2, "name": "Front Double Biceps"})
    assert [item["id"] for item in answer["probabilities"]] == [2, 7]
    assert answer["size"] == {"width": 90, "height": 120}


def test_format_json_and_the_flag_json_print_the_same(predict, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo())
    by_format = predict("a.jpg", "nowhere.jpg", "--format", "json")
    by_flag = predict("a.jpg", "nowhere.jpg", "--json")
    assert by_format.stdout == by_flag.stdout
    document = json.loads(by_flag.stdout)
    assert [item["uri"] for item in document["predictions"]] == ["a.jpg"]
    assert [item["uri"] for item in document["errors"]] == ["nowhere.jpg"]
    assert len(document["predictions"][0]["probabilities"]) == 3


def test_a_table_has_a_line_for_each_photo(predict, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo())
    (tmp_path / "broken.jpg").write_bytes(b"")
    done = predict("a.jpg", "broken.jpg", "--format", "table", "--top", "9")
    head, answered, broken = done.stdout.decode("utf-8").splitlines()
    assert head.split() == ["id", "pose", "confidence"] * 3 + ["photo"]  # the model has three poses
    assert " ".join(answered.split()) == (
        "2 Front Double Biceps 66.52% 7 @Übung 24.47% 11 Abs & Thighs 9.00% a.jpg"
    )
    assert broken.split() == ["-"] * 9 + ["broken.jpg", "(empty:", "no", "bytes", "at", "all)"]
    assert answered.index("a.jpg") == broken.index("broken.jpg") == head.index("photo")


def test_top_limits_the_bars(predict, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo())
    text = predict("a.jpg", "--top", "1").stdout.decode("utf-8")
    assert "Front Double Biceps" in text
    assert "Abs & Thighs" not in text
