"""predict's answers as tables, and its lists of addresses."""

import csv
import io
import json
import os
import pty
import subprocess
import sys

import pytest
import torch

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model

NAMES = {2: "Front Double Biceps", 7: "@Übung", 11: "Abs & Thighs"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A model that gives every photo pose 2 by 66.5241 %, pose 7 by 24.4728 % and pose 11 by 9.0031 %."""
    folder = tmp_path_factory.mktemp("model")
    weights = build_model(3).state_dict()
    weights["fc.weight"] = torch.zeros_like(weights["fc.weight"])
    weights["fc.bias"] = torch.tensor([0.0, 2.0, 1.0])  # poses 11, 2, 7: string order
    state = ModelState(weights, ClassMapping.of_poses(NAMES), NAMES, image_size=64)
    save_model_files(state, str(folder))
    return folder


@pytest.fixture
def predict(model, tmp_path, run_here):
    """Give a function that runs predict without figures; stdout comes as bytes.

    Only with an environment of its own it is a process of its own, which imports torch for seconds.
    """

    def run(*args, env=None):
        arguments = ["predict", "--model", str(model), "--no-figures", *args]
        if env is not None:
            return subprocess.run(
                [sys.executable, "-m", "physiq_ray.cli", *arguments],
                cwd=tmp_path,
                env={**os.environ, **env},
                capture_output=True,
                timeout=120,
                check=False,
            )
        done = run_here(*arguments)
        return subprocess.CompletedProcess(
            arguments, done.returncode, done.stdout.encode(), done.stderr.encode()
        )

    return run


def test_csv_has_a_row_for_each_photo_and_for_each_that_cannot_be_read(predict, make_photo, tmp_path):
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


def test_csv_is_utf8_whatever_the_terminal_says_and_names_that_are_no_text_are_escaped(
    predict, make_photo, tmp_path
):
    odd = os.fsdecode(b"\xe4.jpg")
    (tmp_path / odd).write_bytes(make_photo())
    done = predict(odd, "ü.jpg", "--format", "csv", env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    rows = list(csv.reader(io.StringIO(done.stdout.decode("utf-8-sig"), newline="")))
    assert [row[0] for row in rows] == ["uri", "\\udce4.jpg", "ü.jpg"]
    assert rows[1][1:] == ["2", "Front Double Biceps", "0.665241", ""]


def test_csv_on_a_terminal_has_no_byte_order_mark(model, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo())
    mine, its = pty.openpty()
    subprocess.run(
        [
            *(sys.executable, "-m", "physiq_ray.cli", "predict", "a.jpg", "--model", model),
            *("--no-figures", "--format", "csv"),
        ],
        cwd=tmp_path,
        stdout=its,
        timeout=120,
        check=True,
    )
    assert os.read(mine, 4096).startswith(b"uri,pose_id,")
    os.close(mine)
    os.close(its)


def test_a_key_that_is_a_formula_or_has_lines_stays_one_harmless_row(predict, make_bucket, make_photo, model):
    bucket = make_bucket({"new/two\nlines.jpg": make_photo(), "new/=HYPERLINK(1).jpg": make_photo()})
    done = predict(f"s3://{bucket}/new", "--format", "csv")
    rows = list(csv.reader(io.StringIO(done.stdout.decode("utf-8-sig"), newline="")))
    assert [row[0] for row in rows[1:]] == [
        f"s3://{bucket}/new/=HYPERLINK(1).jpg",  # within a cell it is no formula
        f"s3://{bucket}/new/two\nlines.jpg",
    ]
    assert done.returncode == 0


def test_json_lines_hold_an_object_a_photo_and_top_cuts_the_probabilities(predict, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo(size=(90, 120)))
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    done = predict("broken.jpg", "a.jpg", "--format", "jsonl", "--top", "2")
    assert done.returncode == 1
    broken, answer = (json.loads(line) for line in done.stdout.decode("utf-8").splitlines())
    assert set(broken) == {"uri", "error"}
    assert broken["uri"] == "broken.jpg"
    assert broken["error"].startswith("broken.jpg: not an image")
    assert (answer["uri"], answer["pose"]) == ("a.jpg", {"id": 2, "name": "Front Double Biceps"})
    assert [item["id"] for item in answer["probabilities"]] == [2, 7]
    assert answer["size"] == {"width": 90, "height": 120}


def test_format_json_is_what_the_flag_json_prints(predict, make_photo, tmp_path):
    (tmp_path / "a.jpg").write_bytes(make_photo())
    by_format = predict("a.jpg", "nowhere.jpg", "--format", "json")
    by_flag = predict("a.jpg", "nowhere.jpg", "--json")
    assert by_format.stdout == by_flag.stdout
    document = json.loads(by_flag.stdout)
    assert [item["uri"] for item in document["predictions"]] == ["a.jpg"]
    assert [item["uri"] for item in document["errors"]] == ["nowhere.jpg"]
    assert len(document["predictions"][0]["probabilities"]) == 3


def test_a_table_has_a_line_a_photo(predict, make_photo, tmp_path):
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


LIST = "# comment\r\n\r\n  a.jpg  \r\nnot here.jpg\r\n"


@pytest.mark.parametrize(
    "data",
    [
        LIST.encode(),
        b"\xef\xbb\xbf" + LIST.encode(),
        LIST.encode("utf-16"),
        LIST.replace("\r\n", "\r").encode(),
    ],
    ids=["utf-8", "with a mark", "utf-16", "old Mac"],
)
def test_a_list_may_have_comments_blank_lines_marks_and_any_line_ends(predict, make_photo, tmp_path, data):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(make_photo())
    (tmp_path / "in" / "list.txt").write_bytes(data)
    done = predict("@in/list.txt", "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["uri"] for row in rows] == ["in/a.jpg", "in/not here.jpg"]
    assert "pose" in rows[0]
    assert rows[1]["error"] == "read in/not here.jpg: No such file or directory"


def test_relative_entries_mean_a_file_next_to_the_list_before_one_of_the_working_folder(
    predict, make_photo, tmp_path
):
    for folder in ("in", "photos"):
        (tmp_path / folder / "photos").mkdir(parents=True)
    for name in ("in/photos/both.jpg", "photos/both.jpg", "photos/here.jpg", "@odd.jpg"):
        (tmp_path / name).write_bytes(make_photo())
    (tmp_path / "in" / "list.txt").write_text(
        f"photos/both.jpg\nphotos/here.jpg\n{tmp_path}/photos\n@odd.jpg"
    )
    done = predict("@in/list.txt", "./@odd.jpg", "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["uri"] for line in done.stdout.splitlines()] == [
        "in/photos/both.jpg",
        "photos/here.jpg",
        f"{tmp_path}/photos/both.jpg",
        f"{tmp_path}/photos/here.jpg",
        "@odd.jpg",
        "./@odd.jpg",
    ]


def test_a_list_in_a_bucket_names_photos_next_to_it(predict, make_bucket, make_photo):
    bucket = make_bucket({"day/a.jpg": make_photo()})
    listed = make_bucket({"day/b.jpg": make_photo(), "day/list.txt": f"b.jpg\ns3://{bucket}/day".encode()})
    done = predict(f"@s3://{listed}/day/list.txt", "--format", "jsonl")
    assert [json.loads(line)["uri"] for line in done.stdout.splitlines()] == [
        f"s3://{listed}/day/b.jpg",
        f"s3://{bucket}/day/a.jpg",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "read list.txt: No such file or directory; @list.txt means a file with one address a line; a "
         "photo of this name is ./@list.txt"),
        (b"\n# only this\n", "@list.txt: no address in its 3 lines; expected one address a line"),
        (b"a.jpg\n\xe4.jpg", "@list.txt, line 2: no UTF-8 text; save the list as UTF-8"),
        (b"a.jpg\nb\0.jpg", "@list.txt, line 2: no UTF-8 text; save the list as UTF-8"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_used_is_one_sentence(run_cli, tmp_path, data, message):
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    done = run_cli("predict", "@list.txt", "--model", "never-looked-at")
    assert done.returncode in (1, 2)
    assert done.stderr == f"physiq-ray predict: {message}\n"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "csv", "--json"), "--format=csv: excludes --json, which means --format json"),
        (("--format", "csv", "--output", "out"), "--format=csv: excludes --output, which writes Parquet"),
        (("--top", "2", "--output", "out"), "--top=2: excludes --output, whose files hold all"),
        (("--top", "0"), "--top=0 (poses in each answer): expected at least 1"),
    ],
)
def test_formats_that_cannot_be_had_are_refused_before_any_work(run_cli, tmp_path, flags, message):
    done = run_cli("predict", "a.jpg", "--model", "never-looked-at", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []
