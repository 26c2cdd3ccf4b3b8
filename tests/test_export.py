"""The exported programs and weights give the probabilities of `Predictor`, also without this package."""

import ast
import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from PIL import Image

from physiq_ray.checkpoint import ModelState
from physiq_ray.errors import CheckpointError, SettingError
from physiq_ray.export import (
    EXTRA_FILE,
    FLOOR_KEY,
    METADATA_KEY,
    ExportedModel,
    describe,
    export_address,
    export_model,
)
from physiq_ray.floor import Floor
from physiq_ray.images import decode_square
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model
from physiq_ray.prediction import Predictor

NAMES = {2: "Front Double Biceps", 7: "@Übung", 11: "Abs & Thighs"}
SIZE = 64
BLOCKS = re.findall(
    r"^```python\n(.*?)^```",
    Path(__file__).parents[1].joinpath("docs", "export.md").read_text(encoding="utf-8"),
    re.DOTALL | re.MULTILINE,
)
# Runs lines of the documents where neither this package nor what it builds on can be imported.
ALONE = """
import sys
sys.modules |= dict.fromkeys(("physiq_ray", "torch", "torchvision", "ray", "onnx"))
names = {}
exec(sys.argv[1], names)
import json
print(json.dumps(names["probabilities"][0].tolist()))
"""


def normalised(pixels):
    """Give the input of torchvision's ResNet50."""
    values = torch.from_numpy(pixels) / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    return ((values - mean) / std).permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def photos(make_photo):
    """Fifty JPEGs, most of them turned, of a third to twelve times the size of the network's input."""
    return [
        make_photo(seed=seed, size=(90 + 15 * seed, 100 + 13 * seed), orientation=seed % 8 + 1, quality=90)
        for seed in range(50)
    ]


@pytest.fixture(scope="module")
def pixels(photos):
    return np.stack([decode_square(photo, size_px=SIZE) for photo in photos])


@pytest.fixture(scope="module")
def state(pixels):
    """A model whose probabilities differ between photos as those of a trained model do."""
    torch.manual_seed(0)
    model = torchvision.models.resnet50(num_classes=3).eval()
    with torch.inference_mode():
        body = torch.nn.Sequential(*list(model.children())[:-1], torch.nn.Flatten())
        features = body(normalised(pixels))
        _, sizes, directions = torch.pca_lowrank(features, q=3)
        weight = directions.T / (sizes[:, None] / len(pixels) ** 0.5)  # each logit has a deviation of 1
        weights = model.state_dict() | {"fc.weight": weight, "fc.bias": -weight @ features.mean(dim=0)}
    return ModelState(
        weights,
        ClassMapping.of_poses(NAMES),  # in string order: 11, 2, 7
        NAMES,
        image_size=SIZE,
        temperature=0.6,
        versions={"torch": "2.0"},
        version="0123456789ab",
    )


@pytest.fixture(scope="module")
def class_features():
    return torch.nn.functional.normalize(torch.rand(3, 2048, generator=torch.manual_seed(1)))


@pytest.fixture(scope="module")
def scores(state, class_features, pixels):
    """Give the scores (50,) by distance, computed with torchvision and numpy alone."""
    model = torchvision.models.resnet50(num_classes=3).eval()
    model.load_state_dict(state.state_dict)
    model.fc = torch.nn.Identity()
    with torch.inference_mode():
        features = model(normalised(pixels)).double().numpy()
    cosines = features @ class_features.double().numpy().T
    return (cosines / np.linalg.norm(features, axis=1, keepdims=True)).max(axis=1)


@pytest.fixture(scope="module")
def floored(state, scores, class_features):
    """The model with a floor that half of the photos do not reach."""
    return dataclasses.replace(state, floor=Floor("distance", float(np.median(scores)), class_features))


@pytest.fixture(scope="module")
def expected(state, photos):
    """Give the probabilities (50, 3) of `Predictor`, in the order of the outputs."""
    predictor = Predictor(state, precision="fp32")
    rows = []
    for photo in photos:
        answer = predictor.predict(photo, uri="a.jpeg")
        by_id = {item.pose_id: item.probability for item in answer.probabilities}
        rows.append([by_id[pose_id] for pose_id in (11, 2, 7)])
    return np.array(rows)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, state, floored):
    """Give a folder with the model in all formats; only those in ONNX and safetensors have a floor."""
    folder = tmp_path_factory.mktemp("work")
    for kind, model in (("onnx", floored), ("safetensors", floored), ("torch-export", state)):
        export_model(model, kind, export_address(str(folder / "export"), kind))
    return folder


def in_batches(pixels, size):
    return [pixels[start : start + size] for start in range(0, len(pixels), size)]


@pytest.mark.slow
def test_the_models_answers_differ_between_photos(expected):
    # Otherwise the tests below would accept a program that ignores its input.
    assert expected.std(axis=0).min() > 0.15
    assert set(expected.argmax(axis=1)) == {0, 1, 2}


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_onnxruntime_gives_the_same_probabilities(folder, pixels, expected, batch_size):
    session = onnxruntime.InferenceSession(folder / "export/pose_classifier.onnx")
    found = [session.run(["probabilities"], {"images": batch})[0] for batch in in_batches(pixels, batch_size)]
    assert [rows.shape[0] for rows in found] == [len(batch) for batch in in_batches(pixels, batch_size)]
    assert np.concatenate(found) == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_onnx_program_gives_the_score_of_the_floor(folder, pixels, scores):
    session = onnxruntime.InferenceSession(folder / "export/pose_classifier.onnx")
    assert [output.name for output in session.get_outputs()] == ["probabilities", "score"]
    (found,) = session.run(["score"], {"images": pixels})
    assert found.dtype == np.float32
    assert found == pytest.approx(scores, abs=1e-5)


@pytest.mark.slow
def test_the_onnx_program_is_valid_and_its_batch_is_free(folder):
    path = folder / "export/pose_classifier.onnx"
    onnx.checker.check_model(path, full_check=True)
    (given,) = onnxruntime.InferenceSession(path).get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", SIZE, SIZE, 3])
    assert [file.name for file in path.parent.glob("*.onnx*")] == [
        "pose_classifier.onnx",
        f"{path.name}.json",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 7])
def test_the_torch_program_gives_the_same_probabilities(folder, pixels, expected, batch_size):
    program = torch.export.load(folder / "export/pose_classifier.pt2").module()
    found = [program(torch.from_numpy(batch)) for batch in in_batches(pixels, batch_size)]
    assert {name for answers in found for name in answers} == {"probabilities"}
    probabilities = torch.cat([answers["probabilities"] for answers in found])
    assert not probabilities.requires_grad
    assert probabilities.numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_torchvision_gives_the_same_probabilities_with_the_weights(folder, pixels, expected, floored):
    weights = safetensors.torch.load_file(folder / "export/pose_classifier.safetensors")
    assert torch.equal(weights.pop(FLOOR_KEY), floored.floor.weights)
    model = torchvision.models.resnet50(num_classes=3).eval()
    model.load_state_dict(weights)
    with torch.inference_mode():
        logits = torch.cat([model(batch) for batch in in_batches(normalised(pixels), 7)])
    assert torch.softmax(logits / 0.6, dim=1).numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_each_file_contains_the_description_that_is_next_to_it(folder, floored):
    export = folder / "export"
    extra = {EXTRA_FILE: ""}
    torch.export.load(export / "pose_classifier.pt2", extra_files=extra)
    with safetensors.safe_open(export / "pose_classifier.safetensors", framework="pt") as file:
        metadata = file.metadata()
    session = onnxruntime.InferenceSession(export / "pose_classifier.onnx")
    texts = {
        "pose_classifier.onnx": session.get_modelmeta().custom_metadata_map[METADATA_KEY],
        "pose_classifier.pt2": extra[EXTRA_FILE],
        "pose_classifier.safetensors": metadata[METADATA_KEY],
    }
    for name, text in texts.items():
        assert f"{text}\n" == (export / f"{name}.json").read_text(encoding="utf-8")
    floors = [json.loads(text)["floor"] for text in texts.values()]
    distance = {"score": "distance", "threshold": floored.floor.threshold}
    assert floors == [distance, None, distance]


def test_the_description_names_all_that_a_program_needs(state):
    found = describe(state, "onnx")
    versions = found.pop("versions")
    assert found == {
        "format": "onnx",
        "input": {"images": "uint8 (batch, 64, 64, 3), RGB, 0 to 255: the program normalises them"},
        "outputs": {"probabilities": "float32 (batch, 3): the temperature is applied"},
        "poses": [
            {"id": 11, "name": "Abs & Thighs"},
            {"id": 2, "name": "Front Double Biceps"},
            {"id": 7, "name": "@Übung"},
        ],
        "preprocessing": {
            "image_size": 64,
            "resize": "whole photo to a square, bilinear",
            "mean": [0.485, 0.456, 0.406],
            "std": [0.229, 0.224, 0.225],
        },
        "temperature": 0.6,
        "floor": None,
        "model": {"architecture": "resnet50", "version": "0123456789ab"},
    }
    assert versions["training"] == {"torch": "2.0"}
    assert versions["export"]["torch"] == torch.__version__.partition("+")[0]
    assert versions["export"]["onnx"] == onnx.__version__


@pytest.mark.slow
@pytest.mark.parametrize("has_floor", [False, True])
def test_the_description_names_the_outputs_of_the_program(state, floored, pixels, has_floor):
    model = floored if has_floor else state
    outputs = ExportedModel(model)(torch.from_numpy(pixels[:2]))
    assert list(describe(model, "onnx")["outputs"]) == list(outputs)
    assert len(outputs) == 1 + has_floor


@pytest.mark.slow
@pytest.mark.parametrize("score", ["probability", "energy", "distance", "detector"])
def test_the_program_gives_the_score_that_a_prediction_compares(state, class_features, photos, pixels, score):
    detector = torch.rand(2049, generator=torch.manual_seed(2)) - 0.5
    weights = {"distance": class_features, "detector": detector}.get(score)
    floored = dataclasses.replace(state, floor=Floor(score, 0.0, weights))
    found = ExportedModel(floored)(torch.from_numpy(pixels[:5]))["score"]
    predictor = Predictor(floored, precision="fp32")
    expected = [predictor.predict(photo, uri="a.jpeg").floor.value for photo in photos[:5]]
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx(expected, abs=1e-4)


@pytest.mark.slow
def test_the_lines_of_the_documents_give_the_same_answers(folder, photos, expected, scores, floored):
    lines = BLOCKS[0]
    imported = {
        alias.name if isinstance(node, ast.Import) else node.module
        for node in ast.walk(ast.parse(lines))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for alias in node.names
    }
    assert imported == {"json", "numpy", "onnxruntime", "PIL"}
    assert len([line for line in lines.splitlines() if line and "import" not in line]) == 10
    # A photo on each side of the threshold, and a large one that is turned.
    for number in (scores.argmin(), scores.argmax(), 49):
        (folder / "photo.jpg").write_bytes(photos[number])
        done = subprocess.run(
            [sys.executable, "-c", ALONE, lines], cwd=folder, capture_output=True, text=True, timeout=120
        )
        assert done.stderr == ""
        answer, probabilities = done.stdout.splitlines()
        assert json.loads(probabilities) == pytest.approx(expected[number], abs=1e-4)
        best = expected[number].argmax()
        name = NAMES[(11, 2, 7)[best]]
        assert answer in (
            f"{name} {expected[number][best]:.2%}",
            f"no known pose {expected[number][best]:.2%}",
        )


@pytest.mark.slow
def test_the_lines_for_the_weights_give_the_same_probabilities(folder, pixels, expected, monkeypatch):
    monkeypatch.chdir(folder)
    names = {"json": json, "np": np, "photo": Image.fromarray(pixels[5])}
    exec(BLOCKS[1], names)
    assert names["probabilities"][0].numpy() == pytest.approx(expected[5], abs=1e-4)


@pytest.mark.slow
def test_weights_in_channels_last_are_exported(make_weights, tmp_path):
    weights = {name: tensor.clone() for name, tensor in make_weights(3).items()}
    weights["conv1.weight"] = weights["conv1.weight"].contiguous(memory_format=torch.channels_last)
    state = ModelState(weights, ClassMapping.of_poses(NAMES), NAMES)
    export_model(state, "safetensors", str(tmp_path / "a.safetensors"))
    found = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert {name: tensor.tolist() for name, tensor in found.items() if tensor.ndim < 2} == {
        name: tensor.tolist() for name, tensor in weights.items() if tensor.ndim < 2
    }
    assert torch.equal(found["conv1.weight"], weights["conv1.weight"])


def test_an_address_with_the_suffix_is_a_file_and_any_other_a_folder():
    assert export_address("a/b.onnx", "onnx") == "a/b.onnx"
    assert export_address("a/b", "onnx") == "a/b/pose_classifier.onnx"
    assert export_address("s3://models/a/", "torch-export") == "s3://models/a/pose_classifier.pt2"
    assert export_address("model.pth", "safetensors") == "model.pth/pose_classifier.safetensors"
    with pytest.raises(SettingError, match=r"--output=a\.pt2: \.pt2 is the suffix of --format torch-export"):
        export_address("a.pt2", "onnx")


@pytest.mark.slow
def test_weights_of_another_network_are_refused(tmp_path):
    weights = build_model(3).state_dict()
    del weights["fc.weight"]
    state = ModelState(weights, ClassMapping.of_poses(NAMES), NAMES)
    for kind in ("onnx", "safetensors", "torch-export"):
        with pytest.raises(CheckpointError, match=r"do not fit a resnet50 with 3 outputs: [\s\S]*fc\.weight"):
            export_model(state, kind, str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "package", "sentence"),
    [
        ("onnx", "onnx", "--format=onnx: onnx not installed; pip install 'physiq-ray[export]'"),
        ("onnx", "onnxscript", "--format=onnx: onnxscript not installed; pip install 'physiq-ray[export]'"),
        (
            "safetensors",
            "safetensors",
            "--format=safetensors: safetensors not installed; pip install 'physiq-ray[export]'",
        ),
    ],
)
def test_a_missing_package_is_named_with_its_extra(monkeypatch, state, tmp_path, kind, package, sentence):
    monkeypatch.setitem(sys.modules, package, None)  # Python then reports that there is no such module
    with pytest.raises(SettingError) as caught:
        export_model(state, kind, str(tmp_path / "a"))
    assert str(caught.value) == sentence
