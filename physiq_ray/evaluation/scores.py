"""What a model's answers are worth: per pose, on average, and where it was most surely wrong."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.functional.classification import (
    multiclass_accuracy,
    multiclass_confusion_matrix,
    multiclass_f1_score,
    multiclass_precision,
    multiclass_recall,
)

from physiq_ray.errors import DataError
from physiq_ray.evaluation.calibration import calibration_error
from physiq_ray.labels import ClassMapping
from physiq_ray.prediction.answer import to_probabilities
from physiq_ray.quarantine import Unreadable

NUM_MISTAKES = 12


@dataclass(frozen=True)
class Answers:
    """What a model said of labelled photos.

    labels: int64 (N,), class indices; logits: float32 (N, classes).
    """

    uris: tuple[str, ...]
    labels: Tensor
    logits: Tensor


@dataclass(frozen=True)
class Evaluation:
    """A model's answers, and the photos without one; num_unknown: photos by pose id that it does not know."""

    answers: Answers
    unreadable: tuple[Unreadable, ...]
    num_unknown: Mapping[int, int]


@dataclass(frozen=True)
class PoseScore:
    """One pose's scores, 0 … 1; count: its photos; predicted: photos that were predicted to show it."""

    pose_id: int
    name: str
    precision: float
    recall: float
    f1: float
    count: int
    predicted: int


@dataclass(frozen=True)
class Mistake:
    """A photo that was predicted wrongly, by names of poses; confidence 0 … 1, after the temperature."""

    uri: str
    truth: str
    answer: str
    confidence: float


@dataclass(frozen=True)
class Report:
    """A model's scores on some photos.

    precision, recall and f1 are means over the poses that have photos here; the precision of a pose
    that was never predicted counts as 0. confusion: int64 (classes, classes), rows are true, columns
    predicted. errors are expected calibration errors. mistakes: those of the highest confidence first.
    """

    num_photos: int
    accuracy: float
    top2_accuracy: float
    precision: float
    recall: float
    f1: float
    loss: float
    temperature: float
    error_before: float
    error_after: float
    poses: tuple[PoseScore, ...]
    confusion: npt.NDArray[np.int64]
    mistakes: tuple[Mistake, ...]

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for report.json."""
        return {
            "num_photos": self.num_photos,
            "accuracy": self.accuracy,
            "top2_accuracy": self.top2_accuracy,
            "loss": self.loss,
            "macro": {"precision": self.precision, "recall": self.recall, "f1": self.f1},
            "calibration": {
                "temperature": self.temperature,
                "error_before": self.error_before,
                "error_after": self.error_after,
            },
            "poses": [asdict(pose) for pose in self.poses],
            "confusion": self.confusion.tolist(),
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
        }


def score(
    answers: Answers, class_mapping: ClassMapping, pose_names: Mapping[int, str], *, temperature: float
) -> Report:
    """Compare answers with labels; pose_names: pose id → name.

    Raises DataError: there are none.
    """
    labels, logits = answers.labels, answers.logits
    if not len(labels):
        raise DataError("nothing to evaluate: none of the photos could be read")
    num_classes = logits.shape[1]
    told = logits.argmax(dim=1)
    confusion = multiclass_confusion_matrix(told, labels, num_classes).numpy()
    precision, recall, f1 = (
        measure(told, labels, num_classes, average="none").tolist()
        for measure in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    )
    names = [pose_names[pose_id] for pose_id in class_mapping.pose_ids]
    poses = tuple(
        PoseScore(
            pose_id=pose_id,
            name=names[index],
            precision=precision[index],
            recall=recall[index],
            f1=f1[index],
            count=int(confusion[index].sum()),
            predicted=int(confusion[:, index].sum()),
        )
        for index, pose_id in enumerate(class_mapping.pose_ids)
    )
    present = [pose for pose in poses if pose.count]
    top2 = multiclass_accuracy(logits, labels, num_classes, average="micro", top_k=min(2, num_classes))
    return Report(
        num_photos=len(labels),
        accuracy=float((told == labels).double().mean()),
        top2_accuracy=float(top2),
        precision=float(np.mean([pose.precision for pose in present])),
        recall=float(np.mean([pose.recall for pose in present])),
        f1=float(np.mean([pose.f1 for pose in present])),
        loss=float(functional.cross_entropy(logits.double() / temperature, labels)),
        temperature=temperature,
        error_before=calibration_error(logits, labels, 1.0),
        error_after=calibration_error(logits, labels, temperature),
        poses=poses,
        confusion=confusion,
        mistakes=_worst(answers, names, temperature),
    )


def _worst(answers: Answers, names: list[str], temperature: float) -> tuple[Mistake, ...]:
    confidence, told = to_probabilities(answers.logits, temperature).max(dim=1)
    wrong = torch.nonzero(told != answers.labels)[:, 0]
    order = wrong[torch.argsort(confidence[wrong], descending=True, stable=True)][:NUM_MISTAKES]
    return tuple(
        Mistake(
            answers.uris[row], names[int(answers.labels[row])], names[int(told[row])], float(confidence[row])
        )
        for row in order.tolist()
    )
