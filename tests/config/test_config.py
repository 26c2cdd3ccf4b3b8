import pickle
import typing
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from physiq_ray import config, images
from physiq_ray.config import (
    BaseSettings,
    Group,
    LocalServingSettings,
    Settings,
    describe_form,
    load_settings,
)
from physiq_ray.config.load import KINDS
from physiq_ray.config.settings import LABEL_FIELDS
from physiq_ray.constants import MAX_PIXELS
from physiq_ray.errors import SettingError
from physiq_ray.images import BASE_FORMATS, FORMATS
from physiq_ray.labels import LABEL_SCHEMA


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


def test_the_defaults_are_the_documented_ones() -> None:
    assert settings_of().model_dump() == {
        "sources": (),
        "source_buckets": {},
        "manifest": None,
        "poses": "mappings/poses.json",
        "labels": ("mappings/db_labels.json",),
        "label_fields": {},
        "requester_pays": "no",
        "anonymous": "no",
        "output": "output",
        "weights": "imagenet",
        "image_size": 224,
        "batch_size": 32,
        "learning_rate": 1e-4,
        "schedule": "constant",
        "warmup_epochs": 1.0,
        "head_epochs": 0,
        "backbone_rate": 1.0,
        "label_smoothing": 0.0,
        "class_weights": "none",
        "augment": "light",
        "mixup": 0.0,
        "train_sizes": (),
        "gradient_accumulation": 1,
        "max_gradient_norm": None,
        "ema_decay": 0.0,
        "batch_norm": "local",
        "epochs": 50,
        "patience": 10,
        "validation_share": 0.2,
        "group_pattern": None,
        "group_field": None,
        "seed": 42,
        "num_workers": 1,
        "min_workers": None,
        "use_gpu": "auto",
        "placement": "auto",
        "decode_resource": None,
        "wait_for_nodes_s": 0.0,
        "precision": "auto",
        "reproducible": "no",
        "compile": "no",
        "cache": "auto",
        "cache_dir": None,
        "cache_limit_gib": 100.0,
        "max_unreadable_share": 0.05,
        "max_failures": 3,
        "stall_timeout_s": 300.0,
        "run_name": None,
        "storage": "runs",
        "mlflow": None,
    }


def test_a_run_that_names_its_cache_as_before_can_go_on() -> None:
    assert settings_of({"cache": "object_store"}).cache == "memory"


def test_file_beats_default_environment_beats_file_and_flag_beats_environment(toml: Path) -> None:
    toml.write_text("batch_size = 2\npatience = 2\nseed = 2\n")

    settings = settings_of(
        {"seed": 4},
        environment={"PHYSIQ_PATIENCE": "3", "PHYSIQ_SEED": "3"},
        file=toml,
        defaults={"epochs": 1, "batch_size": 1, "patience": 1, "seed": 1},
    )

    assert (settings.epochs, settings.batch_size, settings.patience, settings.seed) == (1, 2, 3, 4)


def test_a_flag_that_is_none_was_not_given() -> None:
    assert settings_of({"seed": None}, environment={"PHYSIQ_SEED": "7"}).seed == 7


def test_a_flag_of_zero_was_given() -> None:
    assert settings_of({"seed": 0}, environment={"PHYSIQ_SEED": "7"}).seed == 0


def test_flags_come_as_text_and_become_numbers() -> None:
    settings = settings_of({"epochs": "3", "learning_rate": "1e-3"})

    assert (settings.epochs, settings.learning_rate) == (3, 0.001)


def test_a_password_is_not_kept_with_the_settings() -> None:
    with pytest.raises(SettingError, match=r"mlflow.*MLFLOW_TRACKING_USERNAME"):
        settings_of({"mlflow": "http://coach:secret@tracking:5000"})


def test_lists_and_pairs_come_from_the_environment_separated_by_commas() -> None:
    settings = settings_of(
        environment={
            "PHYSIQ_SOURCES": "s3://checkin-poses, s3://workout-images/2024 ,photos",
            "PHYSIQ_SOURCE_BUCKETS": "checkins=checkin-poses, training = workout-images",
        }
    )

    assert settings.sources == ("s3://checkin-poses", "s3://workout-images/2024", "photos")
    assert settings.source_buckets == {"checkins": "checkin-poses", "training": "workout-images"}


def test_lists_and_pairs_come_from_flags_as_lists_of_words() -> None:
    settings = settings_of({"sources": ["s3://aaa", "s3://bbb"], "source_buckets": ["a=aaa", "b=bbb"]})

    assert settings.sources == ("s3://aaa", "s3://bbb")
    assert settings.source_buckets == {"a": "aaa", "b": "bbb"}


def test_lists_and_pairs_come_from_a_file_in_toml_s_own_form(toml: Path) -> None:
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
def test_a_wrong_flag_is_named_with_its_value_and_what_was_expected(
    key: str, value: Any, message: str
) -> None:
    with pytest.raises(SettingError) as caught:
        settings_of({key: value})

    said = str(caught.value)
    assert said.startswith(f"--{key.replace('_', '-')}={value!r} (")
    assert message in said


def test_a_wrong_variable_is_named_as_the_variable() -> None:
    with pytest.raises(SettingError, match=r"^PHYSIQ_BATCH_SIZE='0' \(photos per step"):
        settings_of(environment={"PHYSIQ_BATCH_SIZE": "0"})


def test_a_wrong_key_of_the_file_is_named_with_the_file(toml: Path) -> None:
    toml.write_text('epochs = "many"\n')

    with pytest.raises(
        SettingError, match=r"physiq\.toml: epochs='many' \(maximum number of epochs\): expected"
    ):
        settings_of(file=toml)


def test_true_in_a_file_is_no_number(toml: Path) -> None:
    toml.write_text("epochs = true\n")

    with pytest.raises(SettingError, match="epochs=True"):
        settings_of(file=toml)


def test_all_wrong_values_are_named_at_once_and_each_only_once() -> None:
    with pytest.raises(SettingError) as caught:
        settings_of({"sources": [1, 2], "run_name": "a b"}, environment={"PHYSIQ_EPOCHS": "-1"})

    assert str(caught.value) == (
        "--sources=[1, 2] (where the photos are: s3://bucket[/prefix] or a folder; several are allowed): "
        "expected a valid string; "
        "PHYSIQ_EPOCHS='-1' (maximum number of epochs): expected greater than or equal to 1; "
        "--run-name='a b' (name of the run; needed to resume it): "
        "letters, digits, '.', '_' and '-' only, at most 100"
    )


def test_a_value_that_a_later_layer_replaces_is_not_looked_at() -> None:
    assert settings_of({"epochs": 3}, environment={"PHYSIQ_EPOCHS": "many"}).epochs == 3


def test_an_unknown_key_of_the_file_is_named_with_the_likely_one(toml: Path) -> None:
    toml.write_text("learning_rte = 0.1\n")

    with pytest.raises(
        SettingError, match=r"physiq\.toml: learning_rte: no such setting; did you mean learning_rate\?$"
    ):
        settings_of(file=toml)


def test_an_unknown_key_like_no_other_is_named_alone(toml: Path) -> None:
    toml.write_text("[xyz]\nepochs = 3\n")

    with pytest.raises(SettingError, match=r"physiq\.toml: xyz: no such setting$"):
        settings_of(file=toml)


def test_a_misspelt_variable_is_refused() -> None:
    with pytest.raises(
        SettingError, match=r"^PHYSIQ_EPOCH=3: no such setting; did you mean PHYSIQ_EPOCHS\?$"
    ):
        settings_of(environment={"PHYSIQ_EPOCH": "3"})


def test_another_s_variable_passes() -> None:
    environment = {"PHYSIQ_HOMEPAGE": "example.org", "PHYSIQ_": "", "PHYSIQUE_EPOCHS": "3", "EPOCHS": "3"}

    assert settings_of(environment=environment) == settings_of()


def test_a_file_that_is_not_there_is_named() -> None:
    with pytest.raises(SettingError, match=r"^--config missing\.toml: cannot be read \(No such file"):
        settings_of(file=Path("missing.toml"))


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"cannot be read \(Is a directory\); give the path"):
        settings_of(file=tmp_path)


@pytest.mark.parametrize("content", [b"epochs: 3\n", b"\xff\xfe\x00", b'epochs = "3\n', b"a = 1\na = 2\n"])
def test_a_file_that_is_not_toml_is_refused(toml: Path, content: bytes) -> None:
    toml.write_bytes(content)

    with pytest.raises(SettingError, match=r"^--config .*physiq\.toml: not TOML: "):
        settings_of(file=toml)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings_of().epochs = 3


def test_settings_survive_pickling() -> None:
    settings = settings_of({"sources": ["s3://aaa"], "source_buckets": {"a": "aaa"}, "run_name": "first"})

    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in kind.model_fields], ids=str
)
def test_every_setting_says_its_effect_in_a_line_and_what_its_values_are(
    kind: type[BaseSettings], name: str
) -> None:
    setting = kind.model_fields[name]
    assert 10 < len(setting.description or "") < 100
    assert describe_form(name, setting)


@pytest.mark.parametrize(
    ("kind", "name", "form"),
    [
        (Settings, "sources", "URI"),
        (Settings, "source_buckets", "SOURCE=BUCKET"),
        (Settings, "validation_share", "SHARE"),
        (Settings, "min_workers", "NUMBER"),
        (Settings, "stall_timeout_s", "SECONDS"),
        (Settings, "cache", "auto|gpu|memory|disk|none"),
        (LocalServingSettings, "extra_formats", "avif|heic"),
        (LocalServingSettings, "max_body_bytes", "BYTES"),
    ],
)
def test_a_setting_says_what_its_values_are(kind: type[BaseSettings], name: str, form: str) -> None:
    assert describe_form(name, kind.model_fields[name]) == form


def test_a_text_without_a_form_is_refused() -> None:
    class Wrong(BaseSettings):
        name: str = Group.RUN.field("", "name of something")

    with pytest.raises(ValueError, match="name: say with form what its values are"):
        describe_form("name", Wrong.model_fields["name"])


def test_a_setting_without_a_group_is_refused() -> None:
    class Wrong(BaseSettings):
        number: int = 3

    with pytest.raises(TypeError, match=r"define the setting with Group"):
        Wrong.names_by_group()


def test_settings_are_shown_in_the_order_of_the_groups_and_each_once() -> None:
    for kind in KINDS:
        groups = kind.names_by_group()
        assert list(groups) == [group for group in Group if group in groups]
        assert sorted(name for names in groups.values() for name in names) == sorted(kind.model_fields)


def test_every_class_of_settings_is_looked_through_for_the_names_of_variables() -> None:
    classes = [value for value in vars(config).values() if isinstance(value, type)]
    names = {name for kind in classes if issubclass(kind, BaseSettings) for name in kind.model_fields}
    assert names == {name for kind in KINDS for name in kind.model_fields}


def choices_of(kind: type[BaseSettings], name: str) -> set[str]:
    return set(describe_form(name, kind.model_fields[name]).split("|"))


def test_the_strengths_of_augmentation_are_those_that_the_setting_offers() -> None:
    from physiq_ray.training.augment import STRENGTHS

    assert choices_of(Settings, "augment") == {"none", *STRENGTHS}


def test_the_places_of_decoded_photos_are_those_that_the_setting_offers() -> None:
    from physiq_ray.ingest.choose import Kind

    assert choices_of(Settings, "cache") == {"auto", "gpu", *typing.get_args(Kind)}


def test_the_extra_formats_are_those_that_are_read_besides_the_usual_ones() -> None:
    extra = {name.upper() for name in choices_of(LocalServingSettings, "extra_formats")}
    assert {*BASE_FORMATS, *extra} == set(FORMATS)


def test_a_photo_may_have_as_many_pixels_as_can_be_decoded_and_no_more() -> None:
    assert MAX_PIXELS == Image.MAX_IMAGE_PIXELS == images.MAX_PIXELS


def test_the_fields_of_a_label_are_those_that_its_table_has() -> None:
    assert {*LABEL_FIELDS, "group"} == set(LABEL_SCHEMA.names)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"train_sizes": "128,160", "image_size": 224},
            "train_sizes=128,160: the last must be image_size=224",
        ),
        ({"min_workers": 4, "num_workers": 2}, "min_workers=4: more than num_workers=2"),
        (
            {"batch_norm": "sync", "compile": "yes"},
            "batch_norm=sync, compile=yes: torch.compile cannot wait for other workers; "
            "leave one at its default",
        ),
        (
            {"head_epochs": 5, "epochs": 5},
            "head_epochs=5: none of epochs=5 is left for the whole network",
        ),
    ],
)
def test_settings_that_do_not_go_together_are_both_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings(values, environment={})
    assert str(caught.value) == message


def test_a_training_size_out_of_range_is_named() -> None:
    with pytest.raises(SettingError, match=r"--train-sizes='32,224'.*: 32 px; sizes go from 64 to 1024"):
        load_settings({"train_sizes": "32,224"}, environment={})
