import dataclasses
import hashlib
import io
import json
import os
import resource
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from physiq_ray import checkpoint
from physiq_ray.checkpoint import ModelState, load_model_state, save_model_files, settings_to_store
from physiq_ray.config import Settings
from physiq_ray.errors import ChangedError, CheckpointError, NotFoundError, StorageError
from physiq_ray.floor import Choice, Floor
from physiq_ray.labels import ClassMapping
from physiq_ray.model import StateDict, build_model
from physiq_ray.reference import Histogram, Reference
from physiq_ray.storage import write_file

MakeBucket = Callable[..., str]
MakeWeights = Callable[..., StateDict]
MakeHostile = Callable[[Path], object]

MAPPING = ClassMapping(("1", "11", "7"))
NAMES = {1: "Front Lat Spread", 7: "Back Lat Spread", 11: "Abs & Thighs"}


def to_bytes(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.fixture
def state(make_weights: MakeWeights) -> ModelState:
    """Give a trained model with small files."""
    return ModelState(
        state_dict=make_weights(3),
        class_mapping=MAPPING,
        pose_names={**NAMES, 2: "of a pose without photos"},
        image_size=160,
        temperature=1.5,
        optimizer_state_dict={
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}},
            "param_groups": [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}],
        },
        history=[{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.5}],
        settings=settings_to_store(Settings(sources=("s3://checkins",), source_buckets={"a": "checkins"})),
        best_epoch=2,
        versions={"python": "3.11.0", "torch": "2.14.1"},
    )


@pytest.fixture
def original() -> dict[str, Any]:
    """Give the entries of the original project's complete file; of its weights, only the last two."""
    return {
        "model_state_dict": {"fc.weight": torch.ones(3, 2048), "fc.bias": torch.tensor([1.0, 2.0, 3.0])},
        "class_mapping": MAPPING.to_dict(),
        "model_config": {"architecture": "resnet50", "num_classes": 3},
    }


def write_model(folder: Path, value: object, name: str = "model.pth") -> str:
    path = folder / name
    path.write_bytes(value if isinstance(value, bytes) else to_bytes(value))
    return str(path)


def assert_same(read: ModelState, state: ModelState) -> None:
    assert list(read.state_dict) == list(state.state_dict)
    assert all(torch.equal(read.state_dict[key], value) for key, value in state.state_dict.items())
    assert read.class_mapping == MAPPING
    assert read.pose_names == NAMES
    assert read.image_size == 160
    assert read.temperature == 1.5
    assert list(read.history) == [{"epoch": 1, "train_loss": 2.0}, {"epoch": 2, "train_loss": 1.5}]
    assert read.settings["sources"] == ["s3://checkins"]
    assert read.settings["learning_rate"] == 1e-4
    assert read.best_epoch == 2
    assert read.versions == {"python": "3.11.0", "torch": "2.14.1"}


@pytest.mark.slow
def test_a_model_is_the_same_after_saving_to_a_folder(state: ModelState, tmp_path: Path) -> None:
    uris = save_model_files(state, f"{tmp_path}/new/output")

    assert uris == (
        f"{tmp_path}/new/output/pose_classifier.pth",
        f"{tmp_path}/new/output/class_mapping.json",
        f"{tmp_path}/new/output/pose_classifier_complete.pth",
    )
    assert sorted(path.name for path in (tmp_path / "new/output").iterdir()) == [
        "class_mapping.json",
        "pose_classifier.pth",
        "pose_classifier_complete.pth",
    ]
    for address in (f"{tmp_path}/new/output", f"{tmp_path}/new/output/", uris[2]):
        assert_same(load_model_state(address), state)


@pytest.mark.slow
def test_a_model_is_the_same_after_saving_to_a_bucket(state: ModelState, make_bucket: MakeBucket) -> None:
    bucket = make_bucket({})

    uris = save_model_files(state, f"s3://{bucket}/models/poses/")

    assert uris == (
        f"s3://{bucket}/models/poses/pose_classifier.pth",
        f"s3://{bucket}/models/poses/class_mapping.json",
        f"s3://{bucket}/models/poses/pose_classifier_complete.pth",
    )
    for address in (f"s3://{bucket}/models/poses", f"s3://{bucket}/models/poses/", uris[2]):
        assert_same(load_model_state(address), state)
    assert load_model_state(uris[0]).class_mapping == MAPPING


@pytest.mark.slow
def test_a_loaded_network_computes_the_same_logits() -> None:
    torch.manual_seed(3)
    network = build_model(3).eval()
    images = torch.randn(2, 3, 64, 64)

    # tmp_path is not used: pytest would keep the 190 MB of the last three runs.
    with tempfile.TemporaryDirectory() as folder:
        save_model_files(ModelState(network.state_dict(), MAPPING, NAMES), folder)
        built = load_model_state(folder).build()

    assert not built.training
    with torch.inference_mode():
        assert torch.equal(built(images), network(images))


@pytest.fixture
def floor() -> Floor:
    """Give a floor that needs the features of the network of three poses."""
    features = torch.nn.functional.normalize(torch.rand(3, 2048, generator=torch.Generator().manual_seed(1)))
    choice = Choice(0.9, 0.92, 0.8, 0.7, 50, 20, {"distance": 0.8}, ((0.1, 0.5, 1.0), (0.2, 0.9, 0.8)))
    return Floor("distance", 0.75, features, choice)


@pytest.mark.slow
def test_a_floor_is_the_same_after_saving_and_a_file_without_one_has_none(
    state: ModelState, floor: Floor, tmp_path: Path
) -> None:
    save_model_files(state, str(tmp_path / "without"))
    save_model_files(dataclasses.replace(state, floor=floor), str(tmp_path / "with"))
    old = torch.load(tmp_path / "without" / "pose_classifier_complete.pth", weights_only=True)
    del old["floor"]  # as earlier versions wrote it

    found = load_model_state(str(tmp_path / "with")).floor

    assert found is not None
    assert found.weights is not None
    assert floor.weights is not None
    assert (found.score, found.threshold, found.choice) == ("distance", 0.75, floor.choice)
    assert torch.equal(found.weights, floor.weights)
    assert load_model_state(str(tmp_path / "without")).floor is None
    assert load_model_state(write_model(tmp_path, old)).floor is None


def test_a_reference_is_the_same_after_saving_and_a_file_without_one_has_none(
    state: ModelState, tmp_path: Path
) -> None:
    classes = Histogram.of_classes([0, 0, 1, 2], 3)
    values = Histogram.of_values([0.1, 0.2, 0.7, 0.9])
    stored = dataclasses.replace(state, reference=Reference(classes, values, values, values))
    save_model_files(stored, str(tmp_path / "with"))
    save_model_files(state, str(tmp_path / "without"))

    found = load_model_state(str(tmp_path / "with")).reference

    assert found is not None
    assert stored.reference is not None
    assert found.to_dict() == stored.reference.to_dict()
    assert load_model_state(str(tmp_path / "without")).reference is None


@pytest.mark.slow
def test_a_network_whose_floor_needs_features_has_one_more_output(floor: Floor) -> None:
    torch.manual_seed(3)
    plain = ModelState(build_model(3).state_dict(), MAPPING, NAMES)
    images = torch.randn(2, 3, 64, 64)

    with torch.inference_mode():
        logits, outputs = plain.build()(images), dataclasses.replace(plain, floor=floor).build()(images)

    assert outputs.shape == (2, 4)
    assert torch.equal(outputs[:, :3], logits)
    assert (outputs[:, 3].abs() <= 1).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    "floor", [Floor("distance", 0.5, torch.eye(3)), Floor("detector", 0.5, torch.zeros(2048))]
)
def test_a_floor_of_another_architecture_is_refused(state: ModelState, floor: Floor) -> None:
    narrow = dataclasses.replace(state, state_dict=build_model(3).state_dict(), floor=floor)

    with pytest.raises(CheckpointError, match="floor does not fit a resnet50"):
        narrow.build()


@pytest.mark.parametrize("damage", [[1, 2], {"score": "luck"}, {"threshold": "high"}, {"weights": None}])
def test_a_damaged_floor_is_an_error_that_names_the_file(
    state: ModelState, floor: Floor, tmp_path: Path, damage: Any
) -> None:
    save_model_files(dataclasses.replace(state, floor=floor), str(tmp_path))
    value = torch.load(tmp_path / "pose_classifier_complete.pth", weights_only=True)
    value["floor"] = damage if isinstance(damage, list) else value["floor"] | damage

    with pytest.raises(CheckpointError, match=r"model\.pth: unknown checkpoint: "):
        load_model_state(write_model(tmp_path, value))


def test_both_files_load_without_running_code_and_have_the_documented_entries(
    state: ModelState, tmp_path: Path
) -> None:
    save_model_files(state, str(tmp_path))

    weights = torch.load(tmp_path / "pose_classifier.pth", weights_only=True)
    complete = torch.load(tmp_path / "pose_classifier_complete.pth", weights_only=True)

    assert list(weights) == list(complete["model_state_dict"]) == list(state.state_dict)
    assert set(complete) == {
        "model_state_dict",
        "optimizer_state_dict",
        "class_mapping",
        "model_config",
        "pose_names",
        "preprocessing",
        "temperature",
        "floor",
        "reference",
        "history",
        "best_epoch",
        "settings",
        "versions",
    }
    assert complete["model_config"] == {"architecture": "resnet50", "num_classes": 3}
    optimizer = complete["optimizer_state_dict"]
    assert optimizer["param_groups"] == [{"lr": 1e-4, "betas": (0.9, 0.999), "params": [0]}]
    assert optimizer["state"][0]["exp_avg"].tolist() == [1.0, 1.0]
    assert load_model_state(str(tmp_path)).optimizer_state_dict == {}  # no command needs it
    assert complete["pose_names"] == {"1": "Front Lat Spread", "11": "Abs & Thighs", "7": "Back Lat Spread"}
    assert complete["preprocessing"] == {
        "image_size": 160,
        "resize": "whole photo to a square, bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    assert complete["versions"] == {
        "python": "3.11.0",
        "torch": "2.14.1",
    }  # those of the training, not of this machine


def test_a_model_without_versions_is_saved_with_those_of_this_machine(
    state: ModelState, tmp_path: Path
) -> None:
    save_model_files(dataclasses.replace(state, versions={}), str(tmp_path))

    versions = load_model_state(str(tmp_path)).versions

    assert set(versions) == {"python", "physiq-ray", "ray", "torch", "torchvision", "pillow"}
    assert versions["torch"].startswith("2.")


def test_the_class_mapping_file_has_exactly_the_documented_entries(state: ModelState, tmp_path: Path) -> None:
    save_model_files(state, str(tmp_path))

    assert json.loads((tmp_path / "class_mapping.json").read_text()) == {
        "class_to_idx": {"1": 0, "11": 1, "7": 2},
        "idx_to_class": {"0": "1", "1": "11", "2": "7"},
        "classes": ["1", "11", "7"],
    }


def test_a_file_that_is_written_while_it_is_read_is_refused(
    state: ModelState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    *_, complete = save_model_files(state, str(tmp_path))
    load = torch.load

    def load_while_written(*args: Any, **options: Any) -> Any:
        value = load(*args, **options)
        Path(complete).write_bytes(b"of another model")
        return value

    monkeypatch.setattr(torch, "load", load_while_written)
    with pytest.raises(
        ChangedError, match=r"read .*complete\.pth: it was written while it was read; try again"
    ):
        load_model_state(complete)


@pytest.mark.skipif(sys.platform == "win32", reason="no named pipes")
def test_a_model_can_come_through_a_pipe(state: ModelState, tmp_path: Path) -> None:
    *_, complete = save_model_files(state, str(tmp_path))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(Path(complete).read_bytes()))
    writer.start()

    assert load_model_state(str(pipe)).version == load_model_state(complete).version

    writer.join()


def test_the_version_is_a_digest_of_the_file(state: ModelState, tmp_path: Path) -> None:
    *_, complete = save_model_files(state, str(tmp_path))

    assert state.version == ""
    digest = hashlib.sha256(Path(complete).read_bytes()).hexdigest()
    assert load_model_state(complete).version == digest[:12]


@pytest.mark.parametrize(
    ("refused", "left"),
    [
        ("pose_classifier.pth", []),
        ("class_mapping.json", ["pose_classifier.pth"]),
        ("pose_classifier_complete.pth", ["class_mapping.json", "pose_classifier.pth"]),
    ],
)
def test_the_complete_file_is_written_last(
    state: ModelState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refused: str, left: list[str]
) -> None:
    def refuse(path: Path, uri: str) -> None:
        if uri.endswith(refused):
            raise StorageError(f"write {uri}: No space left on device")
        write_file(path, uri)

    monkeypatch.setattr(checkpoint, "write_file", refuse)

    with pytest.raises(StorageError, match="No space left on device"):
        save_model_files(state, str(tmp_path))

    assert sorted(path.name for path in tmp_path.iterdir()) == left


def test_a_full_temporary_disk_is_reported_with_the_remedy(state: ModelState, tmp_path: Path) -> None:
    # A limit on the size of files makes the same calls fail as a full disk.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        with pytest.raises(StorageError) as caught:
            save_model_files(state, str(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)

    assert str(caught.value) == (
        f"model files cannot be written to {tempfile.gettempdir()}: File too large; free space there, or set "
        "TMPDIR to a larger disk"
    )
    assert list(tmp_path.iterdir()) == []


def test_writing_to_a_missing_bucket_is_reported(state: ModelState, s3: Any) -> None:
    with pytest.raises(
        NotFoundError, match=r"^write s3://nowhere-to-be-found/x/pose_classifier\.pth: NoSuch"
    ):
        save_model_files(state, "s3://nowhere-to-be-found/x")


def test_a_complete_file_of_the_original_project_is_read(
    original: dict[str, Any], make_weights: MakeWeights, tmp_path: Path
) -> None:
    original["model_state_dict"] = make_weights(3)

    read = load_model_state(write_model(tmp_path, original), pose_names={1: "Lats", 7: "Back", 99: "Other"})

    assert read.class_mapping == MAPPING
    assert read.pose_names == {1: "Lats", 7: "Back", 11: "Pose 11"}
    assert read.image_size == 224
    assert read.temperature == 1
    assert read.history == ()
    assert read.optimizer_state_dict == {}
    assert read.best_epoch == 0
    assert read.versions == {}
    built = read.build()
    assert sum(parameter.numel() for parameter in built.parameters()) == 23_514_179


def test_pose_names_in_the_file_have_priority_over_given_ones(
    original: dict[str, Any], tmp_path: Path
) -> None:
    file = write_model(tmp_path, {**original, "pose_names": {"1": "Front Lat Spread"}})

    read = load_model_state(file, pose_names={1: "Lats", 7: "Back Lat Spread"})

    assert read.pose_names == {1: "Front Lat Spread", 7: "Back Lat Spread", 11: "Pose 11"}


def test_a_complete_file_may_lack_entries_that_follow_from_others(
    original: dict[str, Any], tmp_path: Path
) -> None:
    del original["model_config"]
    del original["class_mapping"]["classes"]

    assert load_model_state(write_model(tmp_path, original)).class_mapping == MAPPING


def test_a_state_dict_is_read_with_the_class_mapping_next_to_it(
    original: dict[str, Any], tmp_path: Path
) -> None:
    (tmp_path / "class_mapping.json").write_text(json.dumps(MAPPING.to_dict()))

    read = load_model_state(write_model(tmp_path, original["model_state_dict"]), pose_names=NAMES)

    assert read.class_mapping == MAPPING
    assert read.pose_names == NAMES
    assert read.state_dict["fc.bias"].tolist() == [1.0, 2.0, 3.0]


def test_a_state_dict_next_to_the_class_mapping_of_another_training_is_refused(
    state: ModelState, tmp_path: Path
) -> None:
    save_model_files(state, str(tmp_path))
    assert load_model_state(str(tmp_path / "pose_classifier.pth")).class_mapping == state.class_mapping
    other = [pose_id + 100 for pose_id in state.class_mapping.pose_ids]
    (tmp_path / "class_mapping.json").write_text(json.dumps(ClassMapping.of_poses(other).to_dict()))

    with pytest.raises(CheckpointError, match=r"belongs to another training than .*class_mapping\.json: "):
        load_model_state(str(tmp_path / "pose_classifier.pth"))
    load_model_state(str(tmp_path))  # raises nothing: the complete file contains its own mapping


def test_a_state_dict_without_a_class_mapping_is_refused(original: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError,
        match=r"model\.pth: a state dict does not name its poses; put class_mapping\.json next to it",
    ):
        load_model_state(write_model(tmp_path, original["model_state_dict"]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"class_mapping\.json: not JSON: "),
        ("[]", r"model\.pth: class mapping: expected .*got \[\]$"),
        ('{"class_to_idx": {"1": 0}}', r"model\.pth: 1 classes in its mapping, 3 in its weights"),
    ],
)
def test_a_wrong_class_mapping_next_to_a_state_dict_is_named(
    original: dict[str, Any], tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "class_mapping.json").write_text(content)

    with pytest.raises(CheckpointError, match=message):
        load_model_state(write_model(tmp_path, original["model_state_dict"]))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_config": {"architecture": "resnet18"}}, "architecture 'resnet18'; resnet50 is needed"),
        (
            {"model_config": {"num_classes": 8}},
            "3 classes in its mapping, 3 in its weights, 8 in its model_config",
        ),
        (
            {"class_mapping": ClassMapping(("1", "2")).to_dict()},
            "2 classes in its mapping, 3 in its weights, 3 in its model_config",
        ),
        ({"class_mapping": None}, "class mapping: expected "),
        ({"class_mapping": {"classes": ["1", "11", "7"]}}, "class mapping: expected "),
        ({"model_state_dict": {}}, "unknown checkpoint: expected model_state_dict in it, got "),
        ({"model_state_dict": None}, "unknown checkpoint: expected model_state_dict in it, got "),
        ({"model_state_dict": {"fc.bias": 3}}, "unknown checkpoint: expected model_state_dict in it, got "),
        (
            {"model_state_dict": {"conv1.weight": torch.zeros(1)}},
            "3 classes in its mapping, 0 in its weights, 3 in its model_config",
        ),
        ({"model_config": ["resnet50"]}, "unknown checkpoint: model_config is a list, not a dictionary"),
        ({"pose_names": ["A", "B"]}, "unknown checkpoint: pose_names is a list, not a dictionary"),
        ({"pose_names": {"one": "A"}}, "unknown checkpoint: invalid literal for int() with base 10: 'one'"),
        ({"preprocessing": 160}, "unknown checkpoint: preprocessing is a int, not a dictionary"),
        ({"preprocessing": {"image_size": "large"}}, "unknown checkpoint: invalid literal for int()"),
        ({"temperature": 0}, "unknown checkpoint: temperature 0.0"),
        ({"temperature": float("nan")}, "unknown checkpoint: temperature nan"),
        ({"preprocessing": {"image_size": 0}}, "unknown checkpoint: image_size 0"),
        ({"preprocessing": {"image_size": 10**9}}, "unknown checkpoint: image_size 1000000000"),
        (
            {"preprocessing": {"image_size": float("inf")}},
            "unknown checkpoint: cannot convert float infinity",
        ),
        ({"history": 3}, "unknown checkpoint: 'int' object is not iterable"),
        ({"settings": ["a"]}, "unknown checkpoint: settings is a list, not a dictionary"),
        ({"optimizer_state_dict": "Adam"}, "unknown checkpoint: optimizer_state_dict is a str, not"),
        ({"best_epoch": "last"}, "unknown checkpoint: invalid literal for int()"),
        ({"reference": [1]}, "unknown checkpoint: list indices must be integers"),
        (
            {"reference": {"poses": {"edges": [], "counts": []}}},
            "unknown checkpoint: reference: poses is not a histogram",
        ),
    ],
)
def test_a_complete_file_with_a_wrong_entry_is_refused_in_one_sentence(
    original: dict[str, Any], tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    file = write_model(tmp_path, {**original, **changed})

    with pytest.raises(CheckpointError) as caught:
        load_model_state(file)

    assert str(caught.value).startswith(f"{file}: {message}")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_by_name(
    original: dict[str, Any], tmp_path: Path, value: float
) -> None:
    original["model_state_dict"]["fc.weight"][2, 5] = value
    original["model_state_dict"]["fc.bias"][0] = value
    file = write_model(tmp_path, original)

    with pytest.raises(CheckpointError) as caught:
        load_model_state(file)

    assert str(caught.value).startswith(f"{file}: fc.weight has values that are not finite: ")


@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_sparse_weights_are_refused(original: dict[str, Any], tmp_path: Path) -> None:
    original["model_state_dict"]["fc.weight"] = torch.eye(3).to_sparse()

    with pytest.raises(CheckpointError, match=r"fc\.weight is not a plain tensor"):
        load_model_state(write_model(tmp_path, original))


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ([1, 2], "list"),
        ("resnet50", "str"),
        ({"epoch": 3, "net": 1}, "epoch, net"),
        ({}, ""),
        (None, "NoneType"),
    ],
)
def test_an_unknown_file_is_named_with_its_keys_or_type(tmp_path: Path, value: object, found: str) -> None:
    file = write_model(tmp_path, value)

    with pytest.raises(CheckpointError) as caught:
        load_model_state(file)

    assert str(caught.value) == (f"{file}: unknown checkpoint: expected model_state_dict in it, got {found}")


def test_weights_that_do_not_fit_are_refused_when_the_network_is_built(
    original: dict[str, Any], tmp_path: Path
) -> None:

    with pytest.raises(
        CheckpointError, match=r'(?s)^weights do not fit a resnet50 with 3 outputs: .*"bn1\.weight"'
    ):
        load_model_state(write_model(tmp_path, original)).build()


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_refused(original: dict[str, Any], tmp_path: Path, share: float) -> None:
    data = to_bytes(original)
    file = write_model(tmp_path, data[: int(len(data) * share)])

    with pytest.raises(CheckpointError) as caught:
        load_model_state(file)

    assert str(caught.value).startswith(f"{file}: ")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"text", bytes(5000)])
def test_a_file_that_is_not_a_model_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(
        CheckpointError, match=r"model\.pth: (refused: it is not a torch|not a file that torch)"
    ):
        load_model_state(write_model(tmp_path, data))


@pytest.mark.parametrize("key", ["model_state_dict", "class_mapping", "optimizer_state_dict", "extra"])
def test_a_hostile_file_is_refused_and_no_code_runs(
    original: dict[str, Any], make_hostile: MakeHostile, tmp_path: Path, key: str
) -> None:
    marker = tmp_path / "it ran"
    file = write_model(tmp_path, {**original, key: make_hostile(marker)})

    with pytest.raises(CheckpointError) as caught:
        load_model_state(file)

    assert not marker.exists()
    assert str(caught.value) == (
        f"{file}: refused: it is not a torch file of only tensors and plain values, and loading it could run "
        "code; save only the state dict with torch.save"
    )
    torch.load(file, weights_only=False)
    assert marker.exists()  # the file does run code if it is loaded without protection


def test_a_missing_model_is_reported_with_the_remedy(tmp_path: Path, make_bucket: MakeBucket) -> None:
    bucket = make_bucket({})

    for address, looked_for in (
        (f"{tmp_path}/none.pth", f"{tmp_path}/none.pth"),
        (f"{tmp_path}", f"{tmp_path}/pose_classifier_complete.pth"),
        (f"s3://{bucket}/none.pth", f"s3://{bucket}/none.pth"),
        (f"s3://{bucket}/poses", f"s3://{bucket}/poses/pose_classifier_complete.pth"),
        (f"s3://{bucket}", f"s3://{bucket}/pose_classifier_complete.pth"),
    ):
        with pytest.raises(NotFoundError) as caught:
            load_model_state(address)

        assert str(caught.value).startswith(f"model read {looked_for}: ")
        assert str(caught.value).endswith(
            "; train one first, or give the path of pose_classifier_complete.pth"
        )
