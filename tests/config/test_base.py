import pickle

import pytest
from pydantic import ValidationError

from physiq_ray.config import (
    BaseSettings,
    Group,
    LocalServingSettings,
    Settings,
    describe_form,
    load_settings,
)
from physiq_ray.config.load import KINDS


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_settings({}, environment={}).epochs = 3  # type: ignore[misc]  # mypy refuses it, too


def test_settings_survive_pickling() -> None:
    settings = load_settings(
        {"sources": ["s3://aaa"], "source_buckets": {"a": "aaa"}, "run_name": "first"}, environment={}
    )

    assert pickle.loads(pickle.dumps(settings)) == settings


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind in KINDS for name in kind.model_fields], ids=str
)
def test_each_setting_describes_its_effect_in_one_line_and_its_values(
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
def test_describe_form_names_the_values_of_a_setting(kind: type[BaseSettings], name: str, form: str) -> None:
    assert describe_form(name, kind.model_fields[name]) == form


def test_a_text_without_a_form_is_refused() -> None:
    class Wrong(BaseSettings):
        name: str = Group.RUN.field("", "name of something")

    with pytest.raises(ValueError, match="name: say with form what its values are"):
        describe_form("name", Wrong.model_fields["name"])
