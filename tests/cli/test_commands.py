import io
import json
import re
import subprocess
import sys

import pytest
import torch

from physiq_ray.checkpoint import ModelState, load_model_state, save_model_files
from physiq_ray.cli import build_parser
from physiq_ray.cli import demo as demo_command
from physiq_ray.config import Settings
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model


@pytest.fixture
def project(tmp_path):
    """A folder with a poses file and a function that writes labels: (file name, pose id) pairs."""
    (tmp_path / "mappings").mkdir()
    (tmp_path / "mappings" / "poses.json").write_text('[{"id": 1, "name": "One"}, {"id": 2, "name": "Two"}]')

    def write_labels(*pairs):
        labels = [{"s3Filename": name, "poseId": pose_id} for name, pose_id in pairs]
        (tmp_path / "mappings" / "db_labels.json").write_text(json.dumps(labels))

    write_labels()
    return write_labels


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    state = ModelState(
        build_model(2).state_dict(), ClassMapping.of_poses([1, 2]), {1: "One", 2: "Two"}, image_size=64
    )
    save_model_files(state, str(folder))
    return folder


TRAIN = ("train", "--weights", "random")


def imported(code, *names):
    """Run code in a process of its own, and give those of the modules that it imports."""
    code += f"; import sys; print([name for name in {names} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[-1]


def test_the_command_line_imports_neither_ray_nor_torch_nor_s3():
    code = "import physiq_ray.cli as cli; cli.build_parser().format_help()"
    assert imported(code, "ray", "torch", "boto3", "pyarrow", "numpy", "rich") == "[]"


def test_an_audit_imports_neither_ray_nor_torch():
    assert imported("import physiq_ray.audit", "ray", "torch") == "[]"


def find_parsers():
    (subparsers,) = (action for action in build_parser()._actions if action.dest == "command")
    return subparsers.choices


COMMANDS = tuple(find_parsers())


def test_help_shows_the_settings_of_a_training_in_groups():
    text = find_parsers()["train"].format_help()
    titles = re.findall(r"^([a-z]+) \(.+\):$", text, re.MULTILINE)
    assert titles == ["data", "split", "model", "optimiser", "regularisation", "cache", "cluster", "run"]
    cluster = text.partition("\ncluster (")[2].partition("\n\n")[0]
    assert re.findall(r"^  (--[a-z-]+)", cluster, re.MULTILINE) == [
        *("--num-workers", "--min-workers", "--use-gpu", "--placement", "--decode-resource"),
        *("--wait-for-nodes-s", "--max-failures", "--stall-timeout-s"),
    ]


def test_help_shows_the_settings_of_the_service_in_groups():
    titles = re.findall(r"^([a-z]+) \(.+\):$", find_parsers()["serve"].format_help(), re.MULTILINE)
    assert titles == ["models", "address", "access", "answers", "limits", "feedback", "replicas"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help_fits_80_columns_and_says_what_each_value_is(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = find_parsers()[command].format_help()
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert not re.search(r"^  --[a-z-]+ (TEXT|STRING|X|N)\b", text, re.MULTILINE)


def test_help_gives_the_number_of_answers_in_a_file():
    from physiq_ray.prediction.batch import PART_ROWS

    assert f"answers in each file of --output (default: {PART_ROWS})" in " ".join(
        find_parsers()["predict"].format_help().split()
    )


def test_what_the_demo_fixes_are_settings():
    assert set(demo_command.FIXED) < set(Settings.model_fields)


def test_every_setting_is_a_flag_of_train_and_nothing_else_is():
    flags = {
        option
        for action in find_parsers()["train"]._actions
        for option in action.option_strings
        if option.startswith("--")
    }
    own = {"--help", "--debug", "--resume", "--config", "--json"}
    assert flags - own == {f"--{name.replace('_', '-')}" for name in Settings.model_fields}


def test_predict_has_these_flags_and_no_others():
    options = {option for action in find_parsers()["predict"]._actions for option in action.option_strings}
    assert options - {"-h", "--help", "--debug", "--json"} == {
        *("--model", "--figures", "--no-figures", "--output", "--part-rows", "--poses", "--precision"),
        *("--config", "--format", "--top", "--requester-pays", "--anonymous"),
    }


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_s_help_ends_with_lines_to_paste(run_cli, command):
    done = run_cli(command, "--help")
    assert done.returncode == 0
    assert f"  physiq-ray {command}" in done.stdout.partition("examples:")[2]
    assert ("--config FILE" in done.stdout) == ("--config's file" in " ".join(done.stdout.split()))


def test_no_command_is_wrong_use(run_cli):
    assert run_cli().returncode == 2


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
def test_a_wrong_setting_is_named_before_any_work(run_cli, project, flags, message):
    done = run_cli(*TRAIN, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_label_file_is_named_with_its_remedy(run_cli, project):
    done = run_cli(*TRAIN, "--sources", "s3://whatever", "--labels", "nowhere.json")
    assert done.returncode == 1
    assert "nowhere.json: no such labels file; give its path with --labels" in done.stderr


@pytest.mark.parametrize(
    "flags",
    [
        ("--sources", "http://example.org"),
        ("--sources", "s3://whatever", "--labels", "nowhere.json"),
        ("--sources", "photos", "--poses", "nowhere.json"),
    ],
)
def test_wrong_inputs_of_a_training_are_told_before_ray_and_torch_are_imported(project, tmp_path, flags):
    code = (
        "import sys; from physiq_ray.cli import main; status = main(sys.argv[1:]);"
        "print(status, [name for name in ('ray', 'torch') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *TRAIN, *flags], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout in {"1 []\n", "2 []\n"}, done.stderr


def test_labels_that_match_nothing_show_an_example_of_both(run_cli, project, make_bucket, make_photo):
    project(("IMG1.jpeg", 1), ("IMG2.jpeg", 2))
    bucket = make_bucket({"other.jpeg": make_photo()})
    done = run_cli(*TRAIN, "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert "no label matches a photo: 1 photos, 2 usable labels" in done.stderr
    assert "'other.jpeg'" in done.stderr
    assert "'IMG1.jpeg'" in done.stderr


def test_an_empty_bucket_is_said(run_cli, project, make_bucket):
    bucket = make_bucket({})
    done = run_cli(*TRAIN, "--sources", f"s3://{bucket}")
    assert done.returncode == 1
    assert f"no photos in s3://{bucket}; check bucket and prefix" in done.stderr


def test_wrong_credentials_fail_with_every_bucket_s_reason(run_cli, project, make_bucket, make_photo):
    buckets = [make_bucket({"a.jpeg": make_photo()}) for _ in range(2)]
    done = run_cli(
        *TRAIN, "--sources", *(f"s3://{name}" for name in buckets), env={"AWS_ACCESS_KEY_ID": "WRONG"}
    )
    assert done.returncode == 1
    assert "none of the 2 sources could be listed" in done.stderr
    for bucket in buckets:
        assert f"list s3://{bucket}: the credentials were refused (InvalidAccessKeyId)" in done.stderr


def test_a_refused_download_of_imagenet_weights_is_one_message(
    run_cli, project, make_bucket, make_photo, tmp_path
):
    project(*((f"{n}.jpeg", 1 + n % 2) for n in range(8)))
    bucket = make_bucket({f"{n}.jpeg": make_photo(seed=n) for n in range(8)})
    nobody = {"https_proxy": "http://127.0.0.1:9", "TORCH_HOME": str(tmp_path / "torch")}
    done = run_cli("train", "--sources", f"s3://{bucket}", env=nobody)
    assert done.returncode == 1
    assert "weights=imagenet" in done.stderr
    assert "give a file or s3:// address of its state dict, or weights=random" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_a_run_from_s3_to_s3_with_given_weights_is_partly_failed_by_a_missing_bucket(
    run_cli, project, make_bucket, make_photo
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
    done = run_cli("train", *settings.split(), "--sources", *sources, timeout=250)
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


def test_predict_prints_pose_confidence_and_all_probabilities_and_writes_the_figure(
    run_cli, model, make_photo, tmp_path
):
    (tmp_path / "photo.jpg").write_bytes(make_photo(size=(90, 120)))
    done = run_cli("predict", "photo.jpg", "--model", model)
    assert done.returncode == 0, done.stderr
    assert "confidence" in done.stdout
    assert done.stdout.count("▶") == 1
    assert "One" in done.stdout
    assert "Two" in done.stdout
    assert "90 × 120 px, tensor 1 × 3 × 64 × 64, on cpu" in done.stdout
    assert (tmp_path / "predictions" / "photo.png").read_bytes().startswith(b"\x89PNG")


def test_predict_goes_on_after_a_broken_photo_and_says_which(run_here, model, make_photo, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "same.jpg").write_bytes(make_photo())
    (tmp_path / "a" / "broken.jpg").write_bytes(b"")
    done = run_here("predict", "a", "b", "nothing.jpg", "--model", model, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert [item["uri"].split("/")[-2:] for item in answer["predictions"]] == [
        ["a", "same.jpg"],
        ["b", "same.jpg"],
    ]
    assert [item["error"].rpartition(": ")[2] for item in answer["errors"]] == [
        "no bytes at all",
        "No such file or directory",
    ]
    assert sorted(path.name for path in (tmp_path / "predictions").iterdir()) == ["same-2.png", "same.png"]


def test_an_answer_stands_without_its_figure(run_here, model, make_photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(make_photo())
    (tmp_path / "predictions").write_text("a file where the folder should be")
    done = run_here("predict", "photo.jpg", "--model", model, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert [item["uri"] for item in answer["predictions"]] == ["photo.jpg"]
    assert "photo.jpg: answered, but without its figure: write predictions/photo.png" in done.stderr
    assert len(answer["errors"]) == 1


def test_names_no_file_can_have_are_one_line_and_no_traceback(run_cli, run_here, model, make_photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(make_photo())
    name = "x" * 300
    one = run_here("predict", name, "photo.jpg", "--model", model, "--no-figures", "--json")
    assert one.returncode == 1
    assert [item["uri"] for item in json.loads(one.stdout)["predictions"]] == ["photo.jpg"]
    assert one.stderr == f"physiq-ray predict: read {name}: File name too long\n"
    all_of_them = run_cli("predict", name, "--model", model, "--output", "out")
    no_model = run_here("predict", "photo.jpg", "--model", name)
    for done in (all_of_them, no_model):
        assert done.returncode == 1
        assert "File name too long" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "out", "--no-figures"), "--output=out: writes no figures; leave out --figures and"),
        (("--output", "out", "--figures", "here"), "--output=out: writes no figures"),
        (("--part-rows", "5"), "--part-rows=5: needs --output, whose files it limits"),
        (("--output", "out", "--part-rows", "0"), "part_rows=0 (answers a file): expected at least 1"),
    ],
)
def test_flags_of_predict_that_exclude_each_other_are_refused(run_cli, model, tmp_path, flags, message):
    done = run_cli("predict", "photo.jpg", "--model", model, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_predict_with_an_output_answers_a_bucket_and_names_what_it_could_not(
    run_cli, model, make_bucket, make_photo, tmp_path
):
    photos = {f"new/{n}.jpeg": make_photo(seed=n, size=(72, 96)) for n in range(4)}
    bucket = make_bucket({**photos, "new/broken.jpeg": b"no photo"})
    out = tmp_path / "out"
    done = run_cli("predict", f"s3://{bucket}/new", "nowhere", "--model", model, "--output", out, "--json")
    assert done.returncode == 1, done.stderr
    assert json.loads(done.stdout) == {
        "output": str(out),
        "photos": {"answered": 4, "answered_before": 0, "unreadable": 1},
        "files": [str(out / "part-00000.parquet")],
        "unreadable_file": str(out / "_unreadable.jsonl"),
        "failures": [f"list {tmp_path / 'nowhere'}: No such file or directory"],
    }
    # Ray's C++ half announces each actor pool on stderr (ray issue 53727), past all that can be set; a slow
    # machine also sees progress.
    noise = ("core_worker.cc", "  predicting: ")
    lines = [line for line in done.stderr.splitlines() if not any(part in line for part in noise)]
    assert len(lines) == 2, done.stderr
    first, second = lines
    assert first.startswith(f"physiq-ray predict: s3://{bucket}/new/broken.jpeg: not an image")
    assert second.startswith(f"NOT COMPLETE: predicted without list {tmp_path / 'nowhere'}: No such file")
    assert {path.name for path in out.iterdir()} == {
        *("part-00000.parquet", "unreadable.parquet", "_unreadable.jsonl"),
    }


def test_an_unknown_and_a_hostile_model_file_are_refused(run_here, tmp_path, make_photo):
    (tmp_path / "photo.jpg").write_bytes(make_photo())

    class Hostile:
        def __reduce__(self):
            return (eval, (f"open({str(tmp_path / 'ran')!r}, 'w')",))

    torch.save({"model_state_dict": Hostile()}, tmp_path / "hostile.pth")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "unknown.pth")
    hostile = run_here("predict", "photo.jpg", "--model", "hostile.pth")
    assert hostile.returncode == 1
    assert "refused" in hostile.stderr
    assert not (tmp_path / "ran").exists()
    unknown = run_here("predict", "photo.jpg", "--model", "unknown.pth")
    assert unknown.returncode == 1
    assert "unknown.pth" in unknown.stderr


def test_a_demo_needs_photos_and_labels_together(run_cli, tmp_path):
    done = run_cli("demo", "--photos", tmp_path)
    assert done.returncode == 2
    assert "--photos and --labels go together" in done.stderr
