import pytest
from help_texts import flags_of

from physiq_ray.config import Settings


def test_the_flags_are_settings_of_a_training_and_these():
    assert flags_of("suspects") - {f"--{name.replace('_', '-')}" for name in Settings.model_fields} == {
        *("--help", "--debug", "--config", "--json"),
        *("--model", "--with-training-photos", "--folds", "--resume", "--report"),
    }
    # It writes the models of the folds to their runs, and logs them nowhere else.
    assert {"--output", "--mlflow"}.isdisjoint(flags_of("suspects"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--resume --run-name a", "--resume: resumes the trainings of --folds; give --folds too"),
        ("--folds 5 --model m", "--model m: given together with --folds 5, which trains models of its own"),
        ("--folds 5 --with-training-photos", "--with-training-photos: given together with --folds 5"),
        ("--folds 5", "sources: none given"),
        ("--folds 5 --resume", "--resume needs --run-name"),
    ],
)
def test_flags_that_exclude_each_other_are_refused(run_here, words, message):
    done = run_here("suspects", *words.split())
    assert (done.returncode, done.stdout) == (2, "")
    assert message in done.stderr


def test_corrections_are_safe_from_a_second_ranking(run_here, tmp_path):
    (tmp_path / "suspects").mkdir()
    (tmp_path / "suspects" / "suspects.jsonl").write_text("corrected")
    done = run_here("suspects", "--model", "nowhere")
    assert done.returncode == 2
    assert (
        "suspects.jsonl exists and may hold corrections; give another folder, or move the file" in done.stderr
    )
