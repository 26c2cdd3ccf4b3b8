"""Decisions are brought into the text of a label file, and everything else in it stays."""

import json
from typing import Any

import pytest

from physiq_ray.errors import LabelError
from physiq_ray.labels.merge import Decided, Existing, Merged, merge_decisions, parse_label_text

URI = "s3://checkins/a.jpg"
OTHER = "s3://checkins/b.jpg"
LIST = (
    b'[\n  {"poseId": 7.0, "s3Filename": "a.jpg", "coach": "\\u00e9"},\n'
    b'  {"pose_id": "5", "key": "b.jpg"}\n]\n'
)
LINES = b'{"poseId": 7, "s3Filename": "a.jpg"}\n{"poseId": 5, "s3Filename": "b.jpg", "x": [1, 2]}\n'


def decided(pose_id: int | None, uri: str = URI, time: str = "t1", **more: Any) -> Decided:
    return Decided(uri, pose_id, "review", time, **{"written": frozenset({(time, pose_id)}), **more})


def merge(data: bytes | None, *items: Decided, existing: Any = None, name: str = "labels.json") -> Merged:
    return merge_decisions(parse_label_text(name, data), items, existing or {}, {})


def record(pose_id: int | None, uri: str = URI, time: str = "t1") -> dict[str, Any]:
    return {"poseId": pose_id, "s3Filename": uri, "by": "review", "time": time}


def test_a_new_label_is_appended_to_a_list_and_the_rest_is_kept_character_by_character() -> None:
    merged = merge(LIST, decided(1))

    assert merged.text == LIST.decode().removesuffix("\n]\n") + f",\n  {json.dumps(record(1))}\n]\n"
    assert (merged.num_added, merged.conflicts) == (1, [])


def test_a_new_label_is_appended_to_json_lines() -> None:
    merged = merge(LINES, decided(None), name="labels.jsonl")

    assert merged.text == LINES.decode() + json.dumps(record(None)) + "\n"


@pytest.mark.parametrize("data", [None, b"[]", b"[\n]\n", b"", b"\xef\xbb\xbf[ ]"])
def test_the_first_label_of_an_empty_or_missing_file_makes_a_valid_file(data: bytes | None) -> None:
    text = merge(data, decided(1), decided(7, OTHER)).text

    is_list = data is None or b"[" in data
    records = (
        json.loads(text.lstrip("\ufeff")) if is_list else [json.loads(line) for line in text.splitlines()]
    )
    assert records == [record(1), record(7, OTHER)]


def test_a_label_with_another_pose_is_a_conflict_that_is_named_and_kept() -> None:
    merged = merge(LIST, decided(1), existing={URI: [Existing(7, 0)]})

    assert merged.conflicts == [f"{URI}: review says pose 1, the label says pose 7"]
    assert merged.text == LIST.decode()


def test_a_label_with_the_same_pose_changes_nothing() -> None:
    merged = merge(LIST, decided(7), existing={URI: [Existing(7, 0)]})

    assert (merged.text, merged.num_same, merged.num_added) == (LIST.decode(), 1, 0)


def test_a_correction_of_a_label_that_the_person_saw_changes_only_the_pose_of_that_record() -> None:
    merged = merge(LIST, decided(1, replaced=frozenset({7, 1})), existing={URI: [Existing(7, 0)]})

    assert json.loads(merged.text)[0] == {"poseId": 1, "s3Filename": "a.jpg", "coach": "é"}
    assert merged.text.endswith(LIST.decode().partition("},")[2])
    assert (merged.num_changed, merged.num_added, merged.conflicts) == (1, 0, [])


def test_a_correction_of_a_record_with_other_column_names_changes_these() -> None:
    correction = decided(1, OTHER, replaced=frozenset({5, 1}))
    merged = merge(LIST, correction, existing={OTHER: [Existing(5, 1)]})

    assert json.loads(merged.text)[1] == {"pose_id": 1, "key": "b.jpg"}


@pytest.mark.parametrize(
    "label", [Existing(5, 0), Existing(7, 0, is_shared=True), Existing(7, None, where="by its folder")]
)
def test_a_correction_is_a_conflict_if_the_label_is_another_one_by_now_or_cannot_be_changed(
    label: Existing,
) -> None:
    merged = merge(LIST, decided(1, replaced=frozenset({7, 1})), existing={URI: [label]})

    assert len(merged.conflicts) == 1
    assert merged.text == LIST.decode()


def test_two_people_who_disagree_are_a_conflict_and_the_earlier_decision_stays() -> None:
    merged = merge(LIST, decided(1, time="t1"), decided(5, time="t2"))

    assert merged.conflicts == [f"{URI}: review says pose 5, the label says pose 1"]
    assert json.loads(merged.text)[2] == record(1)


def test_a_record_of_the_same_journal_follows_a_later_decision() -> None:
    text = merge(LIST, decided(1)).text.encode()
    later = decided(5, time="t2", written=frozenset({("t1", 1), ("t2", 5)}))
    merged = merge(text, later, existing={URI: [Existing(1, 2)]})

    assert json.loads(merged.text)[2] == record(5, time="t2")
    assert (merged.num_changed, merged.conflicts) == (1, [])


@pytest.mark.parametrize("data", [LIST, LINES, b"[]", b'[{"poseId": 1, "s3Filename": "c.jpg"}]'])
def test_an_undone_decision_takes_its_record_back(data: bytes) -> None:
    before = parse_label_text("labels.json", data)
    text = merge(data, decided(1, OTHER), decided(1)).text.encode()
    at = len(before.records)
    undone = decided(None, time="t2", written=frozenset({("t1", 1)}), is_undone=True)
    merged = merge(text, undone, existing={URI: [Existing(1, at + 1)]})

    after = parse_label_text("labels.json", merged.text.encode())
    assert after.records == (*before.records, record(1, OTHER))
    assert merged.num_removed == 1


def test_an_undone_correction_restores_the_label() -> None:
    undone = decided(7, time="t2", written=frozenset({("t1", 1)}), replaced=frozenset({7, 1}), is_undone=True)
    merged = merge(LIST.replace(b"7.0", b"1"), undone, existing={URI: [Existing(1, 0)]})

    assert json.loads(merged.text)[0]["poseId"] == 7


def test_an_undone_decision_does_not_touch_the_label_of_somebody_else() -> None:
    undone = decided(None, time="t2", written=frozenset({("t1", 1)}), is_undone=True)
    merged = merge(LIST, undone, existing={URI: [Existing(7, 0)]})

    assert merged.text == LIST.decode()


@pytest.mark.parametrize("data", [b"[{}", b"[{},]", b"[{} {}]", b"[] x", b'{"a": 1} x', b"[1, 2"])
def test_a_damaged_file_is_refused(data: bytes) -> None:
    with pytest.raises(LabelError, match=r"labels\.json: the labels file is not JSON"):
        parse_label_text("labels.json", data)


@pytest.mark.parametrize("data", [b"poseId,s3Filename\n7,a.jpg\n", b"PAR1\0\xff", "[]".encode("utf-16")])
def test_another_format_is_refused_with_a_remedy(data: bytes) -> None:
    with pytest.raises(LabelError, match=r"put such a file first.*--labels more\.jsonl labels\.csv"):
        parse_label_text("labels.csv", data)


def test_a_missing_csv_file_is_refused() -> None:
    with pytest.raises(LabelError, match=r"name a file \.json or \.jsonl"):
        parse_label_text("labels.csv", None)


@pytest.mark.parametrize("is_undone", [False, True])
def test_a_record_of_this_journal_that_somebody_changed_is_theirs(is_undone: bool) -> None:
    text = merge(LIST, decided(1)).text.replace('"poseId": 1,', '"poseId": 5,').encode()
    again = decided(1, time="t2", written=frozenset({("t1", 1), ("t2", 1)}), is_undone=is_undone)
    merged = merge(text, again, existing={URI: [Existing(5, 2)]})

    assert merged.text == text.decode()
    assert len(merged.conflicts) == (0 if is_undone else 1)
