"""Equal texts are compared with Python's own answer; columns of more than 2 GiB are in the long tests."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray import columns
from physiq_ray.columns import contiguous, find_equal, first_equal, join_texts, take_rows, widened

TEXTS = st.lists(st.sampled_from(["", "a", "é", "é", "a" * 7, "a" * 8, "a" * 9, "漢" * 5]), max_size=30)


def column_of(texts, cut=0):
    """Give the texts in two chunks."""
    parts = [pa.array(part, pa.large_string()) for part in (texts[:cut], texts[cut:])]
    return pa.chunked_array(parts, pa.large_string())


def row_of_each(texts, wanted):
    return [wanted.index(text) if text in wanted else -1 for text in texts]


def all_alike(texts):
    return np.zeros(len(texts), np.uint64)


@pytest.fixture(params=["hashes that differ", "hashes that are all alike"])
def hashes(request, monkeypatch):
    if request.param == "hashes that are all alike":
        monkeypatch.setattr(columns, "_hash_part", all_alike)
    monkeypatch.setattr(columns, "ROWS_AT_ONCE", 4)


@pytest.mark.slow
@pytest.mark.usefixtures("hashes")
@given(TEXTS, TEXTS, st.integers(0, 30))
def test_equal_texts_are_found_whatever_their_hashes_are(texts, wanted, cut):
    assert first_equal(column_of(texts, cut)).tolist() == row_of_each(texts, texts)
    found = find_equal(column_of(texts, cut), column_of(wanted, cut))
    assert found.tolist() == row_of_each(texts, wanted)


@pytest.mark.slow
@pytest.mark.usefixtures("hashes")
@given(TEXTS, TEXTS, st.data())
def test_numbers_must_be_equal_too(texts, wanted, data):
    number = st.integers(-1, 1)
    numbers = data.draw(st.lists(number, min_size=len(texts), max_size=len(texts)))
    wanted_numbers = data.draw(st.lists(number, min_size=len(wanted), max_size=len(wanted)))
    pairs, wanted_pairs = (
        list(zip(texts, numbers, strict=True)),
        list(zip(wanted, wanted_numbers, strict=True)),
    )
    arrays = np.array(numbers, np.int64), np.array(wanted_numbers, np.int64)
    assert first_equal(column_of(texts), arrays[0]).tolist() == row_of_each(pairs, pairs)
    found = find_equal(column_of(texts), column_of(wanted), *arrays)
    assert found.tolist() == row_of_each(pairs, wanted_pairs)


@given(TEXTS.filter(len), st.data())
def test_rows_are_taken_in_any_order_and_repeatedly(texts, data):
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1)))
    taken = take_rows(column_of(texts, 3), np.array(rows, np.int64))
    assert taken.to_pylist() == [texts[row] for row in rows]
    assert taken.type == pa.large_string()


def test_one_chunk_is_not_copied():
    column = pa.chunked_array([pa.array([], pa.large_string()), pa.array(["a", "b"], pa.large_string())])
    assert contiguous(column).buffers()[2].address == column.chunk(1).buffers()[2].address


def test_texts_are_joined_with_texts_that_are_the_same_in_each_row():
    names = pa.array(["a", "b"], pa.large_string())
    assert join_texts("s3://", names, by="/").to_pylist() == ["s3:///a", "s3:///b"]
    assert join_texts(names, names).type == pa.large_string()


def test_only_string_columns_are_widened():
    table = pa.table({"uri": ["a"], "size": [1], "wide": pa.array(["b"], pa.large_string())})
    assert [str(kind) for kind in widened(table).schema.types] == ["large_string", "int64", "large_string"]
    assert widened(table).to_pylist() == table.to_pylist()


def test_texts_with_offsets_of_32_bits_are_read_as_they_are():
    texts, wanted = pa.array(["b", "long text", "a", ""]), pa.array(["", "a", "long text"])
    assert find_equal(texts, wanted).tolist() == [-1, 2, 1, 0]
    assert find_equal(texts.cast(pa.large_string()), wanted).tolist() == [-1, 2, 1, 0]
    assert first_equal(pa.array(["a", "b", "a"])).tolist() == [0, 1, 0]
