"""Settings are written as TOML that gives the same settings when it is read again."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from physiq_ray.config import LocalServingSettings, Settings, find_origins, load_settings, write_toml

FLAGS = {
    "sources": ["s3://checkin-poses", 'C:\\photos "new"', "Übung\n\x7f"],
    "source_buckets": ["checkins=checkin-poses", "my gym=s3.b"],
    "learning_rate": "1e-05",
    "epochs": "7",
    "train_sizes": ["112", "224"],
    "group_pattern": r"^(\d+)\\x-\"",
}


def test_the_written_settings_can_be_read_and_are_the_same(tmp_path: Path) -> None:
    first = tmp_path / "first.toml"
    first.write_text('patience = 3\nbatch_size = 16\nrun_name = "spring"\n')
    environment = {"PHYSIQ_BATCH_SIZE": "8", "PHYSIQ_TARGET_PRECISION": "0.9"}
    settings = load_settings(FLAGS, file=first, environment=environment)
    text = write_toml(settings, find_origins(FLAGS, file=first, environment=environment))
    second = tmp_path / "second.toml"
    second.write_text(text, encoding="utf-8")
    again = load_settings({}, file=second, environment={})
    assert again == settings
    assert again.model_fields_set == settings.model_fields_set
    assert f"\nepochs = 7  # --epochs\npatience = 3  # {first}: patience\n" in text
    assert "\nbatch_size = 8  # PHYSIQ_BATCH_SIZE\nlearning_rate = 1e-05  # --learning-rate\n" in text
    assert '\n# schedule = "constant"  # default\n' in text
    assert "\n# max_gradient_norm is not given\n" in text


@pytest.mark.slow
@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip()))
def test_any_text_is_read_as_it_was_written(value: str) -> None:
    settings = Settings(output=value)
    file = Path("settings.toml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "read_text", lambda *_, **__: write_toml(settings, {"output": "--output"}))
        assert load_settings({}, file=file, environment={}) == settings


def test_the_settings_of_the_service_are_written_too() -> None:
    settings = LocalServingSettings(port=8080)
    text = write_toml(settings, {"port": "--port"})
    assert text.startswith("# Settings in force")
    assert [line for line in text.splitlines() if line and not line.startswith("#")] == [
        "port = 8080  # --port"
    ]
