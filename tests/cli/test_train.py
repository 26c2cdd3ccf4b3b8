import io
import json
import subprocess
import sys

import pytest
import torch

from physiq_ray.checkpoint import load_model_state
from physiq_ray.model import build_model


@pytest.fixture
def project(tmp_path):
    """Write a poses file; give a function that writes labels from pairs (file name, pose id)."""
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')

    def write_labels(*pairs):
        labels = [{"s3Filename": name, "poseId": pose_id} for name, pose_id in pairs]
        (tmp_path / "mappings" / "db_labels.json").write_text(json.dumps(labels))

    write_labels()
    return write_labels


TRAIN = ("train", "--weights", "random")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--epochs", "0"), "--epochs='0' (maximum number of epochs): expected greater than or equal to 1"),
        (
            ("--batch-size", "many"),
            "--batch-size='many' (photos per step and worker; if not given, 64 for workers with GPUs): "
            "expected a valid integer",
        ),
        (("--sources", "http://example.org"), "http:// is not supported; give s3:// or a folder"),
        ((), "sources: none given; name them with --sources"),
        (("--sources", "s3://aaa", "s3://aaa/b"), "s3://aaa/b lies within s3://aaa"),
    ],
)
def test_a_wrong_setting_is_named_before_any_work(run_here, project, flags, message):
    done = run_here(*TRAIN, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_label_file_is_named_with_its_remedy(run_here, project):
    done = run_here(*TRAIN, "--sources", "s3://whatever", "--labels", "nowhere.json")
    assert done.returncode == 1
    assert "nowhere.json: no such labels file; give its path with --labels" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "flags",
    [
        ("--sources", "http://example.org"),
        ("--sources", "s3://whatever", "--labels", "nowhere.json"),
        ("--sources", "photos", "--poses", "nowhere.json"),
    ],
)
def test_wrong_inputs_of_a_training_are_reported_before_ray_and_torch_are_imported(project, tmp_path, flags):
    code = (
        "import sys; from physiq_ray.cli import main; status = main(sys.argv[1:]);"
        "print(status, [name for name in ('ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TRAIN, *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout in {"1 []\n", "2 []\n"}, done.stderr


def test_labels_that_match_nothing_show_an_example_of_both(run_here, project, make_bucket, make_photo):
    project(("IMG1.jpeg", 1), ("IMG2.jpeg", 2))
    bucket = make_bucket({"other.jpeg": make_photo()})
    done = run_here(*TRAIN, "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert "no label matches a photo: 1 photos, 2 usable labels" in done.stderr
    assert "'other.jpeg'" in done.stderr
    assert "'IMG1.jpeg'" in done.stderr


def test_an_empty_bucket_is_reported(run_here, project, make_bucket):
    bucket = make_bucket({})
    done = run_here(*TRAIN, "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert f"no photos in s3://{bucket}; check bucket and prefix" in done.stderr


@pytest.mark.usefixtures("on_request")  # no other test gets the client with these credentials
def test_wrong_credentials_are_reported_for_each_bucket(
    run_here, project, make_bucket, make_photo, monkeypatch
):
    buckets = [make_bucket({"a.jpeg": make_photo()}) for _ in range(2)]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "WRONG")
    done = run_here(*TRAIN, "--sources", *(f"s3://{name}" for name in buckets))
    assert done.returncode == 1
    assert "none of the 2 sources could be listed" in done.stderr
    for bucket in buckets:
        assert f"list s3://{bucket}: the credentials were refused (InvalidAccessKeyId)" in done.stderr


def test_a_refused_download_of_imagenet_weights_is_one_message(
    ray_local, run_here, project, make_bucket, make_photo, tmp_path, monkeypatch
):
    project(*((f"{n}.jpeg", 1 + n % 2) for n in range(8)))
    bucket = make_bucket({f"{n}.jpeg": make_photo(seed=n) for n in range(8)})
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    done = run_here("train", "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert "weights=imagenet" in done.stderr
    assert "give a file or s3:// address of its state dict, or weights=random" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_training_from_s3_to_s3_with_given_weights_reports_a_missing_bucket(
    ray_local, run_here, project, make_bucket, make_photo
):
    project(*((f"{n}.jpeg", 1 + n % 2) for n in range(12)))
    start = build_model(1000).state_dict()
    file = io.BytesIO()
    torch.save(start, file)
    bucket = make_bucket({f"in/{n}.jpeg": make_photo(seed=n) for n in range(12)})
    models = make_bucket({"start.pth": file.getvalue()})
    settings = (
        f"--weights s3://{models}/start.pth --output s3://{models}/poses/v1 --storage s3://{models}/runs "
        "--run-name first --epochs 1 --image-size 64 --precision fp32 --learning-rate 1e-9 --json"
    )
    sources = (f"s3://{bucket}/in", "s3://not-there-at-all")
    done = run_here("train", *settings.split(), "--sources", *sources)
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert answer["photos"]["train"] + answer["photos"]["validation"] == 12
    (failed,) = answer["failed_sources"]
    assert failed.startswith("s3://not-there-at-all: ")
    assert "NoSuchBucket" in failed
    assert "s3://not-there-at-all: left out" in done.stderr
    assert f"s3://{bucket}/in: 12 photos, 12 labelled" in done.stderr
    assert answer["files"][0] == f"s3://{models}/poses/v1/pose_classifier.pth"
    state = load_model_state(f"s3://{models}/poses/v1")
    assert state.class_mapping.classes == ("1", "2")
    name = "layer3.2.conv2.weight"
    assert torch.allclose(state.state_dict[name], start[name], atol=1e-6)
