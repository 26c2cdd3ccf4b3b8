import hashlib
import io
import json
import pickle
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest
import torch
from torchvision.models import ResNet50_Weights, Weights, WeightsEnum, get_model

from physiq_ray import model as model_module
from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.errors import CheckpointError, WeightsError
from physiq_ray.labels import ClassMapping
from physiq_ray.model import (
    StartingWeights,
    StateDict,
    build_model,
    choose_precision,
    load_starting_weights,
    normalise,
    read_tensors,
)

MakeBucket = Callable[..., str]
MakeWeights = Callable[..., StateDict]
MakeHostile = Callable[[Path], object]

CPU = torch.device("cpu")


def to_bytes(value: object) -> bytes:
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """Build a ResNet50 with random weights and three outputs."""
    torch.manual_seed(1)
    return build_model(3).eval()


@pytest.fixture
def weights_file(tmp_path: Path) -> Callable[[object], str]:
    def write(value: object) -> str:
        path = tmp_path / "weights.pth"
        path.write_bytes(value if isinstance(value, bytes) else to_bytes(value))
        return str(path)

    return write


def test_the_network_has_an_output_for_each_class(network: torch.nn.Module) -> None:
    images = torch.zeros((2, 64, 64, 3), dtype=torch.uint8)

    with torch.inference_mode():
        logits = network(normalise(images))

    assert logits.shape == (2, 3)
    assert logits.dtype == torch.float32


def test_the_blocks_of_a_random_network_start_as_identity(network: torch.nn.Module) -> None:
    assert torch.count_nonzero(network.state_dict()["layer3.2.bn3.weight"]) == 0


@pytest.mark.slow
def test_a_network_from_weights_keeps_their_backbone_and_gets_a_new_head(make_weights: MakeWeights) -> None:
    weights = {key: tensor for key, tensor in make_weights(1000).items() if not key.startswith("fc.")}

    state = StartingWeights(weights).build((1, 2, 5, 6, 7)).state_dict()

    assert all(torch.equal(state[key], tensor) for key, tensor in weights.items())
    assert state["fc.weight"].shape == (5, 2048)
    assert state["fc.weight"].std() > 0.001


@pytest.mark.slow
@pytest.mark.parametrize(
    "pose_ids",
    [(2, 7, 11), (11, 7, 2), (7,), (30, 2, 11, 7, 1), (30, 1)],
    ids=["the same", "reordered", "fewer", "more", "others"],
)
def test_the_head_keeps_the_rows_of_known_poses_and_the_others_are_as_initialised(
    make_weights: MakeWeights, pose_ids: tuple[int, ...]
) -> None:
    backbone = {key: tensor for key, tensor in make_weights(3).items() if not key.startswith("fc.")}
    head = {pose_id: (torch.full((2048,), pose_id / 4), torch.tensor(pose_id / 8)) for pose_id in (2, 7, 11)}
    torch.manual_seed(3)
    fresh = get_model("resnet50", num_classes=len(pose_ids)).state_dict()

    torch.manual_seed(3)
    state = StartingWeights(backbone, head).build(pose_ids).state_dict()

    assert all(torch.equal(state[key], tensor) for key, tensor in backbone.items())
    for index, pose_id in enumerate(pose_ids):
        if pose_id in {2, 7, 11}:
            assert state["fc.weight"][index].tolist() == [pose_id / 4] * 2048
            assert state["fc.bias"][index] == pose_id / 8
        else:
            assert torch.equal(state["fc.weight"][index], fresh["fc.weight"][index])
            assert torch.equal(state["fc.bias"][index], fresh["fc.bias"][index])


def test_pixels_are_normalised_by_channel() -> None:
    images = torch.tensor([[[[0, 0, 0], [255, 255, 255], [255, 0, 128]]]], dtype=torch.uint8)  # (1, 1, 3, 3)

    inputs = normalise(images)

    assert inputs.shape == (1, 3, 1, 3)
    assert inputs.dtype == torch.float32
    expected = torch.tensor(  # one row for each channel, one column for each pixel
        [[-2.1179, 2.2489, 2.2489], [-2.0357, 2.4286, -2.0357], [-1.8044, 2.6400, 0.4265]]
    )
    assert torch.allclose(inputs[0, :, 0], expected, atol=1e-4)


def test_the_network_s_input_lies_in_memory_as_channels_last() -> None:
    inputs = normalise(torch.zeros((2, 5, 7, 3), dtype=torch.uint8))

    assert inputs.shape == (2, 3, 5, 7)
    assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_the_network_s_input_has_the_requested_precision() -> None:
    assert (
        normalise(torch.zeros((1, 2, 2, 3), dtype=torch.uint8), dtype=torch.bfloat16).dtype == torch.bfloat16
    )


@pytest.mark.parametrize(
    ("setting", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
)
def test_a_requested_precision_is_used(setting: str, dtype: torch.dtype) -> None:
    assert choose_precision(setting, CPU) == dtype
    assert choose_precision(setting, torch.device("cuda")) == dtype


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({"avx2": True, "avx512_f": True}, torch.float32),
        ({"avx512_bf16": False, "amx_bf16": False}, torch.float32),
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({}, torch.float32),
    ],
)
def test_auto_on_a_cpu_means_bf16_only_if_the_hardware_supports_it(
    monkeypatch: pytest.MonkeyPatch, capabilities: dict[str, bool], dtype: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities)

    assert choose_precision("auto", CPU) == dtype


@pytest.mark.parametrize(
    ("capability", "dtype"),
    [((9, 0), torch.bfloat16), ((7, 5), torch.float16), ((7, 0), torch.float16), ((6, 1), torch.float32)],
)
def test_auto_on_a_gpu_means_the_precision_of_its_tensor_cores(
    monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], dtype: torch.dtype
) -> None:
    def is_bf16_supported(including_emulation: bool = True) -> bool:
        return including_emulation or capability >= (8, 0)

    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)

    assert choose_precision("auto", torch.device("cuda")) == dtype


def test_auto_works_on_the_cpu_of_this_machine() -> None:
    assert choose_precision("auto", CPU) in {torch.float32, torch.bfloat16}


def test_random_means_no_weights() -> None:
    assert load_starting_weights("random") is None


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state},
        lambda state: {"model_state_dict": state, "optimizer_state_dict": {"state": {}}, "epoch": 3},
        lambda state: {"model": state, "args": None},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
    ],
    ids=["plain", "state_dict", "model_state_dict", "model", "module.", "module. in state_dict"],
)
def test_weights_are_found_in_each_usual_form_and_their_head_is_removed(
    make_weights: MakeWeights,
    weights_file: Callable[[object], str],
    wrap: Callable[[StateDict], object],
) -> None:
    state = make_weights(1000)

    weights = load_starting_weights(weights_file(wrap(state)))

    assert weights is not None
    assert set(weights.backbone) == set(state) - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, state[key]) for key, tensor in weights.backbone.items())
    assert weights.head == {}


def test_tensors_of_a_real_network_are_read_unchanged(network: torch.nn.Module) -> None:
    state = network.state_dict()

    read = read_tensors(to_bytes(state), name="a.pth")

    assert list(read) == list(state)
    assert all(torch.equal(read[key], tensor) for key, tensor in state.items())


def test_weights_are_read_from_a_bucket(make_bucket: MakeBucket, make_weights: MakeWeights) -> None:
    bucket = make_bucket({"start/weights.pth": to_bytes(make_weights(8))})

    weights = load_starting_weights(f"s3://{bucket}/start/weights.pth")

    assert weights is not None
    assert weights.backbone["bn1.weight"].tolist() == [1.0] * 64


@pytest.fixture
def trained(make_weights: MakeWeights, tmp_path: Path) -> Path:
    """Write the files of a model; its row of pose N has the bias N and weights of 10 N."""
    rows = torch.tensor([11.0, 2.0, 7.0])  # in the order of the classes
    weights = {**make_weights(3), "fc.weight": 10 * rows[:, None].expand(3, 2048), "fc.bias": rows}
    names = {2: "Two", 7: "Seven", 11: "Eleven"}
    save_model_files(ModelState(weights, ClassMapping.of_poses(names), names), str(tmp_path))
    return tmp_path


def values_of(weights: StartingWeights | None) -> dict[int, tuple[float, float]]:
    assert weights is not None
    return {
        pose_id: (weight.unique().item(), bias.item()) for pose_id, (weight, bias) in weights.head.items()
    }


HEAD = {2: (20.0, 2.0), 7: (70.0, 7.0), 11: (110.0, 11.0)}


def test_the_rows_of_a_complete_file_belong_to_the_poses_of_its_mapping(trained: Path) -> None:
    (trained / "class_mapping.json").unlink()

    assert values_of(load_starting_weights(str(trained / "pose_classifier_complete.pth"))) == HEAD


def test_the_rows_of_a_state_dict_belong_to_the_poses_of_the_mapping_in_it(trained: Path) -> None:
    other = ClassMapping.of_poses([1, 5, 6]).to_dict()
    (trained / "class_mapping.json").write_text(json.dumps(other))  # of another training

    assert values_of(load_starting_weights(str(trained / "pose_classifier.pth"))) == HEAD


@pytest.mark.slow
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_rows_of_a_state_dict_of_another_program_belong_to_the_poses_of_the_mapping_next_to_it(
    trained: Path, make_bucket: MakeBucket, prefix: str
) -> None:
    state = torch.load(trained / "pose_classifier.pth", weights_only=True)
    torch.save({f"{prefix}{key}": tensor for key, tensor in state.items()}, trained / "plain.pth")
    names = ("plain.pth", "class_mapping.json")
    bucket = make_bucket({f"start/{name}": (trained / name).read_bytes() for name in names})

    assert values_of(load_starting_weights(str(trained / "plain.pth"))) == HEAD
    assert values_of(load_starting_weights(f"s3://{bucket}/start/plain.pth")) == HEAD


@pytest.mark.parametrize(
    ("mapping", "why"),
    [
        (None, r"^read .*class_mapping\.json: No such file or directory$"),
        (b"{", r"class_mapping\.json: not JSON: "),
        (b"[]", r"^class mapping: expected .*got \[\]$"),
        (
            b'{"class_to_idx": {"2": 0, "7": 1}}',
            r"^class mapping: it has 2 poses, but the last layer has .*\(1000, 2048\)",
        ),
    ],
)
def test_without_a_fitting_class_mapping_the_head_is_new_and_the_reason_is_kept(
    make_weights: MakeWeights, weights_file: Callable[[object], str], mapping: bytes | None, why: str
) -> None:
    file = weights_file(make_weights(1000))
    if mapping is not None:
        Path(file).with_name("class_mapping.json").write_bytes(mapping)

    weights = load_starting_weights(file)

    assert weights is not None
    assert weights.head == {}
    assert re.search(why, weights.why_no_head)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["resnet18", "wide_resnet50_2"])
def test_weights_of_a_related_architecture_are_refused_with_its_name(
    make_weights: MakeWeights, weights_file: Callable[[object], str], architecture: str
) -> None:
    file = weights_file(make_weights(1000, architecture))

    with pytest.raises(WeightsError) as caught:
        load_starting_weights(file)

    assert str(caught.value) == f"weights={file}: these weights are of a {architecture}; a resnet50 is needed"


@pytest.mark.slow
def test_weights_of_another_network_are_refused_with_the_first_difference(
    make_weights: MakeWeights, weights_file: Callable[[object], str]
) -> None:
    with pytest.raises(
        WeightsError, match=r"these are not weights of a resnet50: \d+ entries differ, the first is "
    ):
        load_starting_weights(weights_file(make_weights(10, "squeezenet1_1")))


@pytest.mark.slow
def test_a_missing_entry_or_a_wrong_shape_in_weights_is_named(
    make_weights: MakeWeights, weights_file: Callable[[object], str]
) -> None:
    lacking, reshaped = make_weights(8), make_weights(8)
    del lacking["bn1.weight"]
    reshaped["bn1.weight"] = torch.zeros(32)

    with pytest.raises(
        WeightsError, match=r": 1 entries differ, the first is bn1\.weight \(expected \(64,\), got none\)$"
    ):
        load_starting_weights(weights_file(lacking))
    with pytest.raises(
        WeightsError, match=r": 1 entries differ, the first is bn1\.weight \(expected \(64,\), got \(32,\)\)$"
    ):
        load_starting_weights(weights_file(reshaped))


@pytest.mark.parametrize("value", [{}, {"epoch": 3}, [1, 2], torch.zeros(3), "resnet50", None])
def test_a_file_without_a_state_dict_is_refused(weights_file: Callable[[object], str], value: object) -> None:
    with pytest.raises(WeightsError, match=r"^weights=.*weights\.pth: expected a state dict, got a "):
        load_starting_weights(weights_file(value))


@pytest.mark.parametrize(
    "data", [b"", b"text", b"PK\x03\x04", b"\x80\x02}q\x00.", b"\x93NUMPY\x01\x00", bytes(1000)]
)
def test_a_file_that_torch_did_not_write_is_refused(
    weights_file: Callable[[object], str], data: bytes
) -> None:
    with pytest.raises(WeightsError, match=r"^weights=.*weights\.pth: "):
        load_starting_weights(weights_file(data))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsError, match=rf"^weights={tmp_path}/a\.pth: read {tmp_path}/a\.pth: No such file"
    ):
        load_starting_weights(f"{tmp_path}/a.pth")


def test_a_missing_object_is_named(make_bucket: MakeBucket) -> None:
    bucket = make_bucket({})

    with pytest.raises(WeightsError, match=rf"^weights=s3://{bucket}/a\.pth: read .*: NoSuchKey"):
        load_starting_weights(f"s3://{bucket}/a.pth")


@pytest.mark.parametrize("num_bytes", [1, 100, 5_000, 20_000])
def test_a_truncated_file_is_refused(make_weights: MakeWeights, num_bytes: int) -> None:
    with pytest.raises(CheckpointError, match=r"^a\.pth: "):
        read_tensors(to_bytes(make_weights(8))[:num_bytes], name="a.pth")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_file_with_any_byte_changed_is_read_or_refused_with_its_name(is_zip: bool) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(2), "b": [1, "z"]}, file, _use_new_zipfile_serialization=is_zip)
    data = file.getvalue()

    for place in range(0, len(data), 7 if is_zip else 1):
        for value in (0, 255, ord("(")):
            changed = data[:place] + bytes([value]) + data[place + 1 :]
            try:
                read_tensors(changed, name="a.pth")  # may succeed, but raises no other error
            except CheckpointError as error:
                assert str(error).startswith("a.pth: ")  # noqa: PT017


@pytest.mark.filterwarnings("ignore:Detected pickle protocol:UserWarning")
@pytest.mark.parametrize("pack", [to_bytes, pickle.dumps, lambda value: to_bytes({"state_dict": value})])
def test_a_file_that_would_run_code_is_refused_and_no_code_runs(
    tmp_path: Path,
    make_hostile: MakeHostile,
    weights_file: Callable[[object], str],
    pack: Callable[[object], bytes],
) -> None:
    marker = tmp_path / "it ran"
    data = pack(make_hostile(marker))

    with pytest.raises(WeightsError, match=r"weights\.pth: refused: .*loading it could run code"):
        load_starting_weights(weights_file(data))

    assert not marker.exists()


def test_the_hostile_object_of_these_tests_runs_code(make_hostile: MakeHostile, tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(make_hostile(tmp_path / "it ran")))

    assert (tmp_path / "it ran").exists()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty cache folder for torch's downloads, and give its path."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr(model_module, "urlopen", refuse)
    monkeypatch.setattr(torch.hub, "urlopen", refuse)


IMAGENET_FILE = "resnet50-11ad3fa6.pth"


@pytest.mark.usefixtures("no_network")
def test_a_failed_download_is_reported_in_one_sentence_with_the_remedy(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError) as caught:
        load_starting_weights("imagenet")

    assert str(caught.value) == (
        f"weights=imagenet: https://download.pytorch.org/models/{IMAGENET_FILE} cannot be downloaded "
        "(Network is unreachable); give a file or s3:// address of its state dict, or weights=random"
    )
    assert capsys.readouterr().out == ""
    assert list(hub.iterdir()) == []


@pytest.mark.usefixtures("no_network")
def test_weights_downloaded_before_need_no_network(hub: Path, make_weights: MakeWeights) -> None:
    (hub / IMAGENET_FILE).write_bytes(to_bytes(make_weights(1000)))

    weights = load_starting_weights("imagenet")

    assert weights is not None
    assert len(weights.backbone) == 318
    assert "fc.weight" not in weights.backbone
    assert weights.head == {}


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04" + bytes(100)])
def test_a_damaged_download_is_named_with_the_file_to_delete(hub: Path, data: bytes) -> None:
    (hub / IMAGENET_FILE).write_bytes(data)

    with pytest.raises(
        WeightsError, match=rf"^weights=imagenet: {hub}/{IMAGENET_FILE}: .*; delete it to download it again$"
    ):
        load_starting_weights("imagenet")


@pytest.mark.usefixtures("no_network")
def test_a_hostile_file_among_the_downloads_runs_no_code(
    hub: Path, make_hostile: MakeHostile, tmp_path: Path
) -> None:
    (hub / IMAGENET_FILE).write_bytes(to_bytes(make_hostile(tmp_path / "it ran")))

    with pytest.raises(WeightsError, match=rf"{IMAGENET_FILE}: refused: .*loading it could run code"):
        load_starting_weights("imagenet")

    assert not (tmp_path / "it ran").exists()


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes, str], None]]:
    """Give a function that serves weights on loopback as those of ImageNet, with a hash in their name."""
    folder = tmp_path / "www"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    def publish(data: bytes, digest: str) -> None:
        (folder / f"resnet50-{digest}.pth").write_bytes(data)
        url = f"http://127.0.0.1:{server.server_address[1]}/resnet50-{digest}.pth"

        class Local(WeightsEnum):
            DEFAULT = Weights(url=url, transforms=lambda image: image, meta={})

        monkeypatch.setattr(model_module, "ResNet50_Weights", Local)

    yield publish
    server.shutdown()
    server.server_close()


def test_a_download_succeeds_and_prints_nothing_to_stdout(
    hub: Path,
    published: Callable[[bytes, str], None],
    make_weights: MakeWeights,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = to_bytes(make_weights(1000))
    published(data, hashlib.sha256(data).hexdigest()[:8])

    weights = load_starting_weights("imagenet")

    assert weights is not None
    assert weights.backbone["bn1.weight"].tolist() == [1.0] * 64
    assert [path.read_bytes() == data for path in hub.iterdir()] == [True]
    assert capsys.readouterr().out == ""


def test_a_download_with_the_wrong_hash_is_refused_and_deleted(
    hub: Path, published: Callable[[bytes, str], None], make_weights: MakeWeights
) -> None:
    published(to_bytes(make_weights(1000)), "0123abcd")

    with pytest.raises(WeightsError, match="cannot be downloaded \\(invalid hash value"):
        load_starting_weights("imagenet")

    assert list(hub.iterdir()) == []


def test_the_imagenet_weights_fit_the_network() -> None:
    assert ResNet50_Weights.DEFAULT.url.endswith(IMAGENET_FILE)
    with torch.device("meta"):
        assert len(get_model("resnet50", weights=None).state_dict()) == 320
