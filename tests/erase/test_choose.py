"""Which versions are chosen, on listings that are written by hand."""

from datetime import UTC, datetime

import pyarrow as pa
import pytest

from physiq_ray.cleanse.journal import Entry
from physiq_ray.erase.choose import Photos, Request, choose_photos
from physiq_ray.erase.drop import drop_lines
from physiq_ray.erase.named import Named
from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.storage import Bucket
from physiq_ray.storage.history import HISTORY_SCHEMA


def history(bucket, *rows):
    """Make a listing from key, size and ETag of objects without versions."""
    return pa.Table.from_pylist(
        [
            {
                "uri": f"s3://{bucket}/{key}",
                "bucket": bucket,
                "key": key,
                "size": size,
                "etag": etag,
                "modified": datetime(2026, 11, 28, tzinfo=UTC),
                "version": "null",
                "is_latest": True,
                "is_marker": False,
            }
            for key, size, etag in rows
        ],
        HISTORY_SCHEMA,
    )


def choose(request, listings, entries=(), attic=None):
    """Choose from listings, with the listing of a bucket that is no source; give the addresses to delete."""
    photos = choose_photos(
        {Bucket(name): table for name, table in listings.items()},
        request,
        Labels(LABEL_SCHEMA.empty_table()),
        {7: "Back Lat Spread"},
        entries,
        source_buckets={},
        look_up=lambda uri: (attic or HISTORY_SCHEMA.empty_table()).filter(pa.compute.field("uri") == uri),
    )
    return [item.uri for item in photos.stored]


@pytest.mark.parametrize(
    ("found", "is_chosen"),
    [((9, "e"), True), ((9, "other"), False), ((8, "other"), False)],
    ids=["the moved photo", "another object of its size", "another object"],
)
def test_only_the_moved_content_is_chosen_in_the_attic(found, is_chosen):
    entry = Entry("s3://b/17/a.jpg", "moved", 9, "e", "s3://attic/b/17/a.jpg")
    attic = history("attic", ("b/17/a.jpg", *found))
    chosen = choose(Request(match="^17/"), {"b": history("b")}, [entry], attic)
    assert chosen == (["s3://attic/b/17/a.jpg"] if is_chosen else [])


def test_a_moved_photo_that_was_uploaded_in_parts_is_chosen_by_its_size():
    entry = Entry("s3://b/17/a.jpg", "moved", 9, "e-2", "s3://attic/b/17/a.jpg")
    attic = history("attic", ("b/17/a.jpg", 9, "md5"))
    assert choose(Request(match="^17/"), {"b": history("b")}, [entry], attic) == ["s3://attic/b/17/a.jpg"]


def test_a_chain_of_copies_is_not_followed():
    listing = history("b", ("17/a.jpg", 5, "x"), ("18/copy.jpg", 5, "x"), ("18/own.jpg", 5, "y"))
    assert choose(Request(match="^17/"), {"b": listing}) == ["s3://b/17/a.jpg", "s3://b/18/copy.jpg"]


def test_the_size_and_etag_of_a_list_find_copies_of_a_photo_that_is_gone():
    listing = history("b", ("in/copy.jpg", 5, "x"), ("in/other.jpg", 6, "x"), ("in/y.jpg", 5, "y"))
    named = Named("s3://b/17/a.jpg", 5, "x")
    assert choose(Request(named=(named,)), {"b": listing}) == ["s3://b/in/copy.jpg"]
    assert choose(Request(named=(Named("s3://b/17/a.jpg", 5, "x", is_older=True),)), {"b": listing}) == []


def test_lines_of_a_journal_are_dropped_with_the_line_that_only_names_their_uri():
    lines = [
        b'{"state": "moving", "uri": "s3://b/1", "size": 5, "etag": "x", "moved_to": "s3://attic/1"}\n',
        b'{"state": "moving", "uri": "s3://b/2", "size": 5, "etag": "y"}\n',
        b'{"state": "moved", "uri": "s3://b/1"}\n',
        b'{"state": "moved", "uri": "s3://b/2"}\n',
        b'{"state": "mov',
    ]
    photos = Photos(contents=frozenset({(5, "x")}))
    assert drop_lines(b"".join(lines), photos) == (lines[1] + lines[3] + lines[4], 2)
    assert drop_lines(b"".join(lines[::2][:2]), photos) == (None, 2)
