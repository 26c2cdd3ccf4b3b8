import dataclasses

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from physiq_ray.errors import PredictionError, SettingError
from physiq_ray.prediction.parts import PartWriter, read_parts


def logits(num_rows):
    return np.random.default_rng(0).normal(size=(num_rows, 3)).astype(np.float32)


def write(output, state, uris, *, next_number=0, part_rows=3):
    writer = PartWriter(str(output), state, next_number=next_number, part_rows=part_rows)
    writer.add(uris, logits(len(uris)))
    writer.flush()
    return writer.files


def test_parts_have_part_rows_rows_and_the_last_one_has_the_rest(state, tmp_path):
    files = write(tmp_path, state, list("abcdefgh"), next_number=4)
    assert files == [str(tmp_path / f"part-0000{n}.parquet") for n in (4, 5, 6)]
    assert [pq.read_table(file)["uri"].to_pylist() for file in files] == [
        list("abc"),
        list("def"),
        list("gh"),
    ]
    earlier = read_parts(str(tmp_path), state)
    assert (sorted(earlier.uris.to_pylist()), earlier.next_number) == (list("abcdefgh"), 7)


def test_a_new_output_has_no_answers(state, tmp_path):
    earlier = read_parts(str(tmp_path / "new"), state)
    assert (len(earlier.uris), earlier.next_number) == (0, 0)


def test_a_lost_part_leaves_a_gap_and_the_next_number_overwrites_none(state, tmp_path):
    first, _ = write(tmp_path, state, list("abcdef"))
    (tmp_path / "part-00001.parquet").rename(tmp_path / "part-100000.parquet")
    assert read_parts(str(tmp_path), state).next_number == 100_001
    assert first == str(tmp_path / "part-00000.parquet")


def test_answers_of_another_model_are_refused_with_both_versions(state, tmp_path):
    write(tmp_path, state, ["a"])
    other = dataclasses.replace(state, version="ba9876543210")
    message = (
        r"part-00000\.parquet has answers of model '0123456789ab', .* 'ba9876543210'; give another --output"
    )
    with pytest.raises(SettingError, match=message):
        read_parts(str(tmp_path), other)


def test_a_damaged_part_is_named_with_its_remedy(state, tmp_path):
    write(tmp_path, state, list("abc"))
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    flipped = bytearray(whole)
    flipped[60] ^= 1
    for data in (b"", whole[:-20], bytes(flipped)):
        file.write_bytes(data)
        with pytest.raises(PredictionError, match=r"part-00000\.parquet: damaged .*; delete it and run"):
            read_parts(str(tmp_path), state)


def test_a_parquet_file_without_answers_is_refused(state, tmp_path):
    pq.write_table(pa.table({"uri": ["a"]}), tmp_path / "part-00001.parquet")
    with pytest.raises(PredictionError, match=r"part-00001\.parquet: not a file of predictions"):
        read_parts(str(tmp_path), state)
