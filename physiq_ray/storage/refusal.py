"""What S3's refusal of a request means: which right is missing, or what is wrong with this one object.

S3 answers AccessDenied for a role without rights, for a locked object and for an object whose KMS key the
role may not use. Only its message distinguishes them, so our sentences contain the message too.
"""

import re
from typing import Final

from botocore.exceptions import ClientError

from physiq_ray.errors import DeniedError

BAD_KEYS: Final = {
    *("InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "AuthFailure"),
}
BAD_CLOCK: Final = "RequestTimeTooSkewed"
MAX_MESSAGE: Final = 400  # characters; S3's longest message names a role, an action and a resource

_ARCHIVED = {"InvalidObjectState", "ObjectNotInActiveTierError"}
_LOCKED = ("object lock", "legal hold", "retention", "worm protected")
_ACTION = re.compile(r"not authorized to perform: ([\w-]+:\w+)(?: on resource: \"?([^\s\"]+))?")


def read_error(error: ClientError) -> tuple[str, str, int]:
    """Give S3's code, its message without line breaks, and the HTTP status."""
    fields = error.response.get("Error", {})
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    message = " ".join(str(fields.get("Message") or "").split())
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}…"
    return str(fields.get("Code") or ""), message, status


def with_message(sentence: str, message: str) -> str:
    """Append S3's own message."""
    return f"{sentence} (S3: {message})" if message else sentence


def find_object_fault(code: str, message: str) -> str | None:
    """Say what is wrong with the one requested object, and the remedy; None if the fault is another."""
    action, resource = _find_action(message)
    words = message.lower() if action is None else ""  # the name of a resource may contain such a word
    if code in _ARCHIVED:
        return "the object is in an archive class (Glacier): restore it, then try again"
    if any(lock in words for lock in _LOCKED):
        return "the object is locked: wait until its retention ends, or remove its legal hold"
    if action is not None and action.startswith("kms:"):
        return f"the role or key needs {action} on {resource or 'the KMS key'}, which encrypts the object"
    if code.startswith("KMS.") or "kms:" in words:
        return "the object's KMS key cannot be used: check the key's state and its policy"
    return None


def describe_right(message: str, right: str) -> str:
    """Say what the role or key needs: what S3's message names, or else `right`, which the caller knows."""
    action, resource = _find_action(message)
    if action is None or action in right:
        return right
    return f"{action} on {resource}" if resource else action


def find_missing_right(error: BaseException | None) -> str | None:
    """Give the action that the role or key lacks, such as s3:GetObject; "" if S3 does not name it.

    None: the error has another cause, such as wrong credentials or an archived object.
    """
    cause = error.__cause__ if isinstance(error, DeniedError) else None
    if not isinstance(cause, ClientError):
        return None
    code, message, _ = read_error(cause)
    if code in BAD_KEYS or code == BAD_CLOCK:
        return None
    return _find_action(message)[0] or ""


def _find_action(message: str) -> tuple[str | None, str | None]:
    found = _ACTION.search(message)
    return (found[1], found[2]) if found else (None, None)
