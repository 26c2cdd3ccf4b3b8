"""Photos → the poses that they show: for one photo at a time, or for millions with Ray Data.

answer      how logits become probabilities, and the one shape of an answer
single      the bytes of a photo → a Prediction; which photos an address names
explanation where the network looked in a photo, and how that is painted
features    the network's last features of some photos, in this process; it imports Ray, so this module does
            not import it
figure      a Prediction next to its photo, as a PNG
network     the forward pass that all of them share
openvino    the same forward pass in OpenVINO
batch       the photos at addresses → Parquet files, with Ray Data; it imports Ray, so this module does not
            import it
drafts      photos that no label names → drafts of labels; it imports Ray, so this module does not import it
parts       the Parquet files of the answers: how they are written, and which photos have an answer
unreadable  the files of the photos without an answer
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
