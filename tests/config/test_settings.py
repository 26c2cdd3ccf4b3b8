import typing
from typing import Any

import pytest
from setting_forms import choices_of

from physiq_ray.config import CleanseSettings, Settings, SyncSettings, load_settings
from physiq_ray.config.settings import LABEL_FIELDS
from physiq_ray.errors import SettingError
from physiq_ray.labels import LABEL_SCHEMA


def test_the_defaults_are_the_documented_ones() -> None:
    assert load_settings({}, environment={}).model_dump() == {
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
        "test_share": 0.0,
        "group_pattern": None,
        "group_field": None,
        "group_near_duplicates": "no",
        "seed": 42,
        "num_workers": 1,
        "min_workers": None,
        "use_gpu": "auto",
        "placement": "auto",
        "decode_resource": None,
        "wait_for_nodes_s": 0.0,
        "precision": "auto",
        "reproducible": "no",
        "target_precision": 0.95,
        "compile": "no",
        "cache": "auto",
        "cache_dir": None,
        "cache_limit_gib": 100.0,
        "max_unreadable_share": 0.05,
        "max_failures": 3,
        "stall_timeout_s": 300.0,
        "run_name": None,
        "max_hours": None,
        "limit": None,
        "storage": "runs",
        "mlflow": None,
    }


def test_a_run_with_the_old_name_of_its_cache_can_resume() -> None:
    assert load_settings({"cache": "object_store"}, environment={}).cache == "memory"


def test_an_mlflow_address_with_a_password_is_refused() -> None:
    with pytest.raises(SettingError, match=r"mlflow.*MLFLOW_TRACKING_USERNAME"):
        load_settings({"mlflow": "http://coach:secret@tracking:5000"}, environment={})


def test_augment_offers_the_strengths_of_augmentation() -> None:
    from physiq_ray.training.augment import STRENGTHS

    assert choices_of(Settings, "augment") == {"none", *STRENGTHS}


def test_cache_offers_the_kinds_of_photo_storage() -> None:
    from physiq_ray.ingest.choose import Kind

    assert choices_of(Settings, "cache") == {"auto", "gpu", *typing.get_args(Kind)}


def test_label_fields_are_the_columns_of_the_label_table() -> None:
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
def test_two_settings_that_exclude_each_other_are_both_named(values: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError) as caught:
        load_settings(values, environment={})
    assert str(caught.value) == message


def test_a_training_size_out_of_range_is_named() -> None:
    with pytest.raises(SettingError, match=r"--train-sizes='32,224'.*: 32 px; sizes go from 64 to 1024"):
        load_settings({"train_sizes": "32,224"}, environment={})


@pytest.mark.parametrize("kind", [Settings, SyncSettings])
def test_validation_and_test_must_leave_photos_to_train_on(kind):
    with pytest.raises(SettingError) as caught:
        load_settings({"validation_share": 0.5, "test_share": 0.5}, environment={}, kind=kind)
    assert "validation_share=0.5, test_share=0.5: together they must be less than 1" in str(caught.value)


@pytest.mark.parametrize("kind", [Settings, SyncSettings, CleanseSettings])
def test_requester_pays_and_anonymous_exclude_each_other(kind):
    with pytest.raises(SettingError) as caught:
        load_settings({"anonymous": "yes", "requester_pays": "yes"}, environment={}, kind=kind)
    assert str(caught.value) == (
        "requester_pays=yes, anonymous=yes: S3 refuses requests that nobody signs and pays for"
    )
