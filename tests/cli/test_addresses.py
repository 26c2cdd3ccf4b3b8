import json

import pytest

LIST = "# comment\r\n\r\n  a.jpg  \r\nnot here.jpg\r\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    "data",
    [
        LIST.encode(),
        b"\xef\xbb\xbf" + LIST.encode(),
        LIST.encode("utf-16"),
        LIST.replace("\r\n", "\r").encode(),
    ],
    ids=["utf-8", "with a byte order mark", "utf-16", "CR line ends"],
)
def test_a_list_may_have_comments_blank_lines_a_byte_order_mark_and_any_line_ends(
    predict, make_photo, tmp_path, data
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(make_photo())
    (tmp_path / "in" / "list.txt").write_bytes(data)
    done = predict("@in/list.txt", "--format", "jsonl")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["uri"] for row in rows] == ["in/a.jpg", "in/not here.jpg"]
    assert "pose" in rows[0]
    assert rows[1]["error"] == "read in/not here.jpg: No such file or directory"


@pytest.mark.slow
def test_relative_entries_are_looked_up_next_to_the_list_and_then_in_the_working_folder(
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


@pytest.mark.slow
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
def test_an_unusable_list_is_reported_in_one_sentence(run_here, tmp_path, data, message):
    if data is not None:
        (tmp_path / "list.txt").write_bytes(data)
    done = run_here("predict", "@list.txt", "--model", "not-read")
    assert done.returncode in (1, 2)
    assert done.stderr == f"physiq-ray predict: {message}\n"
