"""The Serve application, and the configuration with which it is deployed."""

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from ray.serve.schema import ServeDeploySchema

from physiq_ray.config import LiveSettings, ServingSettings
from physiq_ray.errors import ServingError
from physiq_ray.serving import app
from physiq_ray.serving.app import build_app

ROOT = Path(__file__).parents[2]


def test_serve_knows_every_key_of_the_shipped_configuration() -> None:
    # Serve ignores an unknown key without a message.
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    schema = ServeDeploySchema.model_validate(config)

    assert unknown_keys(config, schema) == []
    (application,) = config["applications"]
    assert set(application["args"]) <= set(ServingSettings.model_fields)
    assert set(application["deployments"][0]["user_config"]) <= set(LiveSettings.model_fields)
    ServingSettings.model_validate(application["args"])


def test_the_import_path_of_the_shipped_configuration_is_build_app() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    module, _, name = config["applications"][0]["import_path"].partition(":")

    assert getattr(importlib.import_module(module), name) is build_app


def test_misspelt_keys_of_a_configuration_are_found() -> None:
    config = yaml.safe_load((ROOT / "serve_config.yaml").read_text(encoding="utf-8"))
    config["http_options"]["keep_alive_timout_s"] = 5
    config["applications"][0]["deployments"][0]["max_ongoing_request"] = 5
    schema = ServeDeploySchema.model_validate(config)
    assert unknown_keys(config, schema) == ["keep_alive_timout_s", "max_ongoing_request"]


def test_heic_is_refused_before_the_start_if_it_is_allowed_and_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app, "why_no_heic", lambda: "not read here; pip install 'physiq-ray[heic]'")

    with pytest.raises(ServingError, match=r"^extra_formats=heic: HEIC is not read here; pip install"):
        app.build_app(ServingSettings(extra_formats="heic"))


def unknown_keys(config: Any, parsed: Any) -> list[str]:
    """List the keys of a configuration for which its parsed form has no field."""
    if isinstance(parsed, BaseModel):
        here = [key for key in config if key not in type(parsed).model_fields]
        return here + [
            key
            for name in type(parsed).model_fields
            if name in config
            for key in unknown_keys(config[name], getattr(parsed, name))
        ]
    if isinstance(parsed, list):
        return [key for item, part in zip(config, parsed, strict=True) for key in unknown_keys(item, part)]
    return []
