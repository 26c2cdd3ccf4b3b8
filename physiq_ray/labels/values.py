"""Read single values, by the same rules for JSON, CSV and Parquet.

A pose id is a whole number from 0 to 2³¹ - 1, written as a number or as a text of ASCII digits. Blanks
around it, leading zeros and ".0" are ignored: 7, 7.0, "7", "07", "7.0" and " 7 " are one pose. A blank text,
a null and a NaN (an empty cell of a pandas export) are null.
"""

import json
import re
from decimal import Decimal
from typing import Any

from physiq_ray.constants import TEST, TRAIN, VALIDATION
from physiq_ray.storage.address import is_bucket_name

LARGEST_ID = 2**31 - 1
SPLITS = {
    **{"train": TRAIN, "training": TRAIN},
    **{"validation": VALIDATION, "valid": VALIDATION, "val": VALIDATION},
    **{"test": TEST, "testing": TEST},
}
_WHOLE_NUMBER = re.compile(r"\s*0*([0-9]{1,10})(?:\.0+)?\s*", re.ASCII)
_HALF_CHARACTER = re.compile("[\ud800-\udfff]")
_SHOWN_CHARACTERS = 200


class WrongValueError(ValueError):
    """A value that cannot be read; the message gives the value and the expected form."""


def read_pose_id(value: Any) -> int | None:
    """Read a pose id, None for null.

    Raises WrongValueError: it is not a whole number from 0 to 2³¹ - 1.
    """
    if type(value) is int and 0 <= value <= LARGEST_ID:
        return value
    if is_blank(value):
        return None
    if isinstance(value, str) and (match := _WHOLE_NUMBER.fullmatch(value)):
        value = int(match[1])
    # In Python, True is an int, but it is not a pose id.
    is_number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= LARGEST_ID or value != int(value):
        raise WrongValueError(
            f'{shown(value)}: expected a whole number from 0 to {LARGEST_ID}, such as 7, 7.0 or "7"'
        )
    return int(value)


def read_name(value: Any) -> str:
    """Read the name of a photo, exactly as it is written.

    Raises WrongValueError: it is not a text, is blank, names a folder, or holds half a character.
    """
    if not is_text(value) or value.isspace() or not value or value.endswith("/"):
        raise WrongValueError(f'{shown(value)}: expected the name of a photo, such as "IMG_5001.jpg"')
    name: str = value
    return name


def read_text(value: Any) -> str | None:
    """Read a text without the blanks around it, None for null.

    Raises WrongValueError: it is not a text, or holds half a character.
    """
    if is_blank(value):
        return None
    if not is_text(value):
        raise WrongValueError(f"{shown(value)}: expected a text or null")
    text: str = value.strip()
    return text


def read_bucket(value: Any) -> str | None:
    """Read the name of a bucket as s3://name, None for null; a text that cannot be one is returned as it is.

    Raises WrongValueError: it is not a text, or holds half a character.
    """
    text = read_text(value)
    return f"s3://{text}" if text is not None and is_bucket_name(text) else text


def read_group(value: Any) -> str | None:
    """Read the name of a group, a text or a number: 17, 17.0 and "17.0" are one group. None for null.

    Raises WrongValueError: it is neither a text nor a number.
    """
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool) and not is_blank(value):
        value = str(value)
    text = read_text(value)
    return text if text is None else re.sub(r"^(-?[0-9]+)\.0+$", r"\1", text)


def read_split(value: Any) -> str | None:
    """Read train, validation or test, also in other usual spellings; None for null.

    Raises WrongValueError: it is another value.
    """
    if is_blank(value):
        return None
    split = SPLITS.get(value.strip().lower()) if isinstance(value, str) else None
    if split is None:
        raise WrongValueError(f"{shown(value)}: expected train, validation, test or null")
    return split


def is_blank(value: Any) -> bool:
    """Tell whether a value is null, NaN or a blank text."""
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or (isinstance(value, float | Decimal) and value != value)


def is_text(value: Any) -> bool:
    """Tell whether a value is a text that an S3 key and an Arrow column can hold."""
    # JSON's \ud800 is half a character: Python accepts it, but an S3 key and an Arrow column do not.
    return isinstance(value, str) and (value.isascii() or not _HALF_CHARACTER.search(value))


def shown(value: Any) -> str:
    """Format a value so that unusual characters are visible."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
