"""Train a model."""

from physiq_ray.api.display import Progress, make_display
from physiq_ray.config import Settings
from physiq_ray.storage import PhotoSource
from physiq_ray.training import run
from physiq_ray.training.finish import TrainingResult


def train(
    settings: Settings, *, resume: bool = False, source: PhotoSource | None = None, progress: Progress = True
) -> TrainingResult:
    """Train a model, and write its files and its report to `settings.output`.

    With num_workers=0, the training runs in this process, where a debugger can stop it. resume: continue the
    run that `settings.run_name` names. source: photos of your own, in place of `settings.sources`.
    Raises PhysiqError of the kind that says what is wrong, as `physiq_ray.training.run.train` does.
    """
    return run.train(settings, make_display(progress), resume=resume, source=source)
