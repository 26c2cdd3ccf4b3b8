"""Three poses, the history and the facts of a training, for reports and model cards."""

from physiq_ray.evaluation import Facts
from physiq_ray.evaluation.card import ScoredPhotos, TrainingPhotos
from physiq_ray.labels import ClassMapping

MAPPING = ClassMapping.of_poses([1, 2, 7])
NAMES = {1: "Front Lat Spread", 2: "Front Double Biceps", 7: "Back Lat Spread"}
HISTORY = [
    {
        "epoch": number,
        "train_loss": 2 / number,
        "validation_loss": 2.5 / number,
        "train_accuracy": 1 - 0.5 / number,
        "validation_accuracy": 0.9 - 0.5 / number,
    }
    for number in range(1, 6)
]
FACTS = Facts(
    run_name="first",
    image_size=224,
    settings={
        **{"sources": ["s3://checkins"], "manifest": None, "image_size": 224, "learning_rate": 1e-4},
        **{"storage": "runs", "train_sizes": [128, 224], "group_pattern": None},
    },
    versions={"torch": "2.15.0"},
    best_epoch=4,
    num_epochs=5,
    trained=TrainingPhotos({1: (40, 30), 2: (38, 30), 7: (11, 3)}, num_skipped=4, num_quarantined=1),
    scored=ScoredPhotos(num_trained_on=0, num_validated_with=63),
)
