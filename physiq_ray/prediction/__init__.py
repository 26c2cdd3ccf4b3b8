"""Which pose a photo shows: one photo at once, or millions by Ray Data.

answer      logits → probabilities, and the one shape of an answer
single      photo bytes → Prediction
figure      a Prediction beside its photo, as a PNG
network     the forward pass that all of them share
openvino    the same by OpenVINO, where it is installed
parts       answers ↔ Parquet files
unreadable  photos without an answer, as rows next to them
batch       photos' addresses → Parquet files, by Ray Data; imports Ray, so it is not imported here
"""

from physiq_ray.prediction.answer import PoseProbability
from physiq_ray.prediction.figure import write_figure
from physiq_ray.prediction.single import Prediction, Predictor, find_photos

__all__ = [
    "PoseProbability",
    "Prediction",
    "Predictor",
    "find_photos",
    "write_figure",
]
