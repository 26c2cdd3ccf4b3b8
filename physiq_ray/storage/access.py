"""How requests to buckets are sent: unsigned, at the requester's cost, without a proxy.

The first two settings concern only the buckets of the sources: a run that reads public photos without a
signature still writes its model with its own credentials.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from botocore import UNSIGNED

from physiq_ray.machine import is_loopback

_IS_ANONYMOUS = "physiq_is_anonymous"  # in the context that botocore carries through a request


@dataclass(frozen=True)
class Access:
    """The names of buckets that get unsigned requests, and of those whose requests we pay for.

    These are plain values: they travel with the photos' addresses to the processes that read them.
    """

    anonymous: frozenset[str] = frozenset()
    requester_pays: frozenset[str] = frozenset()

    def with_buckets(self, names: Iterable[str], *, anonymous: bool, requester_pays: bool) -> "Access":
        """Give the access with these settings for these buckets; other buckets keep theirs."""
        changed = frozenset(names)
        return Access(
            self.anonymous | changed if anonymous else self.anonymous - changed,
            self.requester_pays | changed if requester_pays else self.requester_pays - changed,
        )


def register(events: Any, current: Callable[[], Access]) -> None:
    """Make a boto3 client apply, to every operation, the access that `current` gives at that moment."""

    def set_payer(params: dict[str, Any], model: Any, context: dict[str, Any], **_: Any) -> None:
        access, bucket = current(), params.get("Bucket")
        source = params.get("CopySource")
        asked = {bucket, source.get("Bucket") if isinstance(source, dict) else None}
        if asked & access.requester_pays and "RequestPayer" in model.input_shape.members:
            params.setdefault("RequestPayer", "requester")
        context[_IS_ANONYMOUS] = bucket in access.anonymous

    def choose_signer(context: dict[str, Any], **_: Any) -> Any:
        return UNSIGNED if context.get(_IS_ANONYMOUS) else None

    events.register_first("provide-client-params.s3", set_payer)
    events.register_first("choose-signer.s3", choose_signer)


def is_local(url: str) -> bool:
    """Tell whether an address is that of this machine, which no proxy can reach."""
    return is_loopback(urlsplit(url).hostname or "")
