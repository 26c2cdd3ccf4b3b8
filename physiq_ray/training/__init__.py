"""Ray Train: fine-tune a ResNet50 data-parallel, stop early, resume, and write the model files.

plan       decisions as functions of values: who takes which photo, when to stop
augment    random changes of a batch on the training device
progress   events from the workers, shown on the driver
loop       what each worker runs
run        a whole run from the driver's side
"""

from physiq_ray.training.progress import Display
from physiq_ray.training.record import load_saved_settings
from physiq_ray.training.run import InterruptedRunError, TrainingResult, train

__all__ = [
    "Display",
    "InterruptedRunError",
    "TrainingResult",
    "load_saved_settings",
    "train",
]
