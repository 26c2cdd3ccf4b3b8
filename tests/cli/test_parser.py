import re

import pytest
from help_texts import flags_of, help_of

from physiq_ray.cli.parser import COMMANDS, build_parser
from physiq_ray.config import Settings

NAMES = tuple(command.name for command in COMMANDS)


def test_help_shows_the_settings_of_a_training_in_groups():
    text = help_of("train")
    titles = re.findall(r"^([a-z]+) \(.+\):$", text, re.MULTILINE)
    assert titles == ["data", "split", "model", "optimiser", "regularisation", "cache", "cluster", "run"]
    cluster = text.partition("\ncluster (")[2].partition("\n\n")[0]
    assert re.findall(r"^  (--[a-z-]+)", cluster, re.MULTILINE) == [
        *("--num-workers", "--min-workers", "--use-gpu", "--placement", "--decode-resource"),
        *("--wait-for-nodes-s", "--max-failures", "--stall-timeout-s"),
    ]


def test_help_shows_the_settings_of_the_service_in_groups():
    titles = re.findall(r"^([a-z]+) \(.+\):$", help_of("serve"), re.MULTILINE)
    assert titles == ["models", "address", "access", "answers", "limits", "feedback", "replicas"]


@pytest.mark.parametrize("command", NAMES)
def test_help_fits_80_columns_and_describes_each_value(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    text = help_of(command)
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert not re.search(r"^  --[a-z-]+ (TEXT|STRING|X|N)\b", text, re.MULTILINE)


def test_help_of_predict_gives_the_default_number_of_answers_in_a_file():
    from physiq_ray.prediction.batch import PART_ROWS

    assert f"answers in each file of --output (default: {PART_ROWS})" in " ".join(help_of("predict").split())


def test_the_flags_of_train_are_all_settings():
    other_flags = {"--help", "--debug", "--resume", "--config", "--json"}
    assert flags_of("train") - other_flags == {
        f"--{name.replace('_', '-')}" for name in Settings.model_fields
    }
    # The parsed arguments would show a flag that help does not.
    other_arguments = {"command", "run", "debug", "resume", "config", "json"}
    assert set(vars(build_parser().parse_args(["train"]))) - other_arguments == set(Settings.model_fields)


def test_predict_has_these_flags_and_no_others():
    assert flags_of("predict") - {"--help", "--debug", "--json"} == {
        *("--model", "--figures", "--no-figures", "--output", "--part-rows", "--poses", "--precision"),
        *("--config", "--explain", "--format", "--top", "--requester-pays", "--anonymous"),
        *("--draft-labels", "--labels", "--label-fields", "--source-buckets"),
    }
    assert set(vars(build_parser().parse_args(["predict", "a.jpg"]))) - {
        "command",
        "run",
        "debug",
        "json",
    } == {
        *("photos", "model", "figures", "no_figures", "output", "part_rows", "poses", "precision"),
        *("config", "explain", "format", "top", "requester_pays", "anonymous"),
        *("draft_labels", "labels", "label_fields", "source_buckets"),
    }


@pytest.mark.parametrize("command", NAMES)
def test_the_help_of_each_command_ends_with_examples(run_here, command):
    done = run_here(command, "--help")
    assert done.returncode == 0
    assert f"  physiq-ray {command}" in done.stdout.partition("examples:")[2]
    assert ("--config FILE" in done.stdout) == ("--config's file" in " ".join(done.stdout.split()))


def test_a_missing_command_is_a_usage_error(run_here):
    assert run_here().returncode == 2
