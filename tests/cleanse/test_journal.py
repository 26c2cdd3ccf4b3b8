import subprocess
import sys

import pytest

from physiq_ray.cleanse import read_journal
from physiq_ray.errors import CleanseError


def test_a_journal_that_cannot_be_written_stops_before_the_deletion(
    make_bucket, label, cleanse, read_bucket, tmp_path
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--delete", "--journals", "no/such/folder", typed="1\n")

    assert ran.status == 1
    assert "the journal cannot be created, so nothing is deleted: No such file or directory" in ran.err
    assert len(read_bucket(bucket)) == 2


def test_a_journal_on_a_full_disk_stops_the_deletion(make_bucket, label, read_bucket, run_cli, tmp_path):
    names = [f"{number:04d}-{'x' * 150}.jpg" for number in range(400)]
    bucket = make_bucket(dict.fromkeys(names, b"x") | {"keep.jpg": b"k"})
    label("keep.jpg")
    command = [
        *(
            sys.executable,
            "-c",
            CLEANSE_WITH_FILE_LIMIT,
            "cleanse",
            "--sources",
            f"s3://{bucket}",
            "--min-age-hours",
            "0",
        ),
        *("--poses", "poses.json", "--labels", "labels.json", "--max-delete-share", "1"),
        *("--delete", "--yes", "--expect", "400"),
    ]

    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    assert ran.returncode == 1
    assert "the journal cannot be written: File too large; nothing more is deleted" in ran.stderr
    assert len(read_bucket(bucket)) == 401


# A limit on the size of files fails in the same calls as a full disk.
CLEANSE_WITH_FILE_LIMIT = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
from physiq_ray.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    "text",
    [
        '{"uri": "s3://b/a.jpg"}\n',
        '{"uri": "s3://b/a.jpg", "state": "deleted"}\n',
        '{"uri": "/b/a.jpg", "state": "deleting", "size": 1, "etag": "e"}\n',
        '{"uri": "s3://b/a.jpg", "state": "burnt"}\n',
        "no JSON\n",
    ],
)
def test_a_file_that_is_not_a_journal_is_refused(tmp_path, text):
    (tmp_path / "j.jsonl").write_text(text)
    with pytest.raises(CleanseError, match=r"j.jsonl: line 1 is not a line of a journal"):
        read_journal(tmp_path / "j.jsonl")
