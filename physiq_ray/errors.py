"""All errors that physiq_ray raises on purpose.

    PhysiqError
    ├── SettingError       a setting is wrong, or two exclude each other
    ├── LabelError         poses, labels or class mapping cannot be used as they are
    ├── StorageError       a bucket, folder or object cannot be listed, read or written
    │   ├── NotFoundError      it does not exist
    │   ├── ChangedError       it is no longer the version that was listed
    │   ├── DeniedError        the credentials are missing or wrong, or lack the permission
    │   └── UnreachableError   no answer: endpoint, network, throttling
    ├── DataError          the photos and labels found cannot be used for training
    ├── PhotoError         one photo cannot be fetched or decoded
    │   ├── FormatError        it is not an image, or its format is not supported
    │   └── TooLargeError      it has more bytes or pixels than the limit
    ├── WeightsError       the starting weights cannot be downloaded or read, or do not fit
    ├── CheckpointError    a model file is unknown, damaged or unsafe
    ├── ClusterError       no Ray cluster answers, or Ray does not start here
    ├── TrainingError      a training run cannot start or continue
    ├── PredictionError    a batch of predictions cannot start or continue
    ├── ServingError       the HTTP service cannot start
    ├── CleanseError       a plan or journal of deletions cannot be read, written or followed
    └── ReviewError        a journal of labels cannot be read or written, or the page cannot be served

Each error takes one complete sentence: what was attempted, on what, what happened, and what to do. It has no
other fields, so that it survives pickling between Ray processes. A name from outside, such as a key or the
name in a label, is written with `quoted` or `shown`.
"""

import unicodedata


class PhysiqError(Exception):
    """The base class: catch it at the edge of a process, and print it in one line."""


class SettingError(PhysiqError):
    """A setting is wrong; the message has the key, the value and the expected form."""


class LabelError(PhysiqError):
    """Poses, labels or the class mapping cannot be read, or contradict each other."""


class StorageError(PhysiqError):
    """A bucket, folder or object could not be listed, read or written."""


class NotFoundError(StorageError):
    """The bucket, folder or object does not exist."""


class ChangedError(StorageError):
    """An object or file is another version than the one that was listed."""


class DeniedError(StorageError):
    """The credentials are missing or wrong, or lack the permission."""


class UnreachableError(StorageError):
    """There was no usable answer: endpoint, network, throttling or server fault."""


class DataError(PhysiqError):
    """The photos and labels found cannot be used for training."""


class PhotoError(PhysiqError):
    """One photo cannot be decoded: empty, truncated, not an image, or too large."""


class FormatError(PhotoError):
    """The bytes are not an image, or an image in a format that is not supported."""


class TooLargeError(PhotoError):
    """The photo has more bytes or pixels than the limit."""


class WeightsError(PhysiqError):
    """The starting weights cannot be downloaded or read, or do not fit a ResNet50."""


class CheckpointError(PhysiqError):
    """A model file is unknown, damaged, or contains more than tensors and plain values."""


class ClusterError(PhysiqError):
    """No Ray cluster answers at RAY_ADDRESS, or Ray does not start on this machine."""


class TrainingError(PhysiqError):
    """A training run cannot start, or stopped before its end."""


class PredictionError(PhysiqError):
    """Many photos cannot be predicted, or earlier predictions cannot be read."""


class ServingError(PhysiqError):
    """The HTTP service cannot start: port, model, tokens, or the cluster's size."""


class CleanseError(PhysiqError):
    """A plan or journal of deletions cannot be read or written, or must not be followed."""


class ReviewError(PhysiqError):
    """A journal of labels cannot be read or written, or the review's page cannot be served."""


def quoted(name: str) -> str:
    """Format a name for a message: in quotes, with invisible characters escaped.

    A combining accent is escaped too, because a reader cannot see that it is a separate code point.
    """
    text = repr(name)
    if text.isascii():
        return text
    return "".join(
        char.encode("unicode_escape").decode() if unicodedata.category(char).startswith("M") else char
        for char in text
    )


def shown(uri: str) -> str:
    """Format an address for a message: unchanged if every character is visible, else with `quoted`."""
    text = quoted(uri)
    return uri if uri and text == f"'{uri}'" and " " not in uri else text
