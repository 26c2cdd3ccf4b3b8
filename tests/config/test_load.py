from pathlib import Path
from typing import Any

import pytest

from physiq_ray import config
from physiq_ray.config import BaseSettings, Settings, load_settings
from physiq_ray.config.load import KINDS
from physiq_ray.errors import SettingError


def settings_of(
    flags: dict[str, Any] | None = None,
    *,
    environment: dict[str, str] | None = None,
    file: Path | None = None,
    defaults: dict[str, Any] | None = None,
) -> Settings:
    return load_settings(flags or {}, environment=environment or {}, file=file, defaults=defaults)


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "physiq.toml"


def test_file_environment_and_flags_override_the_defaults_in_this_order(toml: Path) -> None:
    toml.write_text("batch_size = 2\npatience = 2\nseed = 2\n")

    settings = settings_of(
        {"seed": 4},
        environment={"PHYSIQ_PATIENCE": "3", "PHYSIQ_SEED": "3"},
        file=toml,
        defaults={"epochs": 1, "batch_size": 1, "patience": 1, "seed": 1},
    )

    assert (settings.epochs, settings.batch_size, settings.patience, settings.seed) == (1, 2, 3, 4)


def test_a_flag_of_none_counts_as_not_given() -> None:
    assert settings_of({"seed": None}, environment={"PHYSIQ_SEED": "7"}).seed == 7


def test_a_flag_of_zero_counts_as_given() -> None:
    assert settings_of({"seed": 0}, environment={"PHYSIQ_SEED": "7"}).seed == 0


def test_flags_that_are_text_become_numbers() -> None:
    settings = settings_of({"epochs": "3", "learning_rate": "1e-3"})

    assert (settings.epochs, settings.learning_rate) == (3, 0.001)


def test_lists_and_pairs_in_the_environment_are_separated_by_commas() -> None:
    settings = settings_of(
        environment={
            "PHYSIQ_SOURCES": "s3://checkin-poses, s3://workout-images/2024 ,photos",
            "PHYSIQ_SOURCE_BUCKETS": "checkins=checkin-poses, training = workout-images",
        }
    )

    assert settings.sources == ("s3://checkin-poses", "s3://workout-images/2024", "photos")
    assert settings.source_buckets == {"checkins": "checkin-poses", "training": "workout-images"}


def test_lists_and_pairs_in_flags_are_lists_of_words() -> None:
    settings = settings_of({"sources": ["s3://aaa", "s3://bbb"], "source_buckets": ["a=aaa", "b=bbb"]})

    assert settings.sources == ("s3://aaa", "s3://bbb")
    assert settings.source_buckets == {"a": "aaa", "b": "bbb"}


def test_lists_and_pairs_in_a_file_are_arrays_and_tables_of_toml(toml: Path) -> None:
    toml.write_text('sources = ["s3://aaa", "photos"]\n[source_buckets]\ncheckins = "aaa"\n')

    settings = settings_of(file=toml)

    assert settings.sources == ("s3://aaa", "photos")
    assert settings.source_buckets == {"checkins": "aaa"}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("image_size", "32", "--image-size='32' (side of the network's square input, in pixels): expected"),
        ("image_size", 2000, "expected less than or equal to 1024"),
        ("epochs", "many", "--epochs='many' (maximum number of epochs): expected a valid integer"),
        ("epochs", 2.5, "expected a valid integer"),
        ("epochs", 0, "expected greater than or equal to 1"),
        ("epochs", True, "--epochs=True (maximum number of epochs): true and false are not allowed here"),
        ("learning_rate", "nan", "--learning-rate='nan'"),
        ("learning_rate", 0, "expected greater than 0"),
        ("warmup_epochs", "inf", "expected a finite number"),
        ("validation_share", 1, "expected less than 1"),
        ("label_smoothing", 1, "expected less than 1"),
        ("max_unreadable_share", -0.1, "expected greater than or equal to 0"),
        ("max_failures", -2, "expected greater than or equal to -1"),
        ("seed", 2**32, "expected less than 4294967296"),
        ("use_gpu", "perhaps", "expected 'auto', 'yes' or 'no'"),
        ("precision", "fp64", "expected 'auto', 'fp32', 'bf16' or 'fp16'"),
        ("schedule", "linear", "expected 'constant' or 'cosine'"),
        ("poses", 3, "expected a valid string"),
        ("sources", [1, 2], "--sources=[1, 2] (where the photos are"),
        ("sources", ["a", "b", "a"], "a is listed twice"),
        ("source_buckets", ["checkins"], "'checkins' is no pair of the form name=bucket"),
        ("source_buckets", ["checkins="], "'checkins=' is no pair of the form name=bucket"),
        ("source_buckets", ["a=b", "a=c"], "a is given twice"),
        ("group_pattern", "athlete(", "--group-pattern='athlete(' (regular expression on the key"),
        ("group_pattern", "athlete(", "not a regular expression: missing )"),
        ("run_name", "../other", "letters, digits, '.', '_' and '-' only, at most 100"),
        ("run_name", ".hidden", "letters, digits"),
        ("run_name", "", "letters, digits"),
        ("run_name", "x" * 101, "at most 100"),
    ],
)
def test_a_wrong_flag_is_named_with_its_value_and_the_expected_one(
    key: str, value: Any, message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        settings_of({key: value})

    sentence = str(caught.value)
    assert sentence.startswith(f"--{key.replace('_', '-')}={value!r} (")
    assert message in sentence


def test_a_wrong_environment_variable_is_named_with_its_prefix() -> None:
    with pytest.raises(SettingError, match=r"^PHYSIQ_BATCH_SIZE='0' \(photos per step"):
        settings_of(environment={"PHYSIQ_BATCH_SIZE": "0"})


def test_a_wrong_key_of_the_file_is_named_with_the_file(toml: Path) -> None:
    toml.write_text('epochs = "many"\n')

    with pytest.raises(
        SettingError, match=r"physiq\.toml: epochs='many' \(maximum number of epochs\): expected"
    ):
        settings_of(file=toml)


def test_true_in_a_file_is_not_a_number(toml: Path) -> None:
    toml.write_text("epochs = true\n")

    with pytest.raises(SettingError, match="epochs=True"):
        settings_of(file=toml)


def test_all_wrong_values_are_named_together_and_each_only_once() -> None:
    with pytest.raises(SettingError) as caught:
        settings_of({"sources": [1, 2], "run_name": "a b"}, environment={"PHYSIQ_EPOCHS": "-1"})

    assert str(caught.value) == (
        "--sources=[1, 2] (where the photos are: s3://bucket[/prefix] or a folder; several are allowed): "
        "expected a valid string; "
        "PHYSIQ_EPOCHS='-1' (maximum number of epochs): expected greater than or equal to 1; "
        "--run-name='a b' (name of the run; needed to resume it): "
        "letters, digits, '.', '_' and '-' only, at most 100"
    )


def test_a_value_that_a_later_layer_replaces_is_not_checked() -> None:
    assert settings_of({"epochs": 3}, environment={"PHYSIQ_EPOCHS": "many"}).epochs == 3


def test_an_unknown_key_of_the_file_is_named_with_a_similar_setting(toml: Path) -> None:
    toml.write_text("learning_rte = 0.1\n")

    with pytest.raises(
        SettingError, match=r"physiq\.toml: learning_rte: no such setting; did you mean learning_rate\?$"
    ):
        settings_of(file=toml)


def test_an_unknown_key_without_a_similar_setting_is_named_alone(toml: Path) -> None:
    toml.write_text("[xyz]\nepochs = 3\n")

    with pytest.raises(SettingError, match=r"physiq\.toml: xyz: no such setting$"):
        settings_of(file=toml)


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"^PHYSIQ_EPOCH=3: no such setting; did you mean PHYSIQ_EPOCHS\?$"
    ):
        settings_of(environment={"PHYSIQ_EPOCH": "3"})


def test_a_variable_of_another_program_is_ignored() -> None:
    environment = {"PHYSIQ_HOMEPAGE": "example.org", "PHYSIQ_": "", "PHYSIQUE_EPOCHS": "3", "EPOCHS": "3"}

    assert settings_of(environment=environment) == settings_of()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(SettingError, match=r"^--config missing\.toml: cannot be read \(No such file"):
        settings_of(file=Path("missing.toml"))


def test_a_folder_instead_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot be read \(Is a directory\); give the path"):
        settings_of(file=tmp_path)


@pytest.mark.parametrize("content", [b"epochs: 3\n", b"\xff\xfe\x00", b'epochs = "3\n', b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(toml: Path, content: bytes) -> None:
    toml.write_bytes(content)

    with pytest.raises(SettingError, match=r"^--config .*physiq\.toml: not TOML: "):
        settings_of(file=toml)


def test_kinds_has_the_settings_of_every_class() -> None:
    classes = [value for value in vars(config).values() if isinstance(value, type)]
    names = {name for kind in classes if issubclass(kind, BaseSettings) for name in kind.model_fields}
    assert names == {name for kind in KINDS for name in kind.model_fields}
