"""Every error that physiq_ray raises on purpose.

    PhysiqError
    ├── SettingError       a setting is wrong, or two exclude each other
    ├── LabelError         poses, labels or class mapping cannot be used as they are
    ├── StorageError       a bucket, folder or object
    │   ├── NotFoundError      it is not there
    │   ├── ChangedError       it is not what was listed any more
    │   ├── DeniedError        credentials missing, wrong, or without the right
    │   └── UnreachableError   no answer: endpoint, network, throttling
    ├── DataError          what was found cannot be trained on
    ├── PhotoError         one photo cannot be fetched or decoded
    │   ├── FormatError        it is no image, or of a format that is not read
    │   └── TooLargeError      it has more bytes or pixels than are read
    ├── WeightsError       the starting weights cannot be had or do not fit
    ├── CheckpointError    a model file is unknown, damaged or unsafe
    ├── ClusterError       no Ray cluster answers, or Ray does not start here
    ├── TrainingError      a training run cannot start or go on
    ├── PredictionError    a batch of predictions cannot start or go on
    ├── ServingError       the HTTP service cannot start
    └── CleanseError       a plan or journal of deletions cannot be read, written or followed

Each takes one finished sentence. They carry nothing else, so that they survive pickling between
Ray processes; what was attempted, on what, what came and what to do stand in the sentence. A name from
outside, such as a key or a label's, stands in it as `quoted` or `shown` gives it.
"""

import unicodedata


class PhysiqError(Exception):
    """The base: catch this at a process's edge, print it in one line."""


class SettingError(PhysiqError):
    """A setting is wrong: key, value and what was expected."""


class LabelError(PhysiqError):
    """Poses, labels or the class mapping cannot be read or contradict themselves."""


class StorageError(PhysiqError):
    """A bucket, folder or object could not be listed, read or written."""


class NotFoundError(StorageError):
    """The bucket, folder or object does not exist."""


class ChangedError(StorageError):
    """An object or file is another version than the one that was listed."""


class DeniedError(StorageError):
    """The credentials are missing, wrong, or lack the right."""


class UnreachableError(StorageError):
    """No usable answer came: endpoint, network, throttling or server fault."""


class DataError(PhysiqError):
    """The photos and labels found cannot be trained on."""


class PhotoError(PhysiqError):
    """One photo cannot be decoded: empty, truncated, not an image, or too large."""


class FormatError(PhotoError):
    """The bytes are no image, or one of a format that is not read."""


class TooLargeError(PhotoError):
    """The photo has more bytes or pixels than are read."""


class WeightsError(PhysiqError):
    """Starting weights cannot be downloaded, read, or do not fit a ResNet50."""


class CheckpointError(PhysiqError):
    """A model file is unknown, damaged, or holds more than tensors and plain values."""


class ClusterError(PhysiqError):
    """No Ray cluster answers at RAY_ADDRESS, or Ray does not start on this machine."""


class TrainingError(PhysiqError):
    """A training run cannot start, or stopped before its end."""


class PredictionError(PhysiqError):
    """Predictions of many photos cannot be made, or those made before cannot be read."""


class ServingError(PhysiqError):
    """The HTTP service cannot start: port, model, tokens, or the cluster's size."""


class CleanseError(PhysiqError):
    """A plan or journal of deletions cannot be read or written, or must not be followed."""


def quoted(name: str) -> str:
    """Write a name for a message, in quotes and with all that cannot be seen escaped.

    An accent in a code point of its own is escaped too: nobody sees that it is not part of its letter.
    """
    text = repr(name)
    if text.isascii():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char).startswith("M") else char
        for char in text
    )


def shown(uri: str) -> str:
    """Write an address for a message: bare where every letter can be seen, else as `quoted` does."""
    text = quoted(uri)
    return uri if uri and text == f"'{uri}'" and " " not in uri else text
