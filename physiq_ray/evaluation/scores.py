"""Score the answers of a model: by pose, on average, and the mistakes with the highest confidence."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from physiq_ray.errors import DataError
from physiq_ray.evaluation.calibration import calibration_error
from physiq_ray.evaluation.floor_scores import FloorScores
from physiq_ray.evaluation.intervals import (
    BoolArray,
    FloatArray,
    IntArray,
    Interval,
    f1_interval,
    jackknife_interval,
    number_groups,
    share_interval,
)
from physiq_ray.floor import Floor
from physiq_ray.labels import ClassMapping
from physiq_ray.prediction.answer import to_probabilities
from physiq_ray.quarantine import Unreadable

NUM_MISTAKES = 12


@dataclass(frozen=True)
class Answers:
    """The outputs of a model for labelled photos.

    labels: int64 (N,), class indices; logits: float32 (N, classes). groups: the group of each photo, such as
    its athlete, which widens the intervals; empty if each photo is a group of its own.
    """

    uris: tuple[str, ...]
    labels: Tensor
    logits: Tensor
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class NullAnswers:
    """The results for photos that a person labelled as no known pose; is_refused: bool (N,)."""

    uris: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    is_refused: BoolArray = field(default_factory=lambda: np.zeros(0, bool))


@dataclass(frozen=True)
class Evaluation:
    """The answers of a model, and the photos without an answer.

    num_unknown: pose id → number of photos, for poses that the model does not know. nulls: photos of no known
    pose. floor: the scores of the model's floor, None without one. brightness: uri → mean brightness of the
    photo, 0 … 1; empty if it was not measured.
    """

    answers: Answers
    unreadable: tuple[Unreadable, ...]
    num_unknown: Mapping[int, int]
    nulls: NullAnswers = field(default_factory=NullAnswers)
    floor: FloorScores | None = None
    brightness: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class PoseScore:
    """The scores of one pose, 0 … 1.

    count: the number of its photos. predicted: the number of photos for which it was predicted. The intervals
    are 0 … 1 where there is no such photo.
    """

    pose_id: int
    name: str
    precision: float
    recall: float
    f1: float
    count: int
    predicted: int
    precision_interval: Interval
    recall_interval: Interval
    f1_interval: Interval


@dataclass(frozen=True)
class Mistake:
    """A wrongly predicted photo.

    truth, answer: the names of the true and of the predicted pose. confidence: 0 … 1, with the temperature.
    answer_id: the pose id of the answer.
    """

    uri: str
    truth: str
    answer: str
    confidence: float
    answer_id: int


@dataclass(frozen=True)
class Report:
    """The scores of a model on some photos, with 95 % intervals that respect groups.

    precision, recall and f1 are means over the poses that have photos here; the precision of a pose that was
    never predicted counts as 0. confusion: int64 (classes, classes), rows are true poses, columns are
    predicted poses. error_before, error_after: expected calibration errors without and with the temperature.
    mistakes: sorted by confidence, the highest first. None of these depends on the model's floor.
    floor_scores: how the floor works on the same photos, None if it was not applied to them.
    """

    num_photos: int
    num_groups: int
    accuracy: float
    accuracy_interval: Interval
    top2_accuracy: float
    precision: float
    recall: float
    f1: float
    f1_interval: Interval
    loss: float
    temperature: float
    error_before: float
    error_after: float
    poses: tuple[PoseScore, ...]
    confusion: npt.NDArray[np.int64]
    mistakes: tuple[Mistake, ...]
    floor: Floor | None = None
    floor_scores: FloorScores | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give plain values for report.json."""
        return {
            "num_photos": self.num_photos,
            "num_groups": self.num_groups,
            "accuracy": self.accuracy,
            "accuracy_interval": self.accuracy_interval,
            "top2_accuracy": self.top2_accuracy,
            "loss": self.loss,
            "macro": {
                "precision": self.precision,
                "recall": self.recall,
                "f1": self.f1,
                "f1_interval": self.f1_interval,
            },
            "calibration": {
                "temperature": self.temperature,
                "error_before": self.error_before,
                "error_after": self.error_after,
            },
            "floor": self._floor_to_dict(),
            "poses": [asdict(pose) for pose in self.poses],
            "confusion": self.confusion.tolist(),
            "mistakes": [asdict(mistake) for mistake in self.mistakes],
        }

    def _floor_to_dict(self) -> dict[str, Any] | None:
        if self.floor is None:
            return None
        return {
            "score": self.floor.score,
            "threshold": self.floor.threshold,
            "choice": asdict(self.floor.choice) if self.floor.choice is not None else None,
            "scores": asdict(self.floor_scores) if self.floor_scores is not None else None,
        }


def score(
    answers: Answers,
    class_mapping: ClassMapping,
    pose_names: Mapping[int, str],
    *,
    temperature: float,
    floor: Floor | None = None,
    floor_scores: FloorScores | None = None,
) -> Report:
    """Compare the answers with the labels; pose_names: pose id → name.

    Raises DataError: there are no answers.
    """
    # This import takes a second, which a replica that scores nothing and a wrong command need not spend.
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_confusion_matrix,
        multiclass_f1_score,
        multiclass_precision,
        multiclass_recall,
    )

    labels, logits = answers.labels, answers.logits
    if not len(labels):
        raise DataError("nothing to evaluate: none of the photos could be read")
    num_classes = logits.shape[1]
    predicted = logits.argmax(dim=1)
    confusion = multiclass_confusion_matrix(predicted, labels, num_classes).numpy()
    precision, recall, f1 = (
        measure(predicted, labels, num_classes, average="none").tolist()
        for measure in (multiclass_precision, multiclass_recall, multiclass_f1_score)
    )
    names = [pose_names[pose_id] for pose_id in class_mapping.pose_ids]
    groups = number_groups(answers.groups) if answers.groups else np.arange(len(labels))
    truth, answer = labels.numpy(), predicted.numpy()
    is_right = truth == answer
    poses = tuple(
        PoseScore(
            pose_id=pose_id,
            name=names[index],
            precision=precision[index],
            recall=recall[index],
            f1=f1[index],
            count=int(confusion[index].sum()),
            predicted=int(confusion[:, index].sum()),
            precision_interval=share_interval(is_right, groups, answer == index),
            recall_interval=share_interval(is_right, groups, truth == index),
            f1_interval=f1_interval(is_right, groups, (truth == index) | (answer == index)),
        )
        for index, pose_id in enumerate(class_mapping.pose_ids)
    )
    present = [pose for pose in poses if pose.count]
    top2 = multiclass_accuracy(logits, labels, num_classes, average="micro", top_k=min(2, num_classes))
    return Report(
        num_photos=len(labels),
        num_groups=int(groups.max()) + 1,
        accuracy=float(is_right.mean()),
        accuracy_interval=share_interval(is_right, groups),
        top2_accuracy=float(top2),
        precision=float(np.mean([pose.precision for pose in present])),
        recall=float(np.mean([pose.recall for pose in present])),
        f1=float(np.mean([pose.f1 for pose in present])),
        f1_interval=_macro_f1_interval(truth, answer, groups, num_classes),
        loss=float(functional.cross_entropy(logits.double() / temperature, labels)),
        temperature=temperature,
        error_before=calibration_error(logits, labels, 1.0),
        error_after=calibration_error(logits, labels, temperature),
        poses=poses,
        confusion=confusion,
        mistakes=_worst(answers, class_mapping, names, temperature),
        floor=floor,
        floor_scores=floor_scores,
    )


def _macro_f1_interval(truth: IntArray, answer: IntArray, groups: IntArray, num_classes: int) -> Interval:
    counts = np.zeros((int(groups.max()) + 1, 3, num_classes), np.int64)
    is_right = truth == answer
    np.add.at(counts[:, 0], (groups[is_right], truth[is_right]), 1)
    np.add.at(counts[:, 1], (groups, truth), 1)
    np.add.at(counts[:, 2], (groups, answer), 1)

    def macro_f1(cells: IntArray) -> FloatArray:
        right, true, predicted = np.moveaxis(cells.reshape(-1, 3, num_classes), 1, 0)
        is_there = true > 0
        f1 = 2 * right / np.maximum(true + predicted, 1)
        mean: FloatArray = (f1 * is_there).sum(axis=1) / np.maximum(is_there.sum(axis=1), 1)
        return mean

    return jackknife_interval(macro_f1, counts.reshape(len(counts), -1))


def _worst(
    answers: Answers, class_mapping: ClassMapping, names: list[str], temperature: float
) -> tuple[Mistake, ...]:
    confidence, classes = to_probabilities(answers.logits, temperature).max(dim=1)
    wrong = torch.nonzero(classes != answers.labels)[:, 0]
    order = wrong[torch.argsort(confidence[wrong], descending=True, stable=True)][:NUM_MISTAKES]
    return tuple(
        Mistake(
            answers.uris[row],
            names[int(answers.labels[row])],
            names[int(classes[row])],
            float(confidence[row]),
            class_mapping.pose_ids[int(classes[row])],
        )
        for row in order.tolist()
    )
