from physiq_ray.cli import demo as demo_command
from physiq_ray.config import Settings


def test_the_fixed_values_of_the_demo_are_settings():
    assert set(demo_command.FIXED) < set(Settings.model_fields)


def test_demo_needs_photos_and_labels_together(run_here, tmp_path):
    done = run_here("demo", "--photos", tmp_path)
    assert done.returncode == 2
    assert "--photos and --labels go together" in done.stderr
