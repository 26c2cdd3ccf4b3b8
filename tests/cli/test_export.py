import json

import pytest
import safetensors.torch
import torch

from physiq_ray.constants import COMPLETE_FILE


@pytest.mark.slow
def test_export_writes_the_file_and_its_description(run_here, fixed_model, tmp_path):
    done = run_here("export", fixed_model, "--format", "safetensors")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "export/pose_classifier.safetensors\nexport/pose_classifier.safetensors.json\n"
    weights = safetensors.torch.load_file(tmp_path / "export/pose_classifier.safetensors")
    assert weights["fc.bias"].tolist() == [0.0, 2.0, 1.0]
    about = json.loads((tmp_path / "export/pose_classifier.safetensors.json").read_text(encoding="utf-8"))
    assert [pose["name"] for pose in about["poses"]] == ["Abs & Thighs", "Front Double Biceps", "@Übung"]


@pytest.mark.slow
def test_export_to_a_bucket_prints_json_and_replaces_files(run_here, fixed_model, make_bucket, read_bucket):
    bucket = make_bucket({"a.safetensors": b"old"})
    words = ("export", fixed_model, "--format", "safetensors", "--output", f"s3://{bucket}/a.safetensors")
    done = run_here(*words, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(done.stdout)
    assert result["files"] == [f"s3://{bucket}/a.safetensors", f"s3://{bucket}/a.safetensors.json"]
    found = read_bucket(bucket)
    assert safetensors.torch.load(found["a.safetensors"])["fc.bias"].tolist() == [0.0, 2.0, 1.0]
    assert json.loads(found["a.safetensors.json"]) == result["description"]


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        ("nowhere", 1, "model read nowhere: No such file or directory; train one first"),
        ("damaged", 1, "damaged/pose_classifier_complete.pth: not a file that torch.save wrote, or damaged"),
        ("damaged --format safetensors --output a.onnx", 2, "--output=a.onnx: .onnx is the suffix of"),
    ],
)
def test_what_cannot_be_exported_is_named(run_here, tmp_path, words, status, sentence):
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / COMPLETE_FILE).write_bytes(b"PK\3\4" + bytes(100))
    done = run_here("export", *words.split())
    assert done.returncode == status
    assert done.stderr.startswith(f"physiq-ray export: {sentence}")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_a_file_of_another_kind_is_not_replaced(run_here, fixed_model, tmp_path):
    model = tmp_path / "model.pth"
    torch.save({}, model)
    before = model.read_bytes()
    done = run_here("export", fixed_model, "--format", "safetensors", "--output", model)
    assert done.returncode == 1
    assert f"--output={model}: cannot be written: Not a directory" in done.stderr
    assert model.read_bytes() == before
