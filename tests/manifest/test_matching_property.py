"""No photo that a label can mean is ever in a deletion plan, whatever the spelling of its name."""

import unicodedata
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, quote_plus

import pyarrow as pa
import pytest
from building import list_bucket
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.cleanse import plan_cleanse
from physiq_ray.errors import quoted
from physiq_ray.labels import LABEL_SCHEMA, Labels
from physiq_ray.manifest import find_labelled, match_photos
from physiq_ray.manifest.names import read_keys, read_labels

pytestmark = pytest.mark.slow

POSES = {1: "Front Lat Spread", 7: "Back Lat Spread"}

stems = st.text("abA +%20\u00e9e\u0301-.'&", min_size=1, max_size=6).filter(lambda stem: stem.strip(" '.-"))
endings = st.sampled_from([".jpg", ".JPG", ".jpeg", ".Png"])
folders = st.sampled_from(["", "", "anna/", "bea/", "anna/x y/", "A%20/"])
keys = st.builds(lambda folder, stem, ending: folder + stem + ending, folders, stems, endings)

# Spellings of the last part of a key, and spellings of a whole key.
OF_NAME: Final[Sequence[Callable[[str], str]]] = (
    str,
    quote,
    quote_plus,
    lambda name: quote(quote(name)),
    lambda name: unicodedata.normalize("NFD", name),
    lambda name: unicodedata.normalize("NFC", name),
    lambda name: name[:-3] + name[-3:].swapcase(),
    lambda name: quote(name[:-3] + name[-3:].upper()),
    lambda name: f'"{name}"',
    lambda name: f"\ufeff{name}\r\n",
    lambda name: f"./{name}",
)
OF_KEY: Final[Sequence[Callable[[str], str]]] = (
    str,
    lambda key: quote(key, safe=""),
    lambda key: "/" + key,
    lambda key: key.replace("/", "\\"),
    lambda key: f"s3://bucket/{key}",
    lambda key: f"s3://bucket/{quote(key)}",
    lambda key: f"bucket/{key}",
    lambda key: f"https://cdn.example/{quote(key)}?X-Amz-Signature=0",
    lambda key: f"https://bucket.s3.eu-west-1.amazonaws.com/{quote(key)}",
    lambda key: f"https://s3.amazonaws.com/bucket/{quote_plus(key)}",
    lambda key: "C:\\photos\\" + key.replace("/", "\\"),
)


def spell(key: str, way: int) -> str:
    """Spell a key in one of the ways."""
    if way < len(OF_NAME):
        return OF_NAME[way](key.rpartition("/")[2])
    return OF_KEY[way - len(OF_NAME)](key)


def named_exactly(label: str, keys: Sequence[str]) -> set[str]:
    """Give the keys that a label names without a change of spelling."""

    def same(key: str) -> bool:
        plain = label.removeprefix("s3://bucket/")
        wanted = key if "/" in plain or plain != label else key.rpartition("/")[2]
        return unicodedata.normalize("NFC", wanted) == unicodedata.normalize("NFC", plain)

    return {key for key in keys if same(key)}


@given(
    st.lists(keys, min_size=1, max_size=8, unique=True),
    st.lists(
        st.tuples(
            st.integers(0, 7), st.integers(0, len(OF_NAME) + len(OF_KEY) - 1), st.sampled_from([1, 7, None])
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_no_photo_that_a_label_can_mean_is_in_a_deletion_plan(
    keys: list[str], spelled_as: list[tuple[int, int, int | None]]
) -> None:
    targets = [(keys[place % len(keys)], way, pose) for place, way, pose in spelled_as]
    labels = [(spell(key, way), key, pose) for key, way, pose in targets]
    table = pa.Table.from_pylist(
        [{"name": label, "pose_id": pose} for label, _, pose in labels], schema=LABEL_SCHEMA
    )
    listing = list_bucket("bucket", *keys)

    plan = plan_cleanse([listing], Labels(table), POSES, now=datetime.now(UTC), max_delete_share=1)
    (named,) = find_labelled([listing], Labels(table), POSES, {})
    manifest = match_photos([listing], Labels(table), POSES)

    assert named is not None
    planned = set(plan.buckets[0].table["key"].to_pylist())
    labelled = dict(zip(keys, named.is_labelled.to_pylist(), strict=True))
    for label, target, _ in labels:
        for key in named_exactly(label, keys) or {target}:
            assert labelled[key], (label, key)
            assert key not in planned
    # A photo is used for training only if a label means it, and only with the pose of a label.
    for key, pose in zip(
        manifest.table["key"].to_pylist(), manifest.table["pose_id"].to_pylist(), strict=True
    ):
        assert labelled[key]
        assert pose in {pose for _, _, pose in labels}


@given(st.lists(st.one_of(keys, st.text(max_size=12)), min_size=1, max_size=6), st.integers(0, 21))
def test_names_are_read_equally_by_column_and_one_by_one(names: list[str], way: int) -> None:
    names = [spell(name, way) if "." in name else name for name in names]

    together = read_labels(pa.array(names, pa.large_string()), ["bucket"])
    keys_together = read_keys(pa.array(names, pa.large_string()))

    for row, name in enumerate(names):
        alone = read_labels(
            pa.array([f"{name}\u200b"], pa.large_string()), ["bucket"]
        )  # with this character, it is not read by column
        chosen = together.row == row
        assert sorted(together.text.filter(pa.array(chosen)).to_pylist()) == sorted(alone.text.to_pylist())
        assert set(together.kind[chosen].tolist()) == set(alone.kind.tolist())
        assert keys_together.text.filter(pa.array(keys_together.row == row)).to_pylist()


@given(st.text())
def test_a_quoted_name_shows_every_character(name: str) -> None:
    shown = quoted(name)

    assert shown[0] == shown[-1]
    assert shown[0] in {"'", '"'}
    assert shown.isprintable()
    assert not any(unicodedata.category(char).startswith("M") for char in shown)
