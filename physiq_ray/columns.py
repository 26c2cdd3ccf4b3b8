"""Columns of text of any length: which rows are equal, some rows, one array, joined texts.

A column has the type large_string, because the offsets of string have 32 bits: such an array ends at 2 GiB.

Equal texts are found by a hash of 64 bits. Texts of equal hash are compared, so the answer does not depend on
the hash. Arrow's hash tables give the same answer, but copy each distinct text, which takes more memory and
twice the time; and its group_by ends the process if the texts of a key have more than 2 GiB.
"""

from collections.abc import Iterator
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Column: TypeAlias = pa.Array | pa.ChunkedArray
IntArray = npt.NDArray[np.int64]
UInt64Array = npt.NDArray[np.uint64]

ROWS_AT_ONCE: Final = 2**16  # so that the arrays of a step fit into the processor's cache
_LENGTH, _WORD, _END = (  # odd, with random bits
    np.uint64(number) for number in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F)
)
_MASKS = np.array([2 ** (8 * count) - 1 for count in range(8)], np.uint64)


def widened(table: pa.Table) -> pa.Table:
    """Return the table with large_string in place of string."""
    fields = [
        field.with_type(pa.large_string()) if pa.types.is_string(field.type) else field
        for field in table.schema
    ]
    return table.cast(pa.schema(fields, table.schema.metadata))


def contiguous(column: Column) -> pa.Array:
    """Return the column as one array, without a copy if it has one chunk."""
    if isinstance(column, pa.Array):
        return column
    chunks = [chunk for chunk in column.chunks if len(chunk)]
    return chunks[0] if len(chunks) == 1 else column.combine_chunks()


def take_rows(column: Column, rows: IntArray) -> Column:
    """Return some rows; Arrow's take would copy all of a column that has several chunks."""
    mask = np.zeros(len(column), bool)
    mask[rows] = True
    kept = column if mask.all() else column.filter(pa.array(mask))
    if np.all(rows[1:] > rows[:-1]):
        return kept
    return contiguous(kept).take(pa.array((np.cumsum(mask) - 1)[rows]))


def join_texts(*texts: Column | str, by: str = "") -> Any:
    """Join texts row by row. A str is the same in each row, but not all may be str."""
    parts = [pa.scalar(text, pa.large_string()) if isinstance(text, str) else text for text in (*texts, by)]
    return pc.binary_join_element_wise(*parts)


def first_equal(texts: Column, numbers: IntArray | None = None) -> IntArray:
    """Return for each row the first row with the same text: int64 (n,).

    numbers: int64 (n,), which must be equal too; None if only the texts count.
    """
    texts = contiguous(texts)
    is_new = np.ones(len(texts), bool)
    is_new[1:] = pc.not_equal(texts.slice(1), texts.slice(0, max(0, len(texts) - 1))).to_numpy(
        zero_copy_only=False
    )
    if numbers is not None:
        is_new[1:] |= numbers[1:] != numbers[:-1]
    starts = np.flatnonzero(is_new)
    if len(starts) < len(texts) // 2:  # the same for the first rows of each run
        first = starts[
            first_equal(texts.take(pa.array(starts)), None if numbers is None else numbers[starts])
        ]
        return np.repeat(first, np.diff(starts, append=len(texts)))
    hashes = _hash(texts, numbers)
    order = np.argsort(hashes)
    starts = _starts(hashes[order])
    first = np.empty(len(order), np.int64)
    first[order] = np.repeat(np.minimum.reduceat(order, starts), np.diff(starts, append=len(order)))
    is_wrong = _differ(texts, numbers, texts, numbers, first)
    if is_wrong.any():  # two texts have one hash
        rows = np.flatnonzero(np.isin(hashes, hashes[is_wrong]))
        seen: dict[tuple[str, int], int] = {}
        for row, key in zip(rows.tolist(), _keys(texts, numbers, rows), strict=True):
            first[row] = seen.setdefault(key, row)
    return first


def find_equal(
    texts: Column,
    wanted: Column,
    numbers: IntArray | None = None,
    wanted_numbers: IntArray | None = None,
) -> IntArray:
    """Return for each text the first row of wanted with the same text, or -1: int64 (n,).

    numbers, wanted_numbers: int64 (n,) and (m,), which must be equal too; None if only the texts count.
    """
    found = np.full(len(texts), -1, np.int64)
    if not len(texts) or not len(wanted):
        return found
    wanted = contiguous(wanted)
    wanted_hashes = _hash(wanted, wanted_numbers)
    order = np.argsort(wanted_hashes)
    distinct = wanted_hashes[order]
    starts = _starts(distinct)
    distinct, first = distinct[starts], np.minimum.reduceat(order, starts)
    hashes = _hash(texts, numbers)
    order = np.argsort(hashes)  # a search for sorted hashes is ten times as fast
    place = np.minimum(np.searchsorted(distinct, hashes[order]), len(distinct) - 1)
    found[order] = np.where(distinct[place] == hashes[order], first[place], -1)
    is_wrong = _differ(texts, numbers, wanted, wanted_numbers, found)
    if is_wrong.any():  # two texts have one hash
        doubtful = hashes[is_wrong]
        rows = np.flatnonzero(np.isin(wanted_hashes, doubtful))
        known: dict[tuple[str, int], int] = {}
        for row, key in zip(rows.tolist(), _keys(wanted, wanted_numbers, rows), strict=True):
            known.setdefault(key, row)
        rows = np.flatnonzero(np.isin(hashes, doubtful))
        found[rows] = [known.get(key, -1) for key in _keys(texts, numbers, rows)]
    return found


def _starts(ordered: UInt64Array) -> IntArray:
    """Return where each run of equal values starts."""
    return np.flatnonzero(np.concatenate([np.ones(min(1, len(ordered)), bool), ordered[1:] != ordered[:-1]]))


def _differ(
    texts: Column,
    numbers: IntArray | None,
    others: pa.Array,
    other_numbers: IntArray | None,
    row_of: IntArray,
) -> npt.NDArray[np.bool_]:
    """Tell which texts differ from the row of others that row_of gives; -1 is no row."""
    differ = np.zeros(len(texts), bool)
    for start, part in _parts(texts):
        rows = row_of[start : start + len(part)]
        is_other = rows != np.arange(start, start + len(part)) if texts is others else rows >= 0
        here = np.flatnonzero(is_other)
        if not len(here):
            continue
        chosen = part if len(here) == len(part) else part.take(pa.array(here))
        is_equal = pc.equal(chosen, others.take(pa.array(rows[here]))).to_numpy(zero_copy_only=False)
        if numbers is not None and other_numbers is not None:
            is_equal &= numbers[start + here] == other_numbers[rows[here]]
        differ[start + here] = ~is_equal
    return differ


def _keys(texts: Column, numbers: IntArray | None, rows: IntArray) -> Iterator[tuple[str, int]]:
    values = np.zeros(len(rows), np.int64) if numbers is None else numbers[rows]
    return zip(texts.take(pa.array(rows)).to_pylist(), values.tolist(), strict=True)


def _parts(texts: Column) -> Iterator[tuple[int, pa.Array]]:
    """Yield pieces of a column with the row at which each begins."""
    start = 0
    for chunk in texts.chunks if isinstance(texts, pa.ChunkedArray) else [texts]:
        for offset in range(0, len(chunk), ROWS_AT_ONCE):
            part = chunk.slice(offset, ROWS_AT_ONCE)
            yield start, part
            start += len(part)


def _hash(texts: Column, numbers: IntArray | None) -> UInt64Array:
    hashes = np.empty(len(texts), np.uint64)
    for start, part in _parts(texts):
        hashes[start : start + len(part)] = _hash_part(part)
    if numbers is not None:
        _mix(hashes, numbers.astype(np.uint64) * _LENGTH)
    return hashes


def _hash_part(texts: pa.Array) -> UInt64Array:
    """Hash texts eight bytes at a time, all texts together."""
    texts = texts.cast(pa.large_string())  # offsets of another width would be misread
    _, offset_bytes, text_bytes = texts.buffers()
    offsets = np.frombuffer(offset_bytes, np.int64)[texts.offset :][: len(texts) + 1]
    begin, end = int(offsets[0]), int(offsets[-1])
    data = np.zeros(end - begin + 8, np.uint8)  # a word may begin at the last byte
    if end > begin:
        data[:-8] = np.frombuffer(text_bytes, np.uint8)[begin:end]
    words: UInt64Array = np.ndarray(len(data) - 7, "<u8", data, strides=(1,))  # one begins at each byte
    place, left = offsets[:-1] - begin, np.diff(offsets)
    hashes = left.astype(np.uint64) * _LENGTH
    rows = np.arange(len(texts))
    while len(rows):
        word = words[place]
        is_last = left < 8
        word[is_last] &= _MASKS[left[is_last]]
        mixed = hashes[rows]
        _mix(mixed, word)
        hashes[rows] = mixed
        goes_on = left > 8
        rows, place, left = rows[goes_on], place[goes_on] + 8, left[goes_on] - 8
    hashes *= _END
    hashes ^= hashes >> np.uint64(29)
    return hashes


def _mix(hashes: UInt64Array, words: UInt64Array) -> None:
    hashes ^= words
    hashes *= _WORD
    hashes ^= hashes >> np.uint64(32)
