"""The encodings of a body: gzip by its Content-Encoding, base64 in JSON."""

import asyncio
import binascii
import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from physiq_ray.serving.refusals import RequestError, too_large

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

GZIP = 16 + zlib.MAX_WBITS
STEP_BYTES = 2**20  # decoded at once, in some milliseconds; then other requests continue
SPACES = b" \t\r\n\f\v"
URL_SAFE = bytes.maketrans(b"-_", b"+/")


def decoded(receive: Receive, encoding: str, max_bytes: int) -> Receive:
    """Wrap the function that gives a request's body so that it decodes the body as it arrives.

    Raises RequestError: 415 an encoding other than gzip. The function returned raises 400 if the body does
    not have that encoding, and 413 if it has more than max_bytes when decoded.
    """
    names = [name.strip().lower() for name in encoding.split(",")]
    names = [name for name in names if name and name != "identity"]
    if not names:
        return receive
    if names not in (["gzip"], ["x-gzip"]):
        raise RequestError(
            415,
            "unsupported_encoding",
            f"Content-Encoding {encoding[:100]!r}: send the body without one, or in gzip",
        )
    gzip = _Gzip(max_bytes)

    async def receive_decoded() -> Message:
        message = await receive()
        if message["type"] != "http.request":
            return message
        has_more = message.get("more_body", False)
        body = await gzip.decode(message.get("body", b""), is_last=not has_more)
        return {"type": "http.request", "body": body, "more_body": has_more}

    return receive_decoded


class _Gzip:
    """Decodes one or more gzip members, one after the other."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._num_bytes = 0
        self._member = zlib.decompressobj(GZIP)
        self._is_empty = True  # no byte has arrived

    async def decode(self, data: bytes, *, is_last: bool) -> bytes:
        """Decode the next bytes.

        Raises RequestError: 400 not gzip, or truncated; 413 more than max_bytes.
        """
        parts, has_more = [], bool(data)
        while has_more:
            if self._member.eof:
                self._member = zlib.decompressobj(GZIP)
            self._is_empty = False
            try:
                parts.append(self._member.decompress(data, STEP_BYTES))
            except zlib.error as error:
                raise _not_gzip("is not gzip") from error
            self._num_bytes += len(parts[-1])
            if self._num_bytes > self._max_bytes:
                raise too_large(self._max_bytes)
            data = self._member.unconsumed_tail or self._member.unused_data
            # After a full step, decoded bytes may be left even if all received bytes are read.
            has_more = bool(data) or (len(parts[-1]) == STEP_BYTES and not self._member.eof)
            if has_more:
                await asyncio.sleep(0)
        if is_last and not self._is_empty and not self._member.eof:
            raise _not_gzip("ends before the end of its gzip data")
        return b"".join(parts)


def _not_gzip(problem: str) -> RequestError:
    return RequestError(400, "bad_encoding", f"Content-Encoding 'gzip': the body {problem}")


def decode_base64(text: str, name: str) -> bytes:
    """Decode a photo in base64 of either alphabet, with or without line breaks, or a data: address of it.

    name: of its field, for the message. Raises RequestError: 400 it is not base64.
    """
    if text[:5].lower() == "data:":
        kind, comma, text = text.partition(",")
        if not comma or not kind.lower().endswith(";base64"):
            raise _not_base64(name, "its data: address is not data:image/…;base64,…")
    try:
        data = text.encode("ascii").translate(URL_SAFE, SPACES).rstrip(b"=")
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4), strict_mode=True)
    except (UnicodeEncodeError, binascii.Error) as error:
        raise _not_base64(name, "it has other characters, or ends too early") from error


def _not_base64(name: str, problem: str) -> RequestError:
    return RequestError(400, "bad_base64", f"{name!r} is not a photo in base64: {problem}")
