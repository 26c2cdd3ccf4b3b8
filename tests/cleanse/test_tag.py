"""`cleanse --tag` and `--untag`: which photos have the tag afterwards, and the rule for them."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from refusals import refusal

TAG = "physiq-ray-unlabelled"
pytestmark = pytest.mark.usefixtures("without_waiting")


def today() -> str:
    return datetime.now(UTC).date().isoformat()


@pytest.fixture
def tags_of(s3_direct):
    """Give a function that reads the tags of all objects of a bucket, key → tags."""

    def read(bucket):
        keys = [item["Key"] for item in s3_direct.list_objects_v2(Bucket=bucket).get("Contents", ())]
        sets = {key: s3_direct.get_object_tagging(Bucket=bucket, Key=key)["TagSet"] for key in keys}
        return {key: {tag["Key"]: tag["Value"] for tag in tags} for key, tags in sets.items()}

    return read


@pytest.fixture
def put_tags(s3_direct):
    """Give a function that writes the tags of an object."""

    def put(bucket, key, tags):
        tag_set = [{"Key": name, "Value": value} for name, value in tags.items()]
        s3_direct.put_object_tagging(Bucket=bucket, Key=key, Tagging={"TagSet": tag_set})

    return put


def test_the_typed_number_tags_unlabelled_photos_and_deletes_nothing(
    make_bucket, label, cleanse, read_bucket, tags_of, put_tags
):
    photos = {"a.jpg": b"a", "b.jpg": b"b", "x/c é.jpg": b"c", "n.txt": b"n", "d.heif2": b"d"}
    bucket = make_bucket(photos)
    label("a.jpg", "b.jpg")
    put_tags(bucket, "x/c é.jpg", {"owner": "anna b"})

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n")

    assert ran.status == 0, ran.err
    assert "Type 1 to tag 1 photos (0.0 MB), anything else to leave them: " in ran.err
    assert f"s3://{bucket}: the tag was removed from 0 of 2 photos that stay\n" in ran.out
    assert f"s3://{bucket}: 1 of 1 tagged\n" in ran.out
    assert tags_of(bucket) == {key: {} for key in photos} | {"x/c é.jpg": {"owner": "anna b", TAG: today()}}
    assert read_bucket(bucket) == photos
    assert not list(Path().glob("deleted-*"))


def test_a_second_run_keeps_the_date_and_untags_photos_that_are_labelled_now(
    make_bucket, label, cleanse, tags_of, put_tags
):
    bucket = make_bucket(dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg"], b"x"))
    label("a.jpg", "b.jpg", "e.jpg")
    put_tags(bucket, "b.jpg", {TAG: "2026-01-31", "k": "v"})  # labelled since
    put_tags(bucket, "c.jpg", {TAG: "2026-01-31"})
    put_tags(bucket, "d.jpg", {TAG: "of somebody else"})

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--yes", "--expect", "2")

    assert ran.status == 0, ran.err
    assert f"s3://{bucket}: the tag was removed from 1 of 3 photos that stay\n" in ran.out
    assert f"s3://{bucket}: 1 of 2 tagged, 1 were tagged before\n" in ran.out
    tags = tags_of(bucket)
    assert (tags["b.jpg"], tags["c.jpg"], tags["d.jpg"]) == (
        {"k": "v"},
        {TAG: "2026-01-31"},
        {TAG: today()},
    )
    # Each value has a rule of its own, which expires its photos 30 days after the tagging.
    assert '"Value": "2026-01-31"' in ran.out
    assert '"Date": "2026-03-02T00:00:00Z"' in ran.out
    assert f'"Value": "{today()}"' in ran.out
    assert "S3 expires each photo 30 days after its tagging, the first on 2026-03-02:" in ran.out


def test_s3_accepts_the_printed_rule(make_bucket, label, cleanse, s3_direct):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--yes", "--expect", "1", "--json")

    rules = json.loads(ran.out)["lifecycle"]
    # botocore checks the form, and the server the content.
    s3_direct.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration=rules)
    (stored,) = s3_direct.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    assert stored["Status"] == "Enabled"
    assert stored["Filter"] == {"Tag": {"Key": TAG, "Value": today()}}
    expiry = stored["Expiration"]["Date"].astimezone(UTC)
    assert expiry.date() - datetime.now(UTC).date() == timedelta(days=30)
    assert (expiry.hour, expiry.minute, expiry.second) == (0, 0, 0)
    assert f"{expiry:%Y-%m-%d}" == rules["Rules"][0]["Expiration"]["Date"].removesuffix("T00:00:00Z")


def test_the_text_is_json_between_its_explanation(make_bucket, label, cleanse):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--yes", "--expect", "1")

    printed = ran.out[ran.out.index("\n{\n") : ran.out.index("\n}\n") + 2]
    assert json.loads(printed)["Rules"][0]["Filter"]["Tag"]["Key"] == TAG
    assert "put-bucket-lifecycle-configuration replaces all rules of a bucket." in ran.out
    assert f"get-bucket-lifecycle-configuration --bucket {bucket} --query '{{Rules: Rules}}'\n" in ran.out


@pytest.mark.parametrize("typed", ["", "y\n", "2\n"])
def test_without_the_number_no_photo_is_tagged_but_labelled_ones_lose_the_tag(
    make_bucket, label, cleanse, tags_of, put_tags, typed
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    put_tags(bucket, "a.jpg", {TAG: "2026-01-31"})

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed=typed)

    assert ran.status == 2
    assert "nothing was tagged" in ran.err
    assert tags_of(bucket) == {"a.jpg": {}, "b.jpg": {}}


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        (["z.jpg"], "no label matches any of its 3 photos"),
        (["a.jpg", {"poseId": 7}], "1 malformed record(s)"),
        (["a.jpg", "nowhere.jpg"], "1 of its 2 labels match no photo"),
        (["a.jpg"], "more than max_delete_share=0.5"),
    ],
)
def test_no_photo_of_a_refused_bucket_has_the_tag(
    make_bucket, label, cleanse, tags_of, put_tags, records, reason
):
    refused = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "c.jpg": b"c"})
    other = make_bucket({"d.jpg": b"d", "e.jpg": b"e"})
    label(*records, "d.jpg") if reason.startswith("more") else label(*records)
    for key in ("a.jpg", "b.jpg"):
        put_tags(refused, key, {TAG: "2026-01-31", "k": "v"})
    put_tags(other, "d.jpg", {TAG: "2026-01-31"})

    ran = cleanse("--sources", f"s3://{refused}", f"s3://{other}", "--tag", typed="1\n")

    assert ran.status == 1
    assert reason in ran.err
    assert tags_of(refused) == {"a.jpg": {"k": "v"}, "b.jpg": {"k": "v"}, "c.jpg": {}}
    is_labelled = reason.startswith("more")
    assert tags_of(other) == {"d.jpg": {}, "e.jpg": {TAG: today()} if is_labelled else {}}


def test_a_bucket_that_cannot_be_listed_keeps_its_tags_and_does_not_stop_the_others(
    make_bucket, label, cleanse, tags_of, put_tags, deny
):
    hidden = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    bucket = make_bucket({"c.jpg": b"c", "d.jpg": b"d"})
    label("a.jpg", "c.jpg")
    for name, key in ((hidden, "b.jpg"), (bucket, "c.jpg")):
        put_tags(name, key, {TAG: "2026-01-31"})
    deny(hidden, "s3:ListBucket")

    ran = cleanse("--sources", f"s3://{hidden}", f"s3://{bucket}", "--tag", typed="1\n")
    removed = cleanse("--sources", f"s3://{hidden}", f"s3://{bucket}", "--untag")

    assert ran.status == removed.status == 1
    assert f"NOT COMPLETE: s3://{hidden}: list s3://{hidden}: AccessDenied" in ran.err
    assert f"NOT COMPLETE: s3://{hidden}: list s3://{hidden}: AccessDenied" in removed.err
    assert '"s3:ListBucket"' in removed.err
    assert f"s3://{bucket}: the tag was removed from 1 of 2 photos\n" in removed.out
    assert tags_of(bucket) == {"c.jpg": {}, "d.jpg": {}}


def test_untag_needs_no_labels(make_bucket, cleanse, tags_of, put_tags, tmp_path):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b", "n.txt": b"n"})
    (tmp_path / "labels.json").write_text("[")
    put_tags(bucket, "a.jpg", {TAG: "2026-01-31", "k": "v"})
    put_tags(bucket, "b.jpg", {TAG: "nonsense"})

    ran = cleanse("--sources", f"s3://{bucket}", "--untag", "--json", min_age_hours=None)

    assert ran.status == 0, ran.err
    assert json.loads(ran.out)["untagged"] == [
        {
            "source": f"s3://{bucket}",
            "photos": 2,
            "tagged": 0,
            "untagged": 2,
            "untouched": 0,
            "kept": [],
            "changed": [],
            "gone": 0,
            "failures": [],
            "stopped": None,
        }
    ]
    assert tags_of(bucket) == {"a.jpg": {"k": "v"}, "b.jpg": {}, "n.txt": {}}


def test_an_applied_plan_tags_only_its_photos(make_bucket, label, cleanse, tags_of, put_tags, tmp_path):
    bucket = make_bucket(dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], b"x"))
    label("a.jpg", "b.jpg")
    put_tags(bucket, "d.jpg", {TAG: "2026-01-31"})  # a reader of the plan wants to keep it
    cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl")
    plan = tmp_path / "plan.jsonl"
    lines = plan.read_text().splitlines(keepends=True)
    plan.write_text("".join(line for line in lines if "d.jpg" not in line))

    ran = cleanse("--sources", f"s3://{bucket}", "--apply", "plan.jsonl", "--tag", typed="1\n")

    assert ran.status == 0, ran.err
    assert tags_of(bucket) == {"a.jpg": {}, "b.jpg": {}, "c.jpg": {TAG: today()}, "d.jpg": {}}


def test_a_photo_with_ten_tags_fails_with_a_sentence(make_bucket, label, cleanse, tags_of, put_tags):
    bucket = make_bucket(dict.fromkeys(["a.jpg", "b.jpg", "c.jpg", "d.jpg"], b"x"))
    label("a.jpg", "d.jpg")
    ten = {f"k{number}": "v" for number in range(10)}
    put_tags(bucket, "b.jpg", ten)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="2\n")

    assert ran.status == 1
    assert f"s3://{bucket}/b.jpg: it has 10 tags, the most that S3 allows; remove one of them\n" in ran.err
    assert "1 of 2 tagged, 1 failed" in ran.out
    assert tags_of(bucket)["b.jpg"] == ten
    assert tags_of(bucket)["c.jpg"] == {TAG: today()}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("event", "new_body", "ending"),
    [
        ("GetObjectTagging", b"new", "0 of 1 tagged, 1 stay: changed since the scan"),
        ("PutObjectTagging", b"new", "0 of 1 tagged, 1 stay: changed since the scan"),
        ("HeadObject", b"new", "0 of 1 tagged, 1 stay: changed since the scan"),
        ("GetObjectTagging", None, "0 of 1 tagged, 1 were already deleted"),
        ("PutObjectTagging", None, "0 of 1 tagged, 1 were already deleted"),
        ("HeadObject", None, "0 of 1 tagged, 1 were already deleted"),
    ],
)
def test_a_photo_that_changes_or_goes_while_it_is_tagged_has_no_tag(
    make_bucket, label, cleanse, tags_of, s3_direct, on_request, event, new_body, ending
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")

    def change(request, **_):
        if "b.jpg" not in request.url:
            return
        if new_body is None:
            s3_direct.delete_object(Bucket=bucket, Key="b.jpg")
        else:
            s3_direct.put_object(Bucket=bucket, Key="b.jpg", Body=new_body)

    on_request(f"before-send.s3.{event}", change)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n")

    assert ran.status == 0, ran.err
    assert f"s3://{bucket}: {ending}" in ran.out
    assert '"Rules"' not in ran.out
    assert all(TAG not in tags for tags in tags_of(bucket).values())


def test_a_tag_that_cannot_be_checked_is_removed(make_bucket, label, cleanse, tags_of, on_request):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    on_request("before-send.s3.HeadObject", lambda **_: refusal("AccessDenied", "scripted"))

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n")

    assert ran.status == 1
    assert "needs s3:GetObject on" in ran.err
    assert tags_of(bucket) == {"a.jpg": {}, "b.jpg": {}}


def test_a_tag_that_cannot_be_removed_from_a_changed_photo_is_a_failure(
    make_bucket, label, cleanse, tags_of, s3_direct, on_request
):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    puts = []

    def change(request, **_):
        puts.append(request.url)
        if len(puts) == 1:
            s3_direct.put_object(Bucket=bucket, Key="b.jpg", Body=b"new")
            return None
        return refusal("AccessDenied", "scripted")

    on_request("before-send.s3.PutObjectTagging", change)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n")

    assert ran.status == 1
    assert "; its tag could not be removed, give --untag: write the tags of " in ran.err
    assert cleanse("--sources", f"s3://{bucket}", "--untag").status == 1  # it is still refused
    assert TAG in tags_of(bucket)["b.jpg"]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["s3:GetObjectTagging", "s3:PutObjectTagging"])
def test_a_denied_right_is_reported_with_the_needed_policy(
    make_bucket, label, cleanse, tags_of, s3_direct, deny, action
):
    bucket = make_bucket({f"{number:03d}.jpg": b"x" for number in range(120)} | {"a.jpg": b"a"})
    label("a.jpg")
    deny(bucket, action, "*")

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--max-delete-share", "1", typed="120\n")

    assert ran.status == 1
    assert f"AccessDenied; the role or key needs {action} on arn:aws:s3:::{bucket}/*" in ran.err
    assert f"NOT COMPLETE: s3://{bucket}: S3 denied every photo of a batch" in ran.err
    needed = json.loads(ran.err.partition("needs this policy:\n")[2])
    assert [statement["Action"] for statement in needed["Statement"]] == [
        ["s3:ListBucket"],
        ["s3:GetObject", "s3:GetObjectTagging", "s3:PutObjectTagging"],
    ]
    s3_direct.delete_bucket_policy(Bucket=bucket)
    assert not any(tags_of(bucket).values())


def test_slow_down_is_retried(make_bucket, label, cleanse, tags_of, on_request):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    refused = set()

    def slow_down(request, **_):
        if (request.method, request.url) in refused:
            return None
        refused.add((request.method, request.url))
        return refusal("SlowDown", "scripted", status=503)

    for event in ("GetObjectTagging", "PutObjectTagging", "HeadObject"):
        on_request(f"before-send.s3.{event}", slow_down)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n")

    assert ran.status == 0, ran.err
    assert len(refused) == 4  # the tags of both photos are read, b.jpg is tagged and looked at
    assert tags_of(bucket) == {"a.jpg": {}, "b.jpg": {TAG: today()}}


@pytest.fixture
def small_batches(monkeypatch):
    """Make batches of two photos, one batch at a time."""
    for name, value in {"SMALL_BATCH": 2, "THREADS": 1}.items():
        monkeypatch.setattr(f"physiq_ray.cleanse.tag.{name}", value)


@pytest.mark.slow
def test_photos_labelled_while_others_are_tagged_lose_the_tag(
    make_bucket, label, cleanse, tags_of, put_tags, on_request, small_batches
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefghij"})
    label("a.jpg", "b.jpg")
    put_tags(bucket, "j.jpg", {TAG: "2026-01-31"})

    def label_more(request, **_):
        if "e.jpg" in request.url:  # c.jpg is tagged already, f.jpg is in the same batch
            label("a.jpg", "b.jpg", "c.jpg", "f.jpg", "i.jpg", "j.jpg")

    on_request("before-send.s3.PutObjectTagging", label_more)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--max-delete-share", "1", typed="8\n")

    assert ran.status == 0, ran.err
    assert "6 of 8 tagged, 3 lost the tag, 2 stay: the labels changed since the scan" in ran.out
    assert {key for key, tags in tags_of(bucket).items() if tags} == {"d.jpg", "e.jpg", "g.jpg", "h.jpg"}


def test_a_photo_labelled_while_the_last_batch_is_tagged_loses_the_tag(
    make_bucket, label, cleanse, tags_of, on_request
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcd"})
    label("a.jpg", "b.jpg")
    on_request("before-send.s3.PutObjectTagging", lambda **_: label("a.jpg", "b.jpg", "d.jpg") and None)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="2\n")

    assert ran.status == 0, ran.err
    assert "2 of 2 tagged, 1 lost the tag" in ran.out
    assert tags_of(bucket) == {"a.jpg": {}, "b.jpg": {}, "c.jpg": {TAG: today()}, "d.jpg": {}}


def test_a_label_file_damaged_between_two_batches_stops_the_bucket(
    make_bucket, label, cleanse, tags_of, on_request, small_batches
):
    bucket = make_bucket({f"{name}.jpg": b"x" for name in "abcdefgh"})
    path = label("a.jpg", "b.jpg")

    def tear(**_):
        path.write_text(path.read_text()[:30])

    on_request("before-send.s3.PutObjectTagging", tear)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", "--max-delete-share", "1", typed="6\n")

    assert ran.status == 1
    assert f"NOT COMPLETE: s3://{bucket}: the label file changed: " in ran.err
    assert "4 photos were not tried" in ran.err
    assert {key for key, tags in tags_of(bucket).items() if tags} == {"c.jpg", "d.jpg"}


@pytest.mark.slow
def test_an_interrupted_run_is_completed_by_the_next(
    make_bucket, label, cleanse, tags_of, on_request, small_batches
):
    bucket = make_bucket({f"{number:02d}.jpg": b"x" for number in range(10)} | {"keep.jpg": b"k"})
    label("keep.jpg")
    flags = ["--sources", f"s3://{bucket}", "--tag", "--max-delete-share", "1"]
    puts = []

    def interrupt(**_):
        puts.append(1)
        if len(puts) == 5:
            raise KeyboardInterrupt

    on_request("before-send.s3.PutObjectTagging", interrupt)

    first = cleanse(*flags, typed="10\n")
    tagged = sum(TAG in tags for tags in tags_of(bucket).values())
    second = cleanse(*flags, typed="10\n")

    assert first.status == 1
    assert "interrupted: run the same command again to complete the tags" in first.err
    assert tagged == 4
    assert second.status == 0
    assert "6 of 10 tagged, 4 were tagged before" in second.out


@pytest.mark.slow
def test_a_plain_scan_reads_no_tags(make_bucket, label, cleanse, on_request):
    bucket = make_bucket({"a.jpg": b"a", "b.jpg": b"b"})
    label("a.jpg")
    asked = []
    on_request("before-send.s3.GetObjectTagging", lambda **_: asked.append(1))

    assert cleanse("--sources", f"s3://{bucket}", "--plan", "plan.jsonl").status == 0
    assert asked == []
    assert cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n").status == 0
    assert len(asked) == 2  # one for each photo


def test_versions_and_delete_markers_do_not_change(make_bucket, label, cleanse, s3_direct, tags_of):
    bucket = make_bucket({})
    s3_direct.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    for key, body in (("a.jpg", b"a"), ("b.jpg", b"old"), ("b.jpg", b"new"), ("c.jpg", b"c")):
        s3_direct.put_object(Bucket=bucket, Key=key, Body=body)
    s3_direct.delete_object(Bucket=bucket, Key="c.jpg")
    label("a.jpg")
    before = s3_direct.list_object_versions(Bucket=bucket)

    ran = cleanse("--sources", f"s3://{bucket}", "--tag", typed="1\n")

    assert ran.status == 0, ran.err
    after = s3_direct.list_object_versions(Bucket=bucket)
    assert after["Versions"] == before["Versions"]
    assert after["DeleteMarkers"] == before["DeleteMarkers"]
    assert tags_of(bucket) == {"a.jpg": {}, "b.jpg": {TAG: today()}}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tag", "--delete"], "--tag marks photos and removes none; leave out --delete and --move-to"),
        (["--tag", "--move-to", "s3://attic/x"], "leave out --delete and --move-to"),
        (["--tag", "--restore", "j.jsonl"], "--restore excludes the other flags"),
        (["--untag", "--tag"], "--untag excludes the other flags"),
        (["--untag", "--plan", "p.jsonl"], "--untag excludes the other flags"),
        (["--untag", "--yes", "--expect", "1"], "go with --delete, --move-to, --tag or --apply"),
        (["--tag", "--yes"], "--yes needs --expect N"),
    ],
)
def test_contradictory_flags_are_refused(label, cleanse, flags, message):
    label("a.jpg")
    ran = cleanse(*flags)
    assert ran.status == 2
    assert message in ran.err
