import json
import subprocess
import sys

import pytest
import torch
from PIL import Image

from physiq_ray.checkpoint import ModelState, save_model_files
from physiq_ray.labels import ClassMapping
from physiq_ray.model import build_model


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    state = ModelState(
        build_model(2).state_dict(), ClassMapping.of_poses([1, 2]), {1: "One", 2: "Two"}, image_size=64
    )
    save_model_files(state, str(folder))
    return folder


@pytest.mark.slow
def test_predict_prints_pose_confidence_and_all_probabilities_and_writes_the_figure(
    run_here, model, make_photo, tmp_path
):
    (tmp_path / "photo.jpg").write_bytes(make_photo(size=(90, 120)))
    done = run_here("predict", "photo.jpg", "--model", model)
    assert done.returncode == 0, done.stderr
    assert "confidence" in done.stdout
    assert done.stdout.count("▶") == 1
    assert "One" in done.stdout
    assert "Two" in done.stdout
    assert "90 × 120 px, tensor 1 × 3 × 64 × 64, on cpu" in done.stdout
    assert (tmp_path / "predictions" / "photo.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_explain_draws_a_second_copy_of_the_photo_in_the_figure(run_here, model, make_photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(make_photo(size=(90, 120)))
    sizes = []
    for flags in ((), ("--explain",)):
        done = run_here("predict", "photo.jpg", "--model", model, *flags)
        assert done.returncode == 0, done.stderr
        with Image.open(tmp_path / "predictions" / "photo.png") as figure:
            sizes.append(figure.size)
    assert sizes == [(1000, 560), (1450, 560)]


@pytest.mark.slow
def test_predict_continues_after_an_unreadable_photo_and_names_it(run_here, model, make_photo, tmp_path):
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


@pytest.mark.slow
def test_an_answer_is_printed_even_if_its_figure_cannot_be_written(run_here, model, make_photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(make_photo())
    (tmp_path / "predictions").write_text("a file where the folder should be")
    done = run_here("predict", "photo.jpg", "--model", model, "--json")
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert [item["uri"] for item in answer["predictions"]] == ["photo.jpg"]
    assert "photo.jpg: answered, but without its figure: write predictions/photo.png" in done.stderr
    assert len(answer["errors"]) == 1


@pytest.mark.slow
def test_impossible_file_names_are_reported_in_one_line_without_a_traceback(
    run_here, model, make_photo, tmp_path
):
    (tmp_path / "photo.jpg").write_bytes(make_photo())
    name = "x" * 300
    one = run_here("predict", name, "photo.jpg", "--model", model, "--no-figures", "--json")
    assert one.returncode == 1
    assert [item["uri"] for item in json.loads(one.stdout)["predictions"]] == ["photo.jpg"]
    assert one.stderr == f"physiq-ray predict: read {name}: File name too long\n"
    batch = run_here("predict", name, "--model", model, "--output", "out")
    no_model = run_here("predict", "photo.jpg", "--model", name)
    for done in (batch, no_model):
        assert done.returncode == 1
        assert "File name too long" in done.stderr
        assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--output", "out", "--no-figures"), "--output=out: writes no figures; leave out --figures and"),
        (("--output", "out", "--figures", "here"), "--output=out: writes no figures"),
        (("--output", "out", "--explain"), "--output=out: writes no figures, in which --explain would draw"),
        (("--no-figures", "--explain"), "--explain: draws in the figures; leave out --no-figures"),
        (("--part-rows", "5"), "--part-rows=5: needs --output, whose files it limits"),
        (("--output", "out", "--part-rows", "0"), "part_rows=0 (answers a file): expected at least 1"),
    ],
)
def test_flags_of_predict_that_exclude_each_other_are_refused(run_here, model, tmp_path, flags, message):
    done = run_here("predict", "photo.jpg", "--model", model, *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--format", "csv", "--json"), "--format=csv: excludes --json, which means --format json"),
        (("--format", "csv", "--output", "out"), "--format=csv: excludes --output, which writes Parquet"),
        (("--top", "2", "--output", "out"), "--top=2: excludes --output, whose files hold all"),
        (("--draft-labels", "d.jsonl", "--output", "out"), "--output: excludes --draft-labels, which writes"),
        (("--draft-labels", "d.jsonl", "--no-figures"), "--no-figures: excludes --draft-labels"),
        (("--top", "0"), "--top=0 (poses in each answer): expected at least 1"),
    ],
)
def test_formats_that_exclude_other_flags_are_refused_before_any_work(run_here, tmp_path, flags, message):
    done = run_here("predict", "a.jpg", "--model", "not-read", *flags)
    assert done.returncode == 2
    assert message in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_predict_with_an_output_answers_a_bucket_and_names_unreadable_photos(
    run_cli, model, make_bucket, make_photo, tmp_path
):
    photos = {f"new/{n}.jpeg": make_photo(seed=n, size=(72, 96)) for n in range(4)}
    bucket = make_bucket({**photos, "new/broken.jpeg": b"not a photo"})
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
    # On a slow machine, progress is printed, too.
    lines = [line for line in done.stderr.splitlines() if "  predicting: " not in line]
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


@pytest.mark.slow
def test_one_local_photo_needs_neither_ray_nor_s3_nor_arrow_nor_matplotlib(model, make_photo, tmp_path):
    (tmp_path / "photo.jpg").write_bytes(make_photo())
    code = (
        "import sys; from physiq_ray.cli import main; status = main(sys.argv[1:]);"
        "print(status, [name for name in ('ray', 'boto3', 'pyarrow', 'pandas', 'matplotlib') "
        "if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "predict", "photo.jpg", "--no-figures", "--model", str(model)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.endswith("\n0 []\n"), done.stderr
