import dataclasses
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import torch
from PIL import Image

from physiq_ray import storage
from physiq_ray.errors import (
    CheckpointError,
    NotFoundError,
    PredictionError,
    SettingError,
    StorageError,
    UnreachableError,
)
from physiq_ray.prediction import batch, parts
from physiq_ray.prediction.answer import to_probabilities
from physiq_ray.prediction.batch import (
    ActorPlan,
    Outage,
    list_photos,
    plan_actors,
    predict_table,
    predict_to_parquet,
)

SIZE = (72, 96)


@pytest.fixture
def photos(make_photo):
    return {f"new/{n:02d} é.jpeg": make_photo(seed=n, size=SIZE) for n in range(11)}


def rows(folder):
    """Give all rows of the parts as a reader of the folder sees them."""
    return pq.read_table(folder).to_pylist()


def test_answers_are_those_of_each_photo_alone_in_the_table_s_order(
    ray_local, state, predictor, make_bucket, photos
):
    files = {"broken.jpeg": b"no photo", **photos}
    bucket = make_bucket(files)
    uris = [f"s3://{bucket}/{key}" for key in files]
    table = pa.table({"uri": uris, "size": [len(data) for data in files.values()], "class_index": [0] * 12})
    constant = {"fc.weight": torch.zeros(3, 2048), "fc.bias": torch.tensor([1.0, 2.0, 3.0])}
    other = dataclasses.replace(state, state_dict={**state.state_dict, **constant})
    seen = []
    batches = list(
        predict_table(
            table,
            [state, other],
            precision="fp32",
            batch_size=4,
            with_brightness=True,
            on_progress=lambda *counts: seen.append(counts),
        )
    )
    assert [uri for batch in batches for uri in batch.uris] == uris[1:]
    assert [(item.uri, item.step) for batch in batches for item in batch.unreadable] == [(uris[0], "decode")]
    assert seen[-1] == (12, 12)
    brightness = [value for batch in batches for value in batch.brightness]
    luma = [np.asarray(Image.open(io.BytesIO(data)).convert("L")).mean() / 255 for data in photos.values()]
    assert brightness == pytest.approx(luma, abs=0.01)
    logits = [row for batch in batches for row in batch.outputs[0]]
    for (key, data), row in zip(photos.items(), logits, strict=True):
        answer = {item.pose_id: item.probability for item in predictor.predict(data, uri=key).probabilities}
        alone = [answer[pose_id] for pose_id in state.class_mapping.pose_ids]
        together = to_probabilities(torch.from_numpy(row[None]), 1.0)[0].tolist()
        assert together == pytest.approx(alone, abs=1e-5)
    assert [row.tolist() for batch in batches for row in batch.outputs[1]] == [[1.0, 2.0, 3.0]] * 11


def test_a_bucket_and_a_folder_become_parts_of_so_many_rows(
    ray_local, state, make_bucket, make_photo, photos, tmp_path
):
    hot = dataclasses.replace(state, temperature=1e6)
    bucket = make_bucket(photos)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jpeg").write_bytes(make_photo(seed=20, size=SIZE))
    (tmp_path / "folder" / "empty.png").write_bytes(b"")
    addresses = [f"s3://{bucket}", f"s3://{bucket}/new", str(tmp_path / "folder"), "s3://not-there-at-all"]
    result = predict_to_parquet(addresses, hot, str(tmp_path / "out"), precision="fp32", part_rows=5)
    assert (result.num_answered, result.num_unreadable, result.num_skipped) == (12, 1, 0)
    assert result.files == tuple(str(tmp_path / "out" / f"part-0000{n}.parquet") for n in range(3))
    assert [pq.read_metadata(uri).num_rows for uri in result.files] == [5, 5, 2]
    (failure,) = result.failures
    assert failure.startswith("list s3://not-there-at-all: NoSuchBucket")
    unreadable = json.loads((tmp_path / "out" / "_unreadable.jsonl").read_text(encoding="utf-8"))
    assert (unreadable["uri"], unreadable["step"]) == (str(tmp_path / "folder" / "empty.png"), "decode")

    schema = pq.read_schema(result.files[0])
    assert [(field.name, str(field.type)) for field in schema] == [
        ("uri", "string"),
        ("pose_id", "int32"),
        ("pose", "string"),
        ("confidence", "float"),
        ("error", "string"),
        ("probability_11", "float"),
        ("probability_2", "float"),
        ("probability_7", "float"),
    ]
    assert schema.metadata == {
        b"physiq_ray.model_version": b"0123456789ab",
        b"physiq_ray.classes": b'["11", "2", "7"]',
    }
    table = rows(tmp_path / "out")
    # Read as one table, the folder has the photo without an answer too.
    (without,) = (row for row in table if row["error"] is not None)
    assert without == {
        "uri": str(tmp_path / "folder" / "empty.png"),
        "error": "empty: no bytes at all",
        **dict.fromkeys(["pose_id", "pose", "confidence"]),
        **dict.fromkeys(["probability_11", "probability_2", "probability_7"]),
    }
    table.remove(without)
    expected = {f"s3://{bucket}/{key}" for key in photos} | {str(tmp_path / "folder" / "a.jpeg")}
    assert {row["uri"] for row in table} == expected
    for row in table:
        shares = [row[f"probability_{pose_id}"] for pose_id in (11, 2, 7)]
        assert shares == pytest.approx([1 / 3] * 3, abs=1e-4)  # the model's temperature counts
        assert row["confidence"] == max(shares) == row[f"probability_{row['pose_id']}"]
        assert row["pose"] == state.pose_names[row["pose_id"]]


def test_a_second_run_predicts_new_and_unreadable_photos_and_changes_no_part(
    ray_local, s3_direct, state, make_bucket, make_photo, photos
):
    bucket = make_bucket({**photos, "new/later.jpeg": b"cut off"})
    output = f"s3://{make_bucket({})}/answers"
    first = predict_to_parquet([f"s3://{bucket}"], state, output, precision="fp32", part_rows=8)
    assert (first.num_answered, first.num_unreadable) == (11, 1)
    assert [item.uri for item in first.examples] == [f"s3://{bucket}/new/later.jpeg"]

    def objects():
        listed = s3_direct.list_objects_v2(Bucket=output.split("/")[2])["Contents"]
        return {item["Key"].removeprefix("answers/"): item["ETag"] for item in listed}

    def num_rows(name):
        stored = s3_direct.get_object(Bucket=output.split("/")[2], Key=f"answers/{name}")["Body"].read()
        return pq.read_metadata(io.BytesIO(stored)).num_rows

    before = objects()
    assert set(before) == {
        "part-00000.parquet",
        "part-00001.parquet",
        "unreadable.parquet",
        "_unreadable.jsonl",
    }
    assert num_rows("unreadable.parquet") == 1
    s3_direct.put_object(Bucket=bucket, Key="new/later.jpeg", Body=make_photo(seed=30, size=SIZE))
    second = predict_to_parquet([f"s3://{bucket}"], state, output, precision="fp32", part_rows=8)
    assert (second.num_answered, second.num_unreadable, second.num_skipped) == (1, 0, 11)
    assert second.files == (f"{output}/part-00002.parquet",)
    after = objects()
    parts = ("part-00000.parquet", "part-00001.parquet")
    assert [after[name] for name in parts] == [before[name] for name in parts]
    assert num_rows("unreadable.parquet") == 0  # no photo has two rows
    assert (
        s3_direct.get_object(Bucket=output.split("/")[2], Key="answers/_unreadable.jsonl")["Body"].read()
        == b""
    )
    third = predict_to_parquet([f"s3://{bucket}"], state, output, precision="fp32", part_rows=8)
    assert (third.num_answered, third.num_skipped, third.files) == (0, 12, ())
    assert objects() == after


def away(uri):
    raise UnreachableError(f"read {uri}: 503")


def test_an_unreachable_storage_stops_the_run_after_many_photos_in_a_row():
    outage = Outage(away)
    outage.check(["a"] * 40, ["fetch"] * 40)
    outage.check(["b"] * 40, ["fetch"] * 10 + [""] + ["fetch"] * 29)
    outage.check(["c"] * 34, ["fetch"] * 34)
    with pytest.raises(
        PredictionError,
        match="the last 65 photos could not be fetched, and the storage still does not respond: read d: 503",
    ):
        outage.check(["x", "d"], ["fetch"] * 2)


def test_gone_and_damaged_photos_never_stop_the_run():
    def gone(uri):
        raise NotFoundError(f"read {uri}: NoSuchKey")

    for outage in (Outage(gone), Outage(lambda _: b"back again")):
        for _ in range(4):
            outage.check(["a"] * 50, ["fetch"] * 50)
    Outage(away).check(["a"] * 500, ["decode"] * 500)


class Answering:
    """Replaces Ray Data: gives these blocks of columns, whatever function is mapped."""

    def __init__(self, blocks):
        self.blocks = blocks

    def map_batches(self, *_, **__):
        return self

    def iter_batches(self, **_):
        yield from self.blocks


@pytest.fixture
def answering(monkeypatch, tmp_path):
    """Give a function that writes photos and replaces Ray's answers: a list of steps for each block."""

    def install(*blocks):
        (tmp_path / "in").mkdir()
        columns, number = [], 0
        for steps in blocks:
            uris = [str(tmp_path / "in" / f"{number + n:04d}.jpeg") for n in range(len(steps))]
            number += len(steps)
            for uri in uris:
                Path(uri).write_bytes(b"x")
            columns.append(
                {
                    **{"uri": np.array(uris, object), "step": np.array(steps, object)},
                    **{"error": np.array(steps, object), "outputs_0": np.zeros((len(steps), 3), np.float32)},
                }
            )
        monkeypatch.setattr(batch, "build_dataset", lambda *_, **__: Answering(columns))
        monkeypatch.setattr(batch, "connect", lambda **_: None)
        monkeypatch.setattr(batch, "cluster_nodes", lambda: [{"CPU": 2}])
        monkeypatch.setattr(ray, "put", lambda value: value)
        return str(tmp_path / "in"), str(tmp_path / "out")

    return install


def test_answers_before_an_outage_are_kept(answering, monkeypatch, state):
    photos, output = answering([""] * 7, ["fetch"] * 70, [""] * 5)
    monkeypatch.setattr(batch.Outage.__init__, "__defaults__", (away,))
    with pytest.raises(PredictionError) as caught:
        predict_to_parquet([photos], state, output)
    assert "the last 70 photos could not be fetched" in str(caught.value)
    assert f"{output} keeps the answers written so far; run the same command again to resume" in str(
        caught.value
    )
    table = rows(output)
    assert [row["error"] for row in table] == [None] * 7 + ["fetch"] * 70


@pytest.mark.parametrize(("num_refusals", "kept", "lost"), [(1, 10, None), (9, 4, 6)])
def test_answers_that_cannot_be_written_are_tried_again_and_then_counted(
    answering, monkeypatch, state, num_refusals, kept, lost
):
    photos, output = answering([""] * 4, [""] * 6, [""] * 5)
    refused = []

    def write_bytes(data, uri):
        if "part-00001" in uri and len(refused) < num_refusals:
            refused.append(uri)
            raise StorageError(f"write {uri}: No space left on device")
        storage.write_bytes(data, uri)

    monkeypatch.setattr(parts, "write_bytes", write_bytes)
    with pytest.raises(StorageError) as caught:
        predict_to_parquet([photos], state, output, part_rows=4)
    assert "part-00001.parquet: No space left on device" in str(caught.value)
    assert ("lost" in str(caught.value)) == (lost is not None)
    assert lost is None or f"the last {lost} answers are lost" in str(caught.value)
    assert "run the same command again to resume" in str(caught.value)
    assert len(rows(output)) == kept


def test_an_output_that_is_not_a_number_is_listed_as_unreadable(ray_local, state, make_photo, tmp_path):
    (tmp_path / "a.jpeg").write_bytes(make_photo(size=SIZE))
    bias = torch.full((3,), 3e38)
    huge = dataclasses.replace(
        state,
        state_dict={**state.state_dict, "fc.bias": bias, "fc.weight": torch.full((3, 2048), 3e38)},
    )
    table = pa.table({"uri": [str(tmp_path / "a.jpeg")], "size": [(tmp_path / "a.jpeg").stat().st_size]})
    (answered,) = predict_table(table, [state, huge], precision="fp32")
    assert answered.uris == ()
    assert [(item.step, item.error[:34]) for item in answered.unreadable] == [
        ("predict", "the network's output is not a numb")
    ]


def test_an_empty_prefix_and_a_missing_bucket_are_told_apart(state, make_bucket, tmp_path):
    bucket = make_bucket({"other/notes.txt": b"x"})
    with pytest.raises(StorageError) as caught:
        predict_to_parquet([f"s3://{bucket}/new", "s3://not-there-at-all"], state, str(tmp_path / "out"))
    assert f"s3://{bucket}/new: no photos in it" in str(caught.value)
    assert "list s3://not-there-at-all: NoSuchBucket" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_single_photos_are_listed_beside_folders_and_each_once(make_bucket, tmp_path):
    (tmp_path / "a.jpeg").write_bytes(b"12345")
    bucket = make_bucket({"x/b.jpeg": b"123", "x/c.jpeg": b"1"})
    addresses = [str(tmp_path), str(tmp_path / "a.jpeg"), f"s3://{bucket}/x/b.jpeg", f"s3://{bucket}/x"]
    table, failures = list_photos(addresses)
    assert failures == ()
    assert sorted(zip(*table.select(["uri", "size"]).to_pydict().values(), strict=True)) == [
        (str(tmp_path / "a.jpeg"), 5),
        (f"s3://{bucket}/x/b.jpeg", 3),
        (f"s3://{bucket}/x/c.jpeg", 1),
    ]
    assert all(table["etag"].to_pylist())  # also of a photo that is named alone, as a listing has it too


def test_a_missing_output_bucket_is_an_error_before_any_prediction(state, tmp_path):
    with pytest.raises(StorageError, match="list s3://not-there-at-all/answers: NoSuchBucket"):
        predict_to_parquet([str(tmp_path)], state, "s3://not-there-at-all/answers")


def test_weights_that_do_not_fit_are_refused_by_name(state):
    broken = dataclasses.replace(state, state_dict={"fc.bias": state.state_dict["fc.bias"]})
    table = pa.table({"uri": ["/nowhere.jpeg"], "size": [1]})
    with pytest.raises(CheckpointError, match="weights do not fit"):
        list(predict_table(table, [state, broken]))


def test_parts_of_no_rows_are_refused(state, tmp_path):
    with pytest.raises(SettingError, match="part_rows=0"):
        predict_to_parquet([str(tmp_path)], state, str(tmp_path / "out"), part_rows=0)


@pytest.mark.parametrize(
    ("nodes", "plan"),
    [
        ([{"CPU": 2}], ActorPlan(1, 0.999, 0, threads=2)),
        ([{"CPU": 1}, {"CPU": 1}], ActorPlan(1, 0.999, 0, threads=1)),
        ([{"CPU": 8}, {"CPU": 16}, {"memory": 1.0}], ActorPlan(2, 0.999, 0, threads=8)),
        ([{"CPU": 4}, {"CPU": 8, "GPU": 2}], ActorPlan(2, 0.999, 1, threads=1)),
        ([{"CPU": 4, "GPU": 8}], ActorPlan(8, 0.375, 1, threads=1)),
    ],
)
def test_actors_leave_a_cpu_for_decoding(nodes, plan):
    assert plan_actors(nodes) == plan


def test_an_actor_that_reserves_no_gpu_computes_on_the_cpu(monkeypatch, state):
    monkeypatch.setattr(batch.ray, "get", lambda reference: reference)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    actor = batch.NetworkActor([state], "fp32", ActorPlan(1, 0.999, 0, threads=torch.get_num_threads()))
    images = np.zeros((2, SIZE[0], SIZE[0], 3), np.uint8)
    empty = np.array(["", ""])
    answers = actor({"image": images, "uri": empty, "step": empty, "error": empty})
    assert np.isfinite(answers["outputs_0"]).all()


def test_a_cluster_of_one_cpu_is_refused():
    with pytest.raises(PredictionError, match="has 1 CPUs"):
        plan_actors([{"CPU": 1}])
