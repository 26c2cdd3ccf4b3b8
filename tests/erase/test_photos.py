"""Photos are erased with all their versions, and nothing else is touched."""

import json

import pytest


@pytest.mark.slow
def test_all_versions_of_a_persons_photos_and_their_copies_are_erased(
    make_versioned, read_history, erase, s3_direct
):
    bucket = make_versioned()

    def put(key, body):
        s3_direct.put_object(Bucket=bucket, Key=key, Body=body)

    put("athlete-1/other.jpg", b"other")
    put("athlete-17/é +.jpg", b"first")
    put("athlete-17/é +.jpg", b"second")
    put("athlete-17/gone.jpg", b"gone")
    s3_direct.delete_object(Bucket=bucket, Key="athlete-17/gone.jpg")
    put("athlete-17/notes.txt", b"notes")
    put("athlete-170/other.jpg", b"another")
    s3_direct.delete_object(Bucket=bucket, Key="athlete-170/other.jpg")
    put("inbox/copy.jpg", b"second")
    put("inbox/reused.jpg", b"second")
    put("inbox/reused.jpg", b"of somebody else")
    s3_direct.delete_object(Bucket=bucket, Key="inbox/reused.jpg")
    before = read_history(bucket)
    erased = {
        item
        for item in before
        if item[0] in {"athlete-17/é +.jpg", "athlete-17/gone.jpg", "inbox/copy.jpg"}
        or (item[0] == "inbox/reused.jpg" and item[2] == '"a9f0e61a137d86aa9db53465e0801612"')
    }
    assert len(erased) == 6
    flags = ["--match", "^athlete-17/", "--sources", f"s3://{bucket}"]

    look = erase(*flags)

    assert look.status == 0
    assert read_history(bucket) == before
    assert "photos: 4 (2 of them copies under other names), 5 versions, 1 delete markers" in look.out
    assert f"  s3://{bucket}/inbox/copy.jpg (a copy)" in look.out
    assert "1 objects match, but are no photos and stay" in look.out
    assert "Nothing was erased: this was only a look." in look.out

    done = erase(*flags, "--delete", typed="6\n")

    assert done.status == 0, done.err
    assert "Type 6 to erase 6 versions and 0 files with traces for ever" in done.err
    assert "photos: 6 erased" in done.out
    assert read_history(bucket) == before - erased

    again = erase(*flags, "--delete")
    assert (again.status, "No photo and no trace was found." in again.out) == (0, True)
    assert read_history(bucket) == before - erased


def test_photos_of_a_bucket_without_versions_are_erased(make_bucket, read_bucket, erase):
    bucket = make_bucket({"a/1.jpg": b"1", "a/2.jpg": b"2", "b/1.jpg": b"1", "b/3.jpg": b"3"})
    flags = ["--match", "^a/", "--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "3", "--json"]
    done = erase(*flags)
    assert (done.status, done.err) == (0, "")
    answer = json.loads(done.out)
    assert answer["results"] == [{"place": "photos", "erased": 3, "failures": []}]
    assert [item["is_copy"] for item in answer["photos"]] == [False, False, True]
    assert read_bucket(bucket) == {"b/3.jpg": b"3"}


def test_empty_objects_are_no_copies_of_each_other(make_bucket, read_bucket, erase):
    bucket = make_bucket({"a/1.jpg": b"", "b/1.jpg": b""})
    erase("--match", "^a/", "--sources", f"s3://{bucket}", "--delete", typed="1\n")
    assert read_bucket(bucket) == {"b/1.jpg": b""}


def test_versions_from_before_versioning_are_erased(make_bucket, read_history, erase, s3_direct):
    bucket = make_bucket({"a.jpg": b"1", "b.jpg": b"2", "c.jpg": b"1"})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    s3_direct.put_object(Bucket=bucket, Key="a.jpg", Body=b"3")
    s3_direct.delete_object(Bucket=bucket, Key="a.jpg")
    before = read_history(bucket)
    done = erase("--match", "a.jpg", "--sources", f"s3://{bucket}", "--delete", typed="3\n")
    assert done.status == 0, done.err
    assert read_history(bucket) == {item for item in before if item[0] in {"b.jpg", "c.jpg"}}


def test_what_the_server_keeps_is_reported(make_bucket, read_history, erase, s3_direct):
    bucket = make_bucket({"a.jpg": b"1", "b.jpg": b"2"})
    for status in ("Enabled", "Suspended"):
        s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": status})
        s3_direct.put_object(Bucket=bucket, Key="a.jpg", Body=status.encode())
    s3_direct.delete_object(Bucket=bucket, Key="a.jpg")
    before = read_history(bucket)
    done = erase("--match", "a.jpg", "--sources", f"s3://{bucket}", "--delete", typed="2\n")
    # SeaweedFS keeps the delete marker of a bucket whose versioning is suspended.
    kept = {item for item in read_history(bucket) if item[0] == "a.jpg"}
    assert kept <= {("a.jpg", "null", "")}
    assert (done.status, "but still lists it" in done.err) == ((1, True) if kept else (0, False))
    assert read_history(bucket) - kept == {item for item in before if item[0] == "b.jpg"}


@pytest.mark.parametrize("typed", ["", "5\n", "yes\n"])
def test_without_the_right_count_nothing_is_erased(make_bucket, read_bucket, erase, typed):
    bucket = make_bucket({"a.jpg": b"1"})
    done = erase("--match", "a", "--sources", f"s3://{bucket}", "--delete", typed=typed)
    assert done.status == 2
    assert "is not 1: nothing was erased" in done.err
    wrong = erase("--match", "a", "--sources", f"s3://{bucket}", "--delete", "--yes", "--expect", "2")
    assert (wrong.status, "the plan holds 1 items; nothing was erased" in wrong.err) == (2, True)
    assert read_bucket(bucket) == {"a.jpg": b"1"}


def test_the_photos_of_a_group_are_those_of_its_labels_and_of_its_pattern(
    make_bucket, read_bucket, erase, write_labels
):
    files = {"1.jpg": b"1", "2.jpg": b"2", "x/3.jpg": b"3", "y/3.jpg": b"4", "athlete-17/5.jpg": b"5"}
    bucket = make_bucket({**files, "athlete-170/6.jpg": b"6", "Z 7.JPG": b"7", "z_7.jpeg": b"8"})
    write_labels(("1.jpg", "athlete-17"), ("2.jpg", "athlete-2"), ("y/3.jpg", "athlete-17"))
    flags = ["--group", "athlete-17", "--sources", f"s3://{bucket}"]

    look = json.loads(erase(*flags, "--json").out)
    assert [item["uri"] for item in look["photos"]] == [f"s3://{bucket}/1.jpg", f"s3://{bucket}/y/3.jpg"]
    assert look["labels"] == ["1.jpg", "y/3.jpg"]

    look = json.loads(erase(*flags, "--group-pattern", r"(athlete-\d+)/", "--json").out)
    assert {item["uri"].rpartition("/")[2] for item in look["photos"]} == {"1.jpg", "3.jpg", "5.jpg"}
    assert look["items"] == 3


def test_a_label_of_the_same_name_for_another_bucket_erases_nothing_there(make_bucket, erase, write_labels):
    ours, theirs = make_bucket({"1.jpg": b"1"}), make_bucket({"1.jpg": b"2"})
    write_labels(
        {"s3Filename": "1.jpg", "athleteId": "17", "source": "ours"},
        {"s3Filename": "1.jpg", "athleteId": "2", "source": "theirs"},
    )
    sources = ["--sources", f"s3://{ours}", f"s3://{theirs}"]
    buckets = ["--source-buckets", f"ours={ours}", f"theirs={theirs}"]
    look = json.loads(erase("--group", "17", *sources, *buckets, "--json").out)
    assert [item["uri"] for item in look["photos"]] == [f"s3://{ours}/1.jpg"]


def test_an_ambiguous_label_of_the_group_is_reported_and_erases_nothing(make_bucket, erase, write_labels):
    bucket = make_bucket({"x/IMG 1.jpg": b"1", "y/IMG 1.jpg": b"2", "2.jpg": b"3"})
    write_labels(("IMG%201.JPG", "17"), ("2.jpg", "17"))
    look = json.loads(erase("--group", "17", "--sources", f"s3://{bucket}", "--json").out)
    assert [item["uri"] for item in look["photos"]] == [f"s3://{bucket}/2.jpg"]
    assert look["ambiguous_labels"] == ["IMG%201.JPG"]


def test_a_group_without_labels_and_pattern_is_refused(make_bucket, erase):
    bucket = make_bucket({"1.jpg": b"1"})
    done = erase("--group", "17", "--sources", f"s3://{bucket}")
    assert done.status == 2
    assert "no label has a group, and group_pattern is not set" in done.err


def test_the_photos_of_a_list_are_erased_also_outside_the_sources(
    make_versioned, make_bucket, read_history, read_bucket, erase, s3_direct, tmp_path
):
    bucket, other = make_versioned(), make_bucket({"a.jpg": b"1", "b.jpg": b"2"})
    s3_direct.put_object(Bucket=bucket, Key="c.jpg", Body=b"3")
    s3_direct.put_object(Bucket=bucket, Key="c.jpg.jpg", Body=b"4")
    (tmp_path / "list.txt").write_text(f"s3://{bucket}/c.jpg\n\ns3://{bucket}/gone.jpg\n")
    flags = ["--sources", f"s3://{other}", "--delete"]
    done = erase("--uris", "list.txt", *flags, typed="1\n")
    assert done.status == 0, done.err
    assert {key for key, *_ in read_history(bucket)} == {"c.jpg.jpg"}
    done = erase("--uris", "-", *flags, "--yes", "--expect", "1", typed=f"s3://{other}/b.jpg")
    assert done.status == 0, done.err
    assert read_bucket(other) == {"a.jpg": b"1"}


@pytest.mark.parametrize("line", ["photo.jpg", "s3://bucket", '{"key": "a.jpg"}', '{"uri": 7}', "[]"])
def test_a_line_that_names_no_photo_is_refused(erase, tmp_path, line):
    (tmp_path / "list.txt").write_text(f"s3://b/a.jpg\n{line}\n")
    done = erase("--uris", "list.txt", "--sources", "s3://b")
    assert done.status == 2
    assert "--uris list.txt: line 2 is neither" in done.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--match", ""], "an empty text would mean no person"),
        (["--match", "(?=a)"], "not accepted by RE2"),
        (["--match", "a", "--sources", "photos"], "photos: this command only works on buckets"),
        (["--match", "a", "--yes", "--delete"], "--yes needs --expect N"),
        (["--match", "a", "--expect", "1"], "--yes and --expect go with --delete"),
        (["--uris", "-", "--delete"], "stdin holds the list"),
    ],
)
def test_wrong_use_is_refused(make_bucket, erase, flags, message):
    done = erase("--sources", f"s3://{make_bucket({'a.jpg': b'a'})}", *flags)
    assert done.status == 2
    assert message in done.err


@pytest.mark.slow
def test_a_bucket_that_cannot_be_listed_is_reported_and_the_journal_finds_the_rest(
    make_bucket, read_bucket, erase, tmp_path
):
    bucket = make_bucket({"a.jpg": b"1"})
    done = erase(
        "--match", "a", "--sources", f"s3://{bucket}", "s3://comes-back-later", "--delete", typed="1\n"
    )
    assert done.status == 1
    assert "NOT SEARCHED: s3://comes-back-later: list the versions" in done.err
    assert read_bucket(bucket) == {}
    (journal,) = tmp_path.glob("erased-*.jsonl")
    assert f"{journal.name} names photos of which something may be left" in done.err

    make_bucket({"x/b.jpg": b"1", "c.jpg": b"2"}, "comes-back-later")
    done = erase("--uris", journal.name, "--sources", "s3://comes-back-later", "--delete", typed="1\n")
    assert done.status == 0, done.err
    assert read_bucket("comes-back-later") == {"c.jpg": b"2"}
    assert not list(tmp_path.glob("erased-*.jsonl"))


def test_a_version_that_cannot_be_deleted_is_named_and_erased_later(
    make_versioned, read_history, erase, s3_direct, deny, tmp_path
):
    bucket = make_versioned()
    for name in ("a", "b"):
        s3_direct.put_object(Bucket=bucket, Key=f"17/{name}.jpg", Body=name.encode())
    deny(bucket, "s3:DeleteObject*", "17/a.jpg")
    flags = ["--match", "^17/", "--sources", f"s3://{bucket}", "--delete"]
    done = erase(*flags, typed="2\n")
    assert done.status == 1
    assert "photos: 1 erased, 1 failed" in done.out
    assert f"NOT ERASED: photos: s3://{bucket}/17/a.jpg: " in done.err
    assert {key for key, *_ in read_history(bucket)} == {"17/a.jpg"}
    assert len(list(tmp_path.glob("erased-*.jsonl"))) == 1
    s3_direct.delete_bucket_policy(Bucket=bucket)
    assert erase(*flags, typed="1\n").status == 0
    assert not read_history(bucket)


def test_a_photo_that_is_overwritten_after_the_look_stays(
    make_bucket, read_bucket, erase, s3_direct, monkeypatch
):
    bucket = make_bucket({"a.jpg": b"1"})
    monkeypatch.setattr(
        "physiq_ray.cli.erase._confirm",
        lambda *_: s3_direct.put_object(Bucket=bucket, Key="a.jpg", Body=b"of somebody else"),
    )
    done = erase("--match", "a", "--sources", f"s3://{bucket}", "--delete")
    assert done.status == 1
    assert "changed since it was listed" in done.err
    assert read_bucket(bucket) == {"a.jpg": b"of somebody else"}
