"""Values that a light module, such as the parser of a command, shares with one that is slow to import."""

from typing import Final, Literal, get_args

OUTAGE_RUN: Final = 64  # photos in a row that cannot be fetched, 45 s each, before a command gives up
MAX_PIXELS: Final = 89_478_485  # Pillow's limit against decompression bombs: a quarter of a GiB in RGB

BASE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
ExtraFormat = Literal["avif", "heic"]  # as a setting of the service spells them
FORMATS: Final = (*BASE_FORMATS, *(name.upper() for name in get_args(ExtraFormat)))

EXPORT_SUFFIXES: Final = {"onnx": ".onnx", "safetensors": ".safetensors", "torch-export": ".pt2"}

WEIGHTS_WORDS: Final = ("imagenet", "random")  # of the setting weights; any other value is an address
COMPLETE_FILE: Final = "pose_classifier_complete.pth"

TRAIN, VALIDATION, TEST = "train", "validation", "test"
SPLITS: Final = (TRAIN, VALIDATION, TEST)  # if the labels of one group disagree, the later split wins
ALL: Final = "all"
SCORED_SPLITS: Final = (VALIDATION, TRAIN, TEST, ALL)  # the choices of an evaluation

# In the folder of the setting feedback: photos that wait for a label, and the right poses from users.
WAITING_FOLDER, CORRECTIONS_FOLDER = "waiting-for-label", "labels"
